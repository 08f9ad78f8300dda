# Generated from qvec/postgres/_async/connections.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""The connections to a database: direct ones and those of the pool, watched for breaks."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

from qvec.postgres._sync.session import Connection
from qvec.postgres.connect_errors import check_url, wrap_connect_errors
from qvec.postgres.errors import connection_lost, recovery_conflict
from qvec.postgres.pools import Pool, adapt, answering_within, connect_arguments
from qvec.store.connect_options import ConnectOptions, redact
from qvec.store.scope import operation
from qvec.waiting import sleep

T = TypeVar("T")
Work = Callable[[Connection], T]
"""Work on a connection that may be done twice."""

_LOG = logging.getLogger("qvec.postgres")

_PAUSES = (0.0, 0.1, 0.5)
"""Seconds before each further try of a read whose connection was lost."""


class Connections:
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
        self._pool = Pool(url, self.name, options, Connection, self._configure_pooled, join)

    def connect(self, *, writes: bool = False) -> Connection:
        """Open a connection outside the pool, in autocommit; the caller closes it.

        With `writes` raise DatabaseError where the server takes none.
        """
        with wrap_connect_errors(self.name):
            connection = Connection.connect(self.url, **connect_arguments(self.url, self.options))
            try:
                self._configure(connection)
                if writes:
                    connection.check_writable(self.name)
            except BaseException:
                connection.close()
                raise
        return connection

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection of the pool for one piece of work."""
        pool = self._pool.get()
        with pool.connection() as connection:
            yield connection

    @contextmanager
    def live_connection(self) -> Iterator[Connection]:
        """Lend a connection of the pool that has just answered, for work that must not be repeated."""
        with operation():
            for _ in _PAUSES:
                with self.connection() as connection:
                    if _answers(connection):
                        yield connection
                        return
                self._pool.get().check()
            with self.connection() as connection:
                yield connection

    def read(self, work: Work[T]) -> T:
        """Do work that only reads, again where the connection breaks or a standby cancels it."""
        with operation():
            for pause in _PAUSES:
                try:
                    with self.connection() as connection:
                        return work(connection)
                except psycopg.Error as error:
                    if recovery_conflict(error):
                        _LOG.warning("%s cancelled a read that held back replication; reading again", self.name)
                    elif connection_lost(error):
                        _LOG.warning("a connection to %s was lost; reading again", self.name)
                    else:
                        raise
                self._pool.get().check()  # other connections in the pool may be broken as well
                sleep(pause)
            with self.connection() as connection:
                return work(connection)

    def write(self, work: Work[T]) -> T:
        """Do work once, on a connection that has just answered. Raise DatabaseError on a standby."""
        with self.live_connection() as connection:
            connection.check_writable(self.name)
            return work(connection)

    def close(self) -> None:
        """Close the pool; later calls open it again."""
        self._pool.close()

    def _configure(self, connection: Connection, **settings: str) -> None:
        adapt(connection)
        with answering_within(connection, max(self.options.timeout, 1), self.name):
            connection.find_pooler()
        if self.options.read_only:
            settings["default_transaction_read_only"] = "on"
        connection.set(**settings)

    def _configure_pooled(self, connection: Connection) -> None:
        """Limit the time of statements too: loads and index builds use connections outside the pool."""
        settings = {}
        if self.options.statement_timeout is not None:
            settings["statement_timeout"] = str(math.ceil(self.options.statement_timeout * 1000))
        self._configure(connection, **settings)


def _answers(connection: Connection) -> bool:
    try:
        connection.execute(b"")
    except psycopg.OperationalError:
        return False
    return True
