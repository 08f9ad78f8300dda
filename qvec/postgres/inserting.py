"""Writing rows: COPY straight into the table while no id repeats, through a staging table when one may."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import errors
from psycopg.sql import SQL, Identifier

from qvec.errors import CollectionError
from qvec.loading import OnDuplicate
from qvec.postgres import statements
from qvec.postgres.layout import Table
from qvec.postgres.rows import HEADER, TRAILER
from qvec.postgres.steps import Copy, Execute, Fetch, Steps, Transaction

_WRITE_BYTES = 1 << 20


def copy_rows(table: Table, rows: bytes) -> Steps[int]:
    """Copies encoded rows into the table and returns how many; an id that is there raises UniqueViolation."""
    return _copy(table.identifier, table, rows)


def merge_rows(table: Table, rows: bytes, on_duplicate: OnDuplicate) -> Steps[int]:
    """Copies encoded rows by way of a staging table, inside a transaction; returns how many were written."""
    if on_duplicate == "error":
        return (yield from _insert_new(table, rows))
    yield Execute(statements.create_staging(table))
    yield from _copy(statements.STAGING, table, rows)
    written: int = yield Execute(statements.merge_staging(table, on_duplicate))
    yield Execute(SQL("DROP TABLE {}").format(statements.STAGING))
    return written


def _insert_new(table: Table, rows: bytes) -> Steps[int]:
    try:
        written: int = yield Transaction(_copy(table.identifier, table, rows))
    except errors.UniqueViolation as error:
        found = (error.diag.message_detail or "").removesuffix(" already exists.")
        raise CollectionError(
            f"{found or 'an id'} is there already; to replace or skip such rows, say so (on_duplicate, --on-duplicate)"
        ) from None
    return written


def _copy(target: Identifier, table: Table, rows: bytes) -> Steps[int]:
    written: int = yield Copy(statements.copy_into(target, table), _blocks(rows))
    return written


def _blocks(rows: bytes) -> Iterator[bytes | memoryview]:
    yield HEADER
    view = memoryview(rows)
    for start in range(0, len(view), _WRITE_BYTES):
        yield view[start : start + _WRITE_BYTES]
    yield TRAILER


class RecalibratedError(CollectionError):
    """A collection has another calibration than codes that are about to be read or written."""

    def __init__(self, collection: str) -> None:
        super().__init__(f"collection {collection!r} was recalibrated since it was opened; open it again")


def check_calibration(collection: str, calibration: str, table: Table) -> Steps[None]:
    """Raises RecalibratedError when the collection has another calibration than codes that are about to be written,
    CollectionError when it was dropped. Until the transaction ends its table is not exchanged for another version."""
    try:
        yield Execute(SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(table.identifier))
    except errors.UndefinedTable:
        raise CollectionError(f"collection {collection!r} was dropped since it was opened; open it again") from None
    found = yield Fetch("SELECT calibration FROM qvec.collection WHERE name = %s", [collection])
    if not found or found[0][0] != calibration:
        raise RecalibratedError(collection)
