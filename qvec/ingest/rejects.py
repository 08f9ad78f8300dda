"""The file of rejected rows: append-only, with each row once however often a load is interrupted."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from qvec.errors import InputError
from qvec.sources import RejectedRow

_TORN = b'{"row": '


class RejectsFile:
    """JSON Lines of rejected rows with their reasons. Without a path the rows are only counted.

    Rows are written before their batch commits, so rows behind the checkpoint's size may come again: those lines are
    remembered and not written twice. Only half a line is ever cut off; the file may hold rows of other loads.
    """

    def __init__(self, path: Path | None, committed: int) -> None:
        """`committed` is the file's size at the checkpoint where the load starts."""
        self._path = path
        self._file: BinaryIO | None = None
        self._seekable = False
        self._written: set[bytes] = set()
        if path is not None:
            with self._writing():
                self._seekable = path.is_file() or not path.exists()
                self._file = path.open("a+b" if self._seekable else "ab")
            self.resume(committed)

    @property
    def size(self) -> int:
        """Size of the file in bytes; 0 for a device or pipe."""
        return self._file.seek(0, os.SEEK_END) if self._file and self._seekable else 0

    def resume(self, committed: int) -> None:
        """Continue at a checkpoint, where the file had `committed` bytes."""
        if self._file is None or not self._seekable:
            return
        with self._writing():
            self._file.seek(committed)
            line = b"\n"
            self._written.clear()
            for line in self._file:
                self._written.add(_digest(line))
            if not line.endswith(b"\n"):
                self._end_line(self._file, line)

    def _end_line(self, file: BinaryIO, line: bytes) -> None:
        """Cut off half a line of a killed load; end an unfinished line of another program."""
        if line.startswith(_TORN):
            file.truncate(self.size - len(line))
        else:
            file.write(b"\n")

    def write(self, rejected: Sequence[RejectedRow]) -> None:
        """Write rows and flush them to the operating system, so that they survive a killed load."""
        if self._file is None or not rejected:
            return
        with self._writing():
            for row in rejected:
                line = json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n"
                digest = _digest(line)
                if digest in self._written:
                    self._written.remove(digest)
                else:
                    self._file.write(line)
            self._file.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write the rejects file {self._path}: {error.strerror}") from None

    def __enter__(self) -> RejectsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            with suppress(OSError):  # everything was flushed, or the error was raised
                self._file.close()


def _digest(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()
