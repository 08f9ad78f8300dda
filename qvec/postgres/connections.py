"""The connections of a database: opened, shared in a pool, watched for breaks; to wait for, and to await."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg.bit import register_bit_info
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed

from qvec.calls import began, one_call, one_call_async
from qvec.connecting import ConnectOptions, LoopOwner
from qvec.errors import DatabaseError
from qvec.forking import Lock
from qvec.postgres.errors import NO_URL, check_url, connection_lost, redact
from qvec.postgres.steps import AsyncConnection, Connection, Work, perform, perform_async

T = TypeVar("T")

_LOG = logging.getLogger("qvec.postgres")

_BIT_OID = 1560
_BIT_ARRAY_OID = 1561
_CONNECT_SECONDS = 10
_RECONNECT_SECONDS = 5.0
"""For how long the pool goes on trying to replace a lost connection, ever more rarely, before it begins anew."""
_PAUSES = (0.0, 0.1, 0.5)
"""Seconds before each further try of work that only reads, where the connection was lost."""


class _Connections:
    """What connections that are waited for and such that are awaited have in common."""

    def __init__(self, url: str, name: str | None, options: ConnectOptions) -> None:
        """`name` stands for the database in messages. Raises DatabaseError for a URL that is none."""
        check_url(url)
        self.url = url
        self.name = name or redact(url)
        self.options = options
        self._closed_at = -math.inf
        self._arguments = {
            "autocommit": True,
            "connect_timeout": math.ceil(min(max(options.timeout, 1), _CONNECT_SECONDS)),
            "application_name": "qvec",
        }
        self._pool_arguments: dict[str, Any] = {
            "min_size": 0,
            "max_size": options.pool_size,
            "timeout": options.timeout,
            "reconnect_timeout": _RECONNECT_SECONDS,
            "kwargs": self._arguments,
        }

    def _check_not_closed_since(self, call: float) -> None:
        """Raises PoolClosed in a call that began before the last close: it opens nothing again."""
        if call <= self._closed_at:
            raise PoolClosed("closed while the call was under way")

    def _settings(self) -> list[str]:
        """What a session is set to."""
        return ["SET default_transaction_read_only = on"] if self.options.read_only else []

    def _pool_settings(self) -> list[str]:
        """What a session of the pool is set to: statements have a time limit there, not in loads and index builds."""
        limit = self.options.statement_timeout
        return self._settings() + ([] if limit is None else [f"SET statement_timeout = {math.ceil(limit * 1000)}"])

    @contextlib.contextmanager
    def _refusals_explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            raise DatabaseError(f"cannot connect to {self.name}: {_reason(error)}") from error
        except psycopg.ProgrammingError:  # its message may hold the password
            raise DatabaseError(f"{self.name} {NO_URL}") from None


class Connections(_Connections):
    """Connections for threads. Safe across them, and in a process forked from the one that made it."""

    def __init__(
        self, url: str, name: str | None, options: ConnectOptions, join: Callable[[], object] = lambda: None
    ) -> None:
        """`join` is called in a forked process before its first connection of the pool."""
        super().__init__(url, name, options)
        self._join = join
        self._lock = Lock()
        self._pool: ConnectionPool[Connection] | None = None
        self._pool_process = os.getpid()

    def connect(self) -> Connection:
        """A connection of its own, outside the pool, in autocommit; the caller closes it."""
        with self._refusals_explained():
            connection: Connection = psycopg.connect(self.url, **self._arguments)  # type: ignore[arg-type]
        _adapt(connection)
        for setting in self._settings():
            connection.execute(setting.encode())
        return connection

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection of the pool, for one piece of work."""
        with self.pool().connection() as connection:
            yield connection

    @contextlib.contextmanager
    def live_connection(self) -> Iterator[Connection]:
        """A connection of the pool that has just answered, for work that cannot simply be done a second time."""
        with one_call():
            for _ in _PAUSES:
                with self.connection() as connection:
                    if _answers(connection):
                        yield connection
                        return
                self.pool().check()
            with self.connection() as connection:
                yield connection

    @one_call()
    def read(self, work: Work[T]) -> T:
        """Does work that only reads, again when the connection turns out to be broken."""
        for pause in _PAUSES:
            try:
                with self.connection() as connection:
                    return perform(connection, work())
            except psycopg.Error as error:
                if not connection_lost(error):
                    raise
                _LOG.warning("a connection to %s was lost; reading again", self.name)
            self.pool().check()  # what broke one connection may have broken those that wait in the pool
            time.sleep(pause)
        with self.connection() as connection:
            return perform(connection, work())

    def write(self, work: Work[T]) -> T:
        """Does work that is not done twice, on a connection that has just answered."""
        with self.live_connection() as connection:
            return perform(connection, work())

    def pool(self) -> ConnectionPool[Connection]:
        """The pool of this process, opened when it is first needed. Raises PoolClosed in a call that began before the
        last `close`."""
        with self._lock:
            self._check_not_closed_since(began())
            if self._pool_process != os.getpid():
                self._join()
                self._pool, self._pool_process = None, os.getpid()
            if self._pool is None:
                self._pool = ConnectionPool(
                    self.url, configure=self._configure, reconnect_failed=_try_again, open=True, **self._pool_arguments
                )
            return self._pool

    def _configure(self, connection: Connection) -> None:
        _adapt(connection)
        for setting in self._pool_settings():
            connection.execute(setting.encode())

    def close(self) -> None:
        """Closes the pool; later calls open it again."""
        with self._lock:
            self._closed_at = time.monotonic()
            pool, self._pool = self._pool, None
        if pool is not None and self._pool_process == os.getpid():
            pool.close()


