"""Locks that exclude a second process from the same load or recalibration."""

from __future__ import annotations

import time

import psycopg
from psycopg.pq import TransactionStatus

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

        The server may need a moment to notice that the client of a load was killed.
        """
        if self._connection is not None:
            return True
        self._connection = self._store.direct_connection()
        self._connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        for _ in range(_TRIES):
            if self._try():
                # The settings that end idle and long transactions; the second is new in Postgres 17.
                self._connection.execute(
                    "SELECT set_config(name, '0', true) FROM pg_settings"
                    " WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
                )
                return True
            time.sleep(_SECONDS_BETWEEN_TRIES)
        self.release()
        return False

    def _try(self) -> bool:
        assert self._connection is not None
        statement = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
        row = self._connection.execute(statement, [self._key]).fetchone()
        return bool(row and row[0])

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
