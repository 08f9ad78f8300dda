"""What is asked of Postgres, apart from how it is sent.

Work of several statements is a generator: it yields steps, is sent what each gave, and returns a result. It does no
I/O, so that it is written once; `perform` runs it on a connection, `perform_async` on an asynchronous one. An error of
a step is raised in the generator, at the step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import psycopg

from qvec.steps import run, run_async

if TYPE_CHECKING:
    from psycopg.sql import SQL, Composed
    from typing_extensions import LiteralString

    Statement = LiteralString | bytes | SQL | Composed

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]
Rows = list[tuple[Any, ...]]

T = TypeVar("T")


class Step(Protocol):
    """One thing that a connection is asked for."""

    def perform(self, connection: Connection, /) -> Any: ...

    async def perform_async(self, connection: AsyncConnection, /) -> Any: ...


Steps = Generator[Step, Any, T]
Work = Callable[[], Steps[T]]
"""Begins the steps; called again, it begins them anew."""


def perform(connection: Connection, steps: Steps[T]) -> T:
    """Runs steps on a connection, and returns what they return."""
    return run(steps, lambda step: step.perform(connection))


async def perform_async(connection: AsyncConnection, steps: Steps[T]) -> T:
    """Runs steps on an asynchronous connection, and returns what they return."""
    return await run_async(steps, lambda step: step.perform_async(connection))


@dataclass(frozen=True, slots=True)
class Fetch:
    """All rows of a statement, a list of tuples."""

    statement: Statement
    parameters: Any = None
    binary: bool = False
    prepare: bool | None = None
    """False where each execution is planned for its own parameters; None leaves it to psycopg."""

    def perform(self, connection: Connection) -> Rows:
        with connection.cursor(binary=self.binary) as cursor:
            return cursor.execute(self.statement, self.parameters, prepare=self.prepare).fetchall()

    async def perform_async(self, connection: AsyncConnection) -> Rows:
        async with connection.cursor(binary=self.binary) as cursor:
            await cursor.execute(self.statement, self.parameters, prepare=self.prepare)
            return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class FetchEach:
    """All rows of a statement for each set of parameters, a list for each, in one round trip."""

    statement: Statement
    parameters: Sequence[Any]
    binary: bool = False
    prepare: bool | None = None

    def perform(self, connection: Connection) -> list[Rows]:
        with connection.pipeline():
            cursors = [connection.cursor(binary=self.binary) for _ in self.parameters]
            for cursor, parameters in zip(cursors, self.parameters, strict=True):
                cursor.execute(self.statement, parameters, prepare=self.prepare)
        return [cursor.fetchall() for cursor in cursors]

    async def perform_async(self, connection: AsyncConnection) -> list[Rows]:
        async with connection.pipeline():
            cursors = [connection.cursor(binary=self.binary) for _ in self.parameters]
            for cursor, parameters in zip(cursors, self.parameters, strict=True):
                await cursor.execute(self.statement, parameters, prepare=self.prepare)
        return [await cursor.fetchall() for cursor in cursors]


@dataclass(frozen=True, slots=True)
class Execute:
    """How many rows a statement touched."""

    statement: Statement
    parameters: Any = None

    def perform(self, connection: Connection) -> int:
        return connection.execute(self.statement, self.parameters).rowcount

    async def perform_async(self, connection: AsyncConnection) -> int:
        return (await connection.execute(self.statement, self.parameters)).rowcount


@dataclass(frozen=True, slots=True)
class Copy:
    """How many rows a COPY FROM STDIN wrote; whose data comes in blocks."""

    statement: Statement
    blocks: Iterable[bytes | memoryview]

    def perform(self, connection: Connection) -> int:
        with connection.cursor() as cursor:
            with cursor.copy(self.statement) as copy:
                for block in self.blocks:
                    copy.write(block)
            return cursor.rowcount

    async def perform_async(self, connection: AsyncConnection) -> int:
        async with connection.cursor() as cursor:
            async with cursor.copy(self.statement) as copy:
                for block in self.blocks:
                    await copy.write(block)
            return cursor.rowcount


@dataclass(frozen=True, slots=True)
class Scan:
    """Gives all rows of a statement to a function, so many at a time."""

    statement: Statement
    parameters: Mapping[str, Any]
    size: int
    each: Callable[[Rows], None]

    def perform(self, connection: Connection) -> None:
        with closing(chunks(connection, self.statement, self.parameters, self.size)) as found:
            for rows in found:
                self.each(rows)

    async def perform_async(self, connection: AsyncConnection) -> None:
        async with aclosing(chunks_async(connection, self.statement, self.parameters, self.size)) as found:
            async for rows in found:
                await asyncio.to_thread(self.each, rows)  # ranking thousands of rows would hold up the loop


@dataclass(frozen=True, slots=True)
class Transaction(Generic[T]):
    """What other steps return, run in a transaction, or inside one in a savepoint."""

    steps: Steps[T]

    def perform(self, connection: Connection) -> T:
        with connection.transaction():
            return perform(connection, self.steps)

    async def perform_async(self, connection: AsyncConnection) -> T:
        async with connection.transaction():
            return await perform_async(connection, self.steps)


def without_limit(statement: Statement) -> Steps[None]:
    """Executes a statement that reads or writes a whole table, whatever limit the session has for others."""
    yield from unlimited(_execute(statement))


def unlimited(steps: Steps[T]) -> Steps[T]:
    """Steps that may wait for those of others on a whole table, whatever limit the session has for statements."""
    result: T = yield Transaction(_unlimited(steps))
    return result


def _unlimited(steps: Steps[T]) -> Steps[T]:
    yield Execute("SET LOCAL statement_timeout = 0")
    return (yield from steps)


def _execute(statement: Statement) -> Steps[None]:
    yield Execute(statement)


@dataclass(frozen=True, slots=True)
class Server:
    """What the connection knows of its server and user: psycopg's `ConnectionInfo`."""

    def perform(self, connection: Connection) -> psycopg.ConnectionInfo:
        return connection.info

    async def perform_async(self, connection: AsyncConnection) -> psycopg.ConnectionInfo:
        return connection.info


_SCAN = "qvec_scan"
"""Name of the cursor that a scan holds."""


def chunks(
    connection: Connection, statement: Statement, parameters: Mapping[str, Any], size: int
) -> Generator[Rows, None, None]:
    """The rows of a statement, so many at a time; closed by who may not read them all, for it holds a transaction."""
    with connection.transaction(), connection.cursor(_SCAN, binary=True) as cursor:
        cursor.execute(statement, parameters)
        while rows := cursor.fetchmany(size):
            yield rows


async def chunks_async(
    connection: AsyncConnection, statement: Statement, parameters: Mapping[str, Any], size: int
) -> AsyncGenerator[Rows, None]:
    """As `chunks`."""
    async with connection.transaction():
        cursor = connection.cursor(_SCAN, binary=True)
        try:
            await cursor.execute(statement, parameters)
            while rows := await cursor.fetchmany(size):
                yield rows
            await cursor.close()
        except BaseException:  # cancelled, or closed early: the rollback closes it on the server
            await psycopg.AsyncCursor.close(cursor)
            raise
