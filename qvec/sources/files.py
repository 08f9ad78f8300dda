"""Reading files: decompression, standard input, fingerprints, and library errors that name the file."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from qvec.errors import InputError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BUFFER_BYTES = 1 << 20
FINGERPRINT_BLOCK_BYTES = 64 * 1024
FINGERPRINT_BLOCKS = 16


def open_text(file: Path) -> BinaryIO:
    """Open a file of bytes, decompressed if its name ends in .gz or .zst."""
    compression = COMPRESSIONS.get(file.suffix.lower())
    if compression is None:
        return file.open("rb", BUFFER_BYTES)
    raw: Any = pa.CompressedInputStream(pa.OSFile(str(file)), compression)
    return io.BufferedReader(raw, BUFFER_BYTES)


@contextmanager
def read_errors(file: Path | str, format: str) -> Iterator[None]:
    """Turn what Arrow or the operating system reports about a damaged file into an InputError."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{file} cannot be read as {format}: {reason}") from error


def fingerprint_files(files: Sequence[Path]) -> str:
    """Return 32 hex digits of each file's name, size, modification time, and of blocks spread from first to last.

    They change with the content, and a large file is not read as a whole.
    """
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        last = max(status.st_size - FINGERPRINT_BLOCK_BYTES, 0)
        with file.open("rb", buffering=0) as stream:
            for offset in sorted({last * block // (FINGERPRINT_BLOCKS - 1) for block in range(FINGERPRINT_BLOCKS)}):
                stream.seek(offset)
                digest.update(stream.read(FINGERPRINT_BLOCK_BYTES))
    return digest.hexdigest()[:32]


class Spool:
    """Standard input copied to a temporary file, so that it can be read more than once."""

    def __init__(self, stream: BinaryIO) -> None:
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(prefix="qvec-", suffix=".spool", delete=False) as copy:
            self.file = Path(copy.name)
            try:
                while block := stream.read(BUFFER_BYTES):
                    digest.update(block)
                    copy.write(block)
            except BaseException:
                self.close()
                raise
        self.fingerprint = digest.hexdigest()

    def close(self) -> None:
        """Delete the copy."""
        self.file.unlink(missing_ok=True)
