"""The errors qvec raises on purpose.

QvecError
├── InputError        an invalid file, row, option or array
│   └── RowError      one invalid row; has its number
├── CalibrationError  a calibration is damaged, not one of qvec, or not the one needed
├── CollectionError   a collection is missing, exists already, or does not fit the request
├── DatabaseError     the database refused, is unreachable, or lacks something
├── EmbeddingError    an embedding server refused, is unreachable, or answered wrongly
└── MissingExtraError an optional package is not installed

Each message is one or two sentences for the user: the thing, the value found, the value wanted, and what to do.
"""

from __future__ import annotations


class QvecError(Exception):
    """Base of every error qvec raises on purpose."""


class InputError(QvecError):
    """An invalid file, row, option or array."""


class RowError(InputError):
    """One invalid row: `row` is its number (from 0) in the array or source, `reason` tells why it is invalid."""

    def __init__(self, row: int, reason: str, where: str = "") -> None:
        super().__init__(f"{where + ': ' if where else ''}row {row}: {reason}")
        self.row = row
        self.reason = reason


class CalibrationError(QvecError):
    """A calibration is damaged, not one of qvec, or not the one needed."""


class CollectionError(QvecError):
    """A collection is missing, exists already, or does not fit the request."""


class DatabaseError(QvecError):
    """The database refused, is unreachable, or lacks something."""


class EmbeddingError(QvecError):
    """An embedding server refused, is unreachable, or answered wrongly."""


class MissingExtraError(QvecError):
    """An optional package is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'qvec[{extra}]'")
