"""Errors of the libraries that read files, as errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from qvec.errors import InputError


@contextmanager
def reading(file: Path | str, kind: str) -> Iterator[None]:
    """Turn what Arrow or the system says about a damaged file into an InputError."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise InputError(f"{file} cannot be read as {kind}: {reason}") from error
