"""Locks that exclude a second process from the same load or recalibration."""

from __future__ import annotations

import time

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Literal

from qvec.postgres._sync.session import Connection
from qvec.postgres._sync.store import PostgresStore

_TRIES = 20
_SECONDS_BETWEEN_TRIES = 0.5


class AdvisoryLock:
    """An advisory lock, held by a transaction that stays open on a separate connection.

    Behind a pooler a client keeps a server connection only during a transaction. This one reads nothing: an idle
    transaction in READ COMMITTED has no snapshot and no transaction id, so that it does not hold back vacuum.
    """

    def __init__(self, store: PostgresStore, key: str) -> None:
        self._store = store
        self._key = key
        self._connection: Connection | None = None

    def acquire(self) -> bool:
        """Take the lock unless it is held here. Return False where another process keeps it for ten seconds.

        Raise DatabaseError where the server takes no writes, NoAnswerError where a pooler has no server connection
        beside the one for the lock.
        """
        if self._connection is not None:
            return True
        self._connection = self._store.direct_connection(writes=True)
        try:
            taken = self._take(self._connection)
            if taken and self._connection.behind_pooler:
                self._store.direct_connection().close()
        except BaseException:
            self.release()
            raise
        if not taken:
            self.release()
        return taken

    def _take(self, connection: Connection) -> bool:
        """Try for some seconds: the server may need a moment to notice that the client of a load was killed."""
        connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        # The settings that end idle and long transactions; the second is new in Postgres 17.
        connection.execute(
            "SELECT set_config(name, '0', true) FROM pg_settings"
            " WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
        )
        # Parameters or preparing would leave a portal open, and with it a snapshot, until the next statement.
        statement = SQL("SELECT pg_try_advisory_xact_lock(hashtextextended({}, 0))").format(Literal(self._key))
        for _ in range(_TRIES):
            row = connection.execute(statement, prepare=False).fetchone()
            if row and row[0]:
                return True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        return False

    def check(self) -> None:
        """Raise psycopg.OperationalError where the lock was lost with its connection."""
        if self._connection is None:
            raise psycopg.OperationalError("the lock is not held")
        self._connection.execute(b"")
        if self._connection.info.transaction_status != TransactionStatus.INTRANS:
            raise psycopg.OperationalError("the transaction that held the lock ended")

    def release(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
