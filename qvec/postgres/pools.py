"""The pool of connections of one process or event loop: opened when first needed, never again by a call that began
before `close`; and the set-up of each connection."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, TypeVar

import psycopg
from pgvector.psycopg.bit import register_bit_info
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.types import TypeInfo
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed

from qvec.forking import Lock
from qvec.postgres.errors import NoAnswerError
from qvec.store.connect_options import ConnectOptions, LoopOwner
from qvec.store.scope import operation_began

C = TypeVar("C", bound=psycopg.Connection[Any])
AsyncC = TypeVar("AsyncC", bound=psycopg.AsyncConnection[Any])
AnyConnection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]

_CONNECT_SECONDS = 10
_RECONNECT_SECONDS = 5.0
"""How long the pool tries to replace a lost connection, at growing intervals, before it gives up."""


def connect_arguments(url: str, options: ConnectOptions) -> dict[str, Any]:
    """Return the arguments of psycopg's `connect` beside the URL. Raise ProgrammingError for a malformed one."""
    given = conninfo_to_dict(url)
    timeout = given.get("connect_timeout") or math.ceil(
        min(max(options.timeout / _count_attempts(given), 1), _CONNECT_SECONDS)
    )
    return {"autocommit": True, "connect_timeout": timeout, "application_name": "qvec"}


def _count_attempts(given: dict[str, Any]) -> int:
    """Return how many servers are tried: all have to be within the time that a call waits for a connection."""
    servers = max(len(str(given.get(name, "")).split(",")) for name in ("host", "hostaddr"))
    return servers * (2 if given.get("target_session_attrs") == "prefer-standby" else 1)


def _pool_arguments(url: str, options: ConnectOptions) -> dict[str, Any]:
    return {
        "min_size": 0,
        "max_size": options.pool_size,
        "timeout": options.timeout,
        "reconnect_timeout": _RECONNECT_SECONDS,
        "kwargs": connect_arguments(url, options),
    }


def _check_began_after(closed_at: float) -> None:
    if operation_began() <= closed_at:
        raise PoolClosed("closed while the call was under way")


class Pool(Generic[C]):
    """The pool of a process. Safe across threads; a forked process opens its own, and calls `join` first."""

    def __init__(
        self,
        url: str,
        name: str,
        options: ConnectOptions,
        connection_class: type[C],
        configure: Callable[[C], None],
        join: Callable[[], object],
    ) -> None:
        """`name` stands for the database in messages; `configure` prepares each new connection."""
        self.name = name
        self._url = url
        self._options = options
        self._connection_class = connection_class
        self._configure = configure
        self._join = join
        self._lock = Lock()
        self._pool: ConnectionPool[C] | None = None
        self._process = os.getpid()
        self._closed_at = -math.inf

    def get(self) -> ConnectionPool[C]:
        """Return the open pool. Raise PoolClosed in a call that began before the last `close`."""
        with self._lock:
            _check_began_after(self._closed_at)
            if self._process != os.getpid():
                self._join()
                self._pool, self._process = None, os.getpid()
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._url,
                    connection_class=self._connection_class,
                    configure=self._configure,
                    reconnect_failed=_retry_for_waiting,
                    open=True,
                    **_pool_arguments(self._url, self._options),
                )
            return self._pool

    def close(self) -> None:
        """Close the pool; later calls open it again."""
        with self._lock:
            self._closed_at = time.monotonic()
            pool, self._pool = self._pool, None
        if pool is not None and self._process == os.getpid():
            pool.close()


class AsyncPool(Generic[AsyncC]):
    """The pool of an event loop."""

    def __init__(
        self,
        url: str,
        name: str,
        options: ConnectOptions,
        connection_class: type[AsyncC],
        configure: Callable[[AsyncC], Awaitable[None]],
        join: Callable[[], object],  # noqa: ARG002 - a forked process cannot use it
    ) -> None:
        """`name` stands for the database in messages; `configure` prepares each new connection."""
        self.name = name
        self._url = url
        self._options = options
        self._connection_class = connection_class
        self._configure = configure
        self._pool: AsyncConnectionPool[AsyncC] | None = None
        self._owner = LoopOwner()
        self._closed_at = -math.inf

    async def get(self) -> AsyncConnectionPool[AsyncC]:
        """Return the open pool. Raise PoolClosed in a call that began before the last `close`, InputError in another
        event loop or process, which cannot use its sockets."""
        self._owner.check(self.name)
        _check_began_after(self._closed_at)
        if self._pool is None:
            self._pool = AsyncConnectionPool(
                self._url,
                connection_class=self._connection_class,
                configure=self._configure,
                reconnect_failed=_retry_for_waiting_async,
                open=False,
                **_pool_arguments(self._url, self._options),
            )
        pool = self._pool
        if pool.closed:
            await pool.open()
        return pool

    async def close(self) -> None:
        """Close the pool; later calls open it again."""
        self._closed_at = time.monotonic()
        pool, self._pool = self._pool, None
        if pool is not None and self._owner.is_here():
            await pool.close()


def _retry_for_waiting(pool: ConnectionPool[Any]) -> None:
    """Try again while callers wait: the pool would leave them to their time-outs once it has given up."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


async def _retry_for_waiting_async(pool: AsyncConnectionPool[Any]) -> None:
    """Try again while callers wait: the pool would leave them to their time-outs once it has given up."""
    if pool.get_stats().get("requests_waiting"):
        await pool.check()


@contextmanager
def answering_within(connection: AnyConnection, seconds: float, database: str) -> Iterator[None]:
    """Break the connection and raise NoAnswerError where what is done inside takes longer.

    A client that waits for a server connection of PgBouncer cannot be cancelled.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        break_off(connection)

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if expired.is_set():
            raise NoAnswerError(database, seconds) from error
        raise
    finally:
        timer.cancel()


def break_off(connection: AnyConnection) -> None:
    """Let a thread or task that waits for an answer find the connection broken."""
    with (
        suppress(psycopg.Error, OSError),  # it may have closed meanwhile
        socket.socket(fileno=os.dup(connection.fileno())) as shared,
    ):
        shared.shutdown(socket.SHUT_RDWR)


_BIT_OID = 1560
_BIT_ARRAY_OID = 1561


class _BitLoader(Loader):
    """The bytes of a bit value, without the length before them."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)[4:]


def adapt(connection: AnyConnection) -> None:
    """Let a connection send `pgvector.Bit` and receive bit values as bytes."""
    register_bit_info(connection, TypeInfo("bit", _BIT_OID, _BIT_ARRAY_OID))
    connection.adapters.register_loader(_BIT_OID, _BitLoader)
