"""The connections to a database: direct ones and those of the pool, watched for breaks."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import psycopg

from qvec.postgres._async.session import AsyncConnection
from qvec.postgres.connect_errors import check_url, wrap_connect_errors
from qvec.postgres.errors import connection_lost, recovery_conflict
from qvec.postgres.pools import AsyncPool, adapt, answering_within, connect_arguments
from qvec.store.connect_options import ConnectOptions, redact
from qvec.store.scope import operation
from qvec.waiting import sleep_async

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
"""Work on a connection that may be done twice."""

_LOG = logging.getLogger("qvec.postgres")

_PAUSES = (0.0, 0.1, 0.5)
"""Seconds before each further try of a read whose connection was lost."""


class AsyncConnections:
    """Opens and shares the connections to one database."""

    def __init__(
        self, url: str, name: str | None, options: ConnectOptions, join: Callable[[], object] = lambda: None
    ) -> None:
        """`name` stands for the database in messages; a forked process calls `join` before its first connection.

        Raise DatabaseError for a malformed URL.
        """
        check_url(url)
        self.url = url
        self.name = name or redact(url)
        self.options = options
        self._pool = AsyncPool(url, self.name, options, AsyncConnection, self._configure_pooled, join)

    async def connect(self, *, writes: bool = False) -> AsyncConnection:
        """Open a connection outside the pool, in autocommit; the caller closes it.

        With `writes` raise DatabaseError where the server takes none.
        """
        with wrap_connect_errors(self.name):
            connection = await AsyncConnection.connect(self.url, **connect_arguments(self.url, self.options))
            try:
                await self._configure(connection)
                if writes:
                    connection.check_writable(self.name)
            except BaseException:
                await connection.close()
                raise
        return connection

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection of the pool for one piece of work."""
        pool = await self._pool.get()
        async with pool.connection() as connection:
            yield connection

    @asynccontextmanager
    async def live_connection(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection of the pool that has just answered, for work that must not be repeated."""
        with operation():
            for _ in _PAUSES:
                async with self.connection() as connection:
                    if await _answers(connection):
                        yield connection
                        return
                await (await self._pool.get()).check()
            async with self.connection() as connection:
                yield connection

    async def read(self, work: Work[T]) -> T:
        """Do work that only reads, again where the connection breaks or a standby cancels it."""
        with operation():
            for pause in _PAUSES:
                try:
                    async with self.connection() as connection:
                        return await work(connection)
                except psycopg.Error as error:
                    if recovery_conflict(error):
                        _LOG.warning("%s cancelled a read that held back replication; reading again", self.name)
                    elif connection_lost(error):
                        _LOG.warning("a connection to %s was lost; reading again", self.name)
                    else:
                        raise
                await (await self._pool.get()).check()  # other connections in the pool may be broken as well
                await sleep_async(pause)
            async with self.connection() as connection:
                return await work(connection)

    async def write(self, work: Work[T]) -> T:
        """Do work once, on a connection that has just answered. Raise DatabaseError on a standby."""
        async with self.live_connection() as connection:
            connection.check_writable(self.name)
            return await work(connection)

    async def close(self) -> None:
        """Close the pool; later calls open it again."""
        await self._pool.close()

    async def _configure(self, connection: AsyncConnection, **settings: str) -> None:
        adapt(connection)
        with answering_within(connection, max(self.options.timeout, 1), self.name):
            await connection.find_pooler()
        if self.options.read_only:
            settings["default_transaction_read_only"] = "on"
        await connection.set(**settings)

    async def _configure_pooled(self, connection: AsyncConnection) -> None:
        """Limit the time of statements too: loads and index builds use connections outside the pool."""
        settings = {}
        if self.options.statement_timeout is not None:
            settings["statement_timeout"] = str(math.ceil(self.options.statement_timeout * 1000))
        await self._configure(connection, **settings)


async def _answers(connection: AsyncConnection) -> bool:
    try:
        await connection.execute(b"")
    except psycopg.OperationalError:
        return False
    return True
