"""Writing rows: COPY into the table while no id repeats, by way of a staging table where one may."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg import errors
from psycopg.sql import SQL, Identifier

from qvec.errors import CollectionError
from qvec.postgres import statements
from qvec.postgres._async.execute import copy, execute, fetch
from qvec.postgres._async.session import AsyncConnection
from qvec.postgres.errors import RecalibratedError
from qvec.postgres.layout import Table
from qvec.postgres.rows import HEADER, TRAILER
from qvec.store.requests import OnDuplicate

_WRITE_BYTES = 1 << 20


async def copy_rows(connection: AsyncConnection, table: Table, rows: bytes) -> int:
    """Copy encoded rows into the table; return their number. Raise UniqueViolation for an id that exists."""
    return await _copy(connection, table.identifier, table, rows)


async def merge_rows(connection: AsyncConnection, table: Table, rows: bytes, on_duplicate: OnDuplicate) -> int:
    """Copy encoded rows by way of a staging table, inside a transaction; return the number written."""
    if on_duplicate == "error":
        return await _insert_new(connection, table, rows)
    await execute(connection, statements.create_staging(table))
    await _copy(connection, statements.STAGING, table, rows)
    written = await execute(connection, statements.merge_staging(table, on_duplicate))
    await execute(connection, SQL("DROP TABLE {}").format(statements.STAGING))
    return written


async def _insert_new(connection: AsyncConnection, table: Table, rows: bytes) -> int:
    try:
        async with connection.transaction():
            return await _copy(connection, table.identifier, table, rows)
    except errors.UniqueViolation as error:
        found = (error.diag.message_detail or "").removesuffix(" already exists.")
        raise CollectionError(
            f"{found or 'an id'} exists already; to replace or skip such rows, set on_duplicate (--on-duplicate)"
        ) from None


async def _copy(connection: AsyncConnection, target: Identifier, table: Table, rows: bytes) -> int:
    return await copy(connection, statements.copy_into(target, table), _blocks(rows))


def _blocks(rows: bytes) -> Iterator[bytes | memoryview]:
    yield HEADER
    view = memoryview(rows)
    for start in range(0, len(view), _WRITE_BYTES):
        yield view[start : start + _WRITE_BYTES]
    yield TRAILER


async def check_calibration(connection: AsyncConnection, collection: str, calibration: str, table: Table) -> None:
    """Lock the table against a version switch until the transaction ends.

    Raise RecalibratedError where the collection has another calibration than the codes that are about to be written,
    CollectionError where it was dropped.
    """
    try:
        await execute(connection, SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(table.identifier))
    except errors.UndefinedTable:
        raise CollectionError(f"collection {collection!r} was dropped since it was opened; open it again") from None
    found = await fetch(connection, "SELECT calibration FROM qvec.collection WHERE name = %s", [collection])
    if not found or found[0][0] != calibration:
        raise RecalibratedError(collection)
