"""Text files and pipes as streams of lines, compressed or not."""

from __future__ import annotations

import hashlib
import io
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BUFFER_BYTES = 1 << 20


def open_text(file: Path) -> BinaryIO:
    """The file's bytes, decompressed where its name ends in .gz or .zst."""
    compression = COMPRESSIONS.get(file.suffix.lower())
    if compression is None:
        return file.open("rb", BUFFER_BYTES)
    raw: Any = pa.CompressedInputStream(pa.OSFile(str(file)), compression)
    return io.BufferedReader(raw, BUFFER_BYTES)


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
