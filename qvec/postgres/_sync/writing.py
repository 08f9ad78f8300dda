# Generated from qvec/postgres/_async/writing.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""Writing rows: COPY into the table while no id repeats, by way of a staging table where one may."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import errors
from psycopg.sql import SQL, Identifier

from qvec.errors import CollectionError
from qvec.postgres import statements
from qvec.postgres._sync.execute import copy, execute, fetch
from qvec.postgres._sync.session import Connection
from qvec.postgres.errors import RecalibratedError
from qvec.postgres.layout import Table
from qvec.postgres.rows import HEADER, TRAILER
from qvec.store.requests import OnDuplicate

_WRITE_BYTES = 1 << 20


def copy_rows(connection: Connection, table: Table, rows: bytes) -> int:
    """Copy encoded rows into the table; return their number. Raise UniqueViolation for an id that exists."""
    return _copy(connection, table.identifier, table, rows)


def merge_rows(connection: Connection, table: Table, rows: bytes, on_duplicate: OnDuplicate) -> int:
    """Copy encoded rows by way of a staging table, inside a transaction; return the number written."""
    if on_duplicate == "error":
        return _insert_new(connection, table, rows)
    execute(connection, statements.create_staging(table))
    _copy(connection, statements.STAGING, table, rows)
    written = execute(connection, statements.merge_staging(table, on_duplicate))
    execute(connection, SQL("DROP TABLE {}").format(statements.STAGING))
    return written


def _insert_new(connection: Connection, table: Table, rows: bytes) -> int:
    try:
        with connection.transaction():
            return _copy(connection, table.identifier, table, rows)
    except errors.UniqueViolation as error:
        found = (error.diag.message_detail or "").removesuffix(" already exists.")
        raise CollectionError(
            f"{found or 'an id'} exists already; to replace or skip such rows, set on_duplicate (--on-duplicate)"
        ) from None


def _copy(connection: Connection, target: Identifier, table: Table, rows: bytes) -> int:
    return copy(connection, statements.copy_into(target, table), _blocks(rows))


def _blocks(rows: bytes) -> Iterator[bytes | memoryview]:
    yield HEADER
    view = memoryview(rows)
    for start in range(0, len(view), _WRITE_BYTES):
        yield view[start : start + _WRITE_BYTES]
    yield TRAILER


def check_calibration(connection: Connection, collection: str, calibration: str, table: Table) -> None:
    """Lock the table against a version switch until the transaction ends.

    Raise RecalibratedError where the collection has another calibration than the codes that are about to be written,
    CollectionError where it was dropped.
    """
    try:
        execute(connection, SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(table.identifier))
    except errors.UndefinedTable:
        raise CollectionError(f"collection {collection!r} was dropped since it was opened; open it again") from None
    found = fetch(connection, "SELECT calibration FROM qvec.collection WHERE name = %s", [collection])
    if not found or found[0][0] != calibration:
        raise RecalibratedError(collection)
