"""The file of rejected rows: appended to, and cut back to the last checkpoint when a load resumes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from qvec.errors import InputError
from qvec.sources import RejectedRow


class RejectsFile:
    """JSON Lines of rejected rows with their reasons. Without a path the rows are only counted."""

    def __init__(self, path: Path | None, resume_at: int | None) -> None:
        """`resume_at` is the size at the checkpoint that is resumed; what was written after it is written again."""
        self._file = None
        if path is None:
            return
        try:
            self._file = path.open("ab")
            if resume_at is not None and self._file.tell() > resume_at:
                self._file.truncate(resume_at)
                self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"cannot write the rejects file {path}: {error.strerror}") from None

    @property
    def size(self) -> int:
        return self._file.tell() if self._file else 0

    def write(self, rejected: Sequence[RejectedRow]) -> None:
        """Writes rows through to the operating system, so that a killed load has them."""
        if self._file and rejected:
            for row in rejected:
                self._file.write(json.dumps(asdict(row), ensure_ascii=False).encode() + b"\n")
            self._file.flush()

    def __enter__(self) -> RejectsFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file:
            self._file.close()
