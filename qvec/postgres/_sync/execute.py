# Generated from qvec/postgres/_async/execute.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""Sending statements: rows fetched, streamed and copied over one connection."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from qvec.postgres._sync.session import Connection
from qvec.waiting import in_thread

if TYPE_CHECKING:
    from psycopg.sql import SQL, Composed
    from typing_extensions import LiteralString

    Statement = LiteralString | bytes | SQL | Composed

Rows = list[tuple[Any, ...]]

_CURSOR = "qvec_scan"
"""Name of the server-side cursor of a scan."""


def fetch(
    connection: Connection,
    statement: Statement,
    parameters: Any = None,
    *,
    binary: bool = False,
    prepare: bool | None = None,
) -> Rows:
    """Return all rows of a statement. `prepare` False plans each execution for its own parameters."""
    with connection.cursor(binary=binary) as cursor:
        cursor.execute(statement, parameters, prepare=prepare)
        return cursor.fetchall()


def fetch_each(
    connection: Connection,
    statement: Statement,
    parameters: Sequence[Any],
    *,
    binary: bool = False,
    prepare: bool | None = None,
) -> list[Rows]:
    """Return all rows of a statement for each set of parameters, in one round trip."""
    with connection.pipeline():
        cursors = [connection.cursor(binary=binary) for _ in parameters]
        for cursor, values in zip(cursors, parameters, strict=True):
            cursor.execute(statement, values, prepare=prepare)
    return [cursor.fetchall() for cursor in cursors]


def execute(connection: Connection, statement: Statement, parameters: Any = None) -> int:
    """Execute a statement; return the number of rows that it touched."""
    return connection.execute(statement, parameters).rowcount


def copy(connection: Connection, statement: Statement, blocks: Iterable[bytes | memoryview]) -> int:
    """Send the data of a COPY FROM STDIN in blocks; return the number of rows written."""
    with connection.cursor() as cursor:
        with cursor.copy(statement) as copying:
            for block in blocks:
                copying.write(block)
        return cursor.rowcount


def chunks(
    connection: Connection, statement: Statement, parameters: Mapping[str, Any], size: int
) -> Generator[Rows, None, None]:
    """Yield the rows of a statement, at most `size` at a time. Close the iterator if it is not read to its end: it
    holds a transaction."""
    with connection.transaction():
        cursor = connection.cursor(_CURSOR, binary=True)
        try:
            cursor.execute(statement, parameters)
            while rows := cursor.fetchmany(size):
                yield rows
            cursor.close()
        except BaseException:  # cancelled, or closed early: the rollback closes the cursor on the server
            psycopg.Cursor.close(cursor)
            raise


def scan(
    connection: Connection,
    statement: Statement,
    parameters: Mapping[str, Any],
    size: int,
    each: Callable[[Rows], None],
) -> None:
    """Hand all rows of a statement to a function, at most `size` at a time."""
    with closing(chunks(connection, statement, parameters, size)) as found:
        for rows in found:
            in_thread(each, rows)  # ranking thousands of rows would block the event loop


@contextmanager
def without_time_limit(connection: Connection) -> Iterator[None]:
    """Lift the session's time limit, for work that reads, writes or waits for a whole table."""
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        yield


def execute_unlimited(connection: Connection, statement: Statement) -> None:
    """Execute a statement on a whole table without the session's time limit."""
    with without_time_limit(connection):
        connection.execute(statement)