class AsyncConnections(_Connections):
    """Connections for the tasks of one event loop."""

    def __init__(self, url: str, name: str | None, options: ConnectOptions) -> None:
        super().__init__(url, name, options)
        self._pool: AsyncConnectionPool[AsyncConnection] | None = None
        self._owner = LoopOwner()

    async def connect(self) -> AsyncConnection:
        """A connection of its own, outside the pool, in autocommit; the caller closes it."""
        with self._refusals_explained():
            connection: AsyncConnection = await psycopg.AsyncConnection.connect(self.url, **self._arguments)  # type: ignore[arg-type]
        _adapt(connection)
        for setting in self._settings():
            await connection.execute(setting.encode())
        return connection

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool, for one piece of work."""
        async with (await self.pool()).connection() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def live_connection(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool that has just answered, for work that cannot simply be done a second time."""
        with one_call():
            for _ in _PAUSES:
                async with self.connection() as connection:
                    if await _answers_async(connection):
                        yield connection
                        return
                await (await self.pool()).check()
            async with self.connection() as connection:
                yield connection

    @one_call_async()
    async def read(self, work: Work[T]) -> T:
        """Does work that only reads, again when the connection turns out to be broken."""
        for pause in _PAUSES:
            try:
                async with self.connection() as connection:
                    return await perform_async(connection, work())
            except psycopg.Error as error:
                if not connection_lost(error):
                    raise
                _LOG.warning("a connection to %s was lost; reading again", self.name)
            await (await self.pool()).check()  # what broke one connection may have broken those that wait in the pool
            await asyncio.sleep(pause)
        async with self.connection() as connection:
            return await perform_async(connection, work())

    async def write(self, work: Work[T]) -> T:
        """Does work that is not done twice, on a connection that has just answered."""
        async with self.live_connection() as connection:
            return await perform_async(connection, work())

    async def pool(self) -> AsyncConnectionPool[AsyncConnection]:
        """The pool, opened when it is first needed. Raises InputError in another event loop or process than the one it
        was made in: neither can use its sockets. Raises PoolClosed in a call that began before the last `close`."""
        self._owner.check(self.name)
        self._check_not_closed_since(began())
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self.url,
                configure=self._configure,
                reconnect_failed=_try_again_async,
                open=False,
                **self._pool_arguments,
            )
        pool = self._pool
        if pool.closed:
            await pool.open()
        return pool

    async def _configure(self, connection: AsyncConnection) -> None:
        _adapt(connection)
        for setting in self._pool_settings():
            await connection.execute(setting.encode())

    async def close(self) -> None:
        """Closes the pool; later calls open it again."""
        self._closed_at = time.monotonic()
        pool, self._pool = self._pool, None
        if pool is not None and self._owner.is_here():
            await pool.close()


def _try_again(pool: ConnectionPool[Any]) -> None:
    """Once the pool has given a lost connection up, it would leave those that wait to their time-outs."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


async def _try_again_async(pool: AsyncConnectionPool[Any]) -> None:
    """Once the pool has given a lost connection up, it would leave those that wait to their time-outs."""
    if pool.get_stats().get("requests_waiting"):
        await pool.check()


def _reason(error: psycopg.OperationalError) -> str:
    """The last attempt's line; those that begin with a tab only ask whether a server runs there."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    return lines[-1].strip() if lines else type(error).__name__


def _answers(connection: Connection) -> bool:
    try:
        connection.execute(b"")
    except psycopg.OperationalError:
        return False
    return True


async def _answers_async(connection: AsyncConnection) -> bool:
    try:
        await connection.execute(b"")
    except psycopg.OperationalError:
        return False
    return True


class _BitLoader(Loader):
    """A bit value's bytes, without the length before them."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)[4:]


def _adapt(connection: Connection | AsyncConnection) -> None:
    register_bit_info(connection, TypeInfo("bit", _BIT_OID, _BIT_ARRAY_OID))
    connection.adapters.register_loader(_BIT_OID, _BitLoader)
