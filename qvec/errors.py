"""The errors qvec raises on purpose.

QvecError
├── InputError        a file, row, option or array that cannot be used as it is
│   └── RowError      one row of it; knows which
├── CalibrationError  a calibration that is damaged, foreign, or not the one needed
├── CollectionError   a collection that is missing, exists already, or does not fit the request
├── DatabaseError     the database refused, is unreachable, or lacks something
├── EmbeddingError    a server of embeddings refused, is unreachable, or answered wrongly
└── MissingExtraError an optional package is not installed

The message of each is one sentence or two for the user: the thing, the value found, the value wanted, what to do.
"""

from __future__ import annotations


class QvecError(Exception):
    """Base of every error qvec raises on purpose."""


class InputError(QvecError):
    """A file, row, option or array that cannot be used as it is."""


class RowError(InputError):
    """One row that cannot be used. `row` is its position (from 0) in the array or source, `reason` says why."""

    def __init__(self, row: int, reason: str, where: str = "") -> None:
        super().__init__(f"{where + ': ' if where else ''}row {row}: {reason}")
        self.row = row
        self.reason = reason


class CalibrationError(QvecError):
    """A calibration that is damaged, foreign, or not the one needed."""


class CollectionError(QvecError):
    """A collection that is missing, exists already, or does not fit the request."""


class DatabaseError(QvecError):
    """The database refused, is unreachable, or lacks something."""


class EmbeddingError(QvecError):
    """A server of embeddings refused, is unreachable, or answered wrongly."""


class MissingExtraError(QvecError):
    """An optional package is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'qvec[{extra}]'")
