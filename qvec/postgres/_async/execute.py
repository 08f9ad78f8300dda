"""Sending statements: rows fetched, streamed and copied over one connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from qvec.postgres._async.session import AsyncConnection
from qvec.waiting import in_thread_async

if TYPE_CHECKING:
    from psycopg.sql import SQL, Composed
    from typing_extensions import LiteralString

    Statement = LiteralString | bytes | SQL | Composed

Rows = list[tuple[Any, ...]]

_CURSOR = "qvec_scan"
"""Name of the server-side cursor of a scan."""


async def fetch(
    connection: AsyncConnection,
    statement: Statement,
    parameters: Any = None,
    *,
    binary: bool = False,
    prepare: bool | None = None,
) -> Rows:
    """Return all rows of a statement. `prepare` False plans each execution for its own parameters."""
    async with connection.cursor(binary=binary) as cursor:
        await cursor.execute(statement, parameters, prepare=prepare)
        return await cursor.fetchall()


async def fetch_each(
    connection: AsyncConnection,
    statement: Statement,
    parameters: Sequence[Any],
    *,
    binary: bool = False,
    prepare: bool | None = None,
) -> list[Rows]:
    """Return all rows of a statement for each set of parameters, in one round trip."""
    async with connection.pipeline():
        cursors = [connection.cursor(binary=binary) for _ in parameters]
        for cursor, values in zip(cursors, parameters, strict=True):
            await cursor.execute(statement, values, prepare=prepare)
    return [await cursor.fetchall() for cursor in cursors]


async def execute(connection: AsyncConnection, statement: Statement, parameters: Any = None) -> int:
    """Execute a statement; return the number of rows that it touched."""
    return (await connection.execute(statement, parameters)).rowcount


async def copy(connection: AsyncConnection, statement: Statement, blocks: Iterable[bytes | memoryview]) -> int:
    """Send the data of a COPY FROM STDIN in blocks; return the number of rows written."""
    async with connection.cursor() as cursor:
        async with cursor.copy(statement) as copying:
            for block in blocks:
                await copying.write(block)
        return cursor.rowcount


async def chunks(
    connection: AsyncConnection, statement: Statement, parameters: Mapping[str, Any], size: int
) -> AsyncGenerator[Rows, None]:
    """Yield the rows of a statement, at most `size` at a time. Close the iterator if it is not read to its end: it
    holds a transaction."""
    async with connection.transaction():
        cursor = connection.cursor(_CURSOR, binary=True)
        try:
            await cursor.execute(statement, parameters)
            while rows := await cursor.fetchmany(size):
                yield rows
            await cursor.close()
        except BaseException:  # cancelled, or closed early: the rollback closes the cursor on the server
            await psycopg.AsyncCursor.close(cursor)
            raise


async def scan(
    connection: AsyncConnection,
    statement: Statement,
    parameters: Mapping[str, Any],
    size: int,
    each: Callable[[Rows], None],
) -> None:
    """Hand all rows of a statement to a function, at most `size` at a time."""
    async with aclosing(chunks(connection, statement, parameters, size)) as found:
        async for rows in found:
            await in_thread_async(each, rows)  # ranking thousands of rows would block the event loop


@asynccontextmanager
async def without_time_limit(connection: AsyncConnection) -> AsyncIterator[None]:
    """Lift the session's time limit, for work that reads, writes or waits for a whole table."""
    async with connection.transaction():
        await connection.execute("SET LOCAL statement_timeout = 0")
        yield


async def execute_unlimited(connection: AsyncConnection, statement: Statement) -> None:
    """Execute a statement on a whole table without the session's time limit."""
    async with without_time_limit(connection):
        await connection.execute(statement)
