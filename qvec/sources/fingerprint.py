"""Noticing that a file has changed without reading all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

BLOCK_BYTES = 64 * 1024
BLOCKS = 16


def fingerprint_files(files: Sequence[Path]) -> str:
    """32 hex digits from each file's name, size, modification time, and blocks spread from first to last."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        _hash_blocks(file, status.st_size, digest.update)
    return digest.hexdigest()[:32]


def _hash_blocks(file: Path, size: int, update: Callable[[bytes], object]) -> None:
    last = max(size - BLOCK_BYTES, 0)
    with file.open("rb", buffering=0) as stream:
        for offset in sorted({last * block // (BLOCKS - 1) for block in range(BLOCKS)}):
            stream.seek(offset)
            update(stream.read(BLOCK_BYTES))
