# Generated from qvec/postgres/_async/session.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""Connections that leave no state in a session which a pooler shares among its clients.

A pooler gives each transaction to any of its server connections. What one client leaves there, a prepared statement or
a setting, the next client finds. So behind a pooler nothing is prepared, and settings hold for one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.sql import SQL, Composed, Literal

from qvec.errors import DatabaseError
from qvec.postgres.errors import CONNECT_TO_PRIMARY

if TYPE_CHECKING:
    from typing_extensions import Self

_LOCAL_NAMES = {"default_transaction_read_only": "transaction_read_only"}
"""Settings that have another name for the transaction under way."""


class Connection(psycopg.Connection[Any]):
    """A connection to the server itself or to a pooler; `find_pooler` tells which."""

    behind_pooler = False
    _local_settings: bytes | None = None
    """The statement that sets the settings of a transaction, behind a pooler."""

    def find_pooler(self) -> None:
        """Ask whether the server process is the one that answered when the connection was opened.

        A pooler answers itself, with a number of its own, and hands statements to server processes later.
        """
        found = self.execute(b"SELECT pg_backend_pid()", prepare=False).fetchone()
        if found != (self.info.backend_pid,):
            self.behind_pooler = True
            self.prepare_threshold = None
            self.cursor_factory = LocalCursor

    def set(self, **settings: str) -> None:
        """Set run-time settings: of the session or, behind a pooler, of each later transaction. Call it once."""
        if not settings:
            return
        if self.behind_pooler:
            of_transactions = {_LOCAL_NAMES.get(name, name): value for name, value in settings.items()}
            self._local_settings = set_all(of_transactions, local=True).as_bytes(None)
        else:
            self.execute(set_all(settings, local=False))

    def check_writable(self, database: str) -> None:
        """Raise DatabaseError where the server has reported that it is a standby, or that its sessions are read-only.

        A pooler may report what was true earlier; behind one the statement that writes fails instead.
        """
        if self.behind_pooler:
            return
        if self.info.parameter_status("in_hot_standby") == "on":
            server = f"{self.info.host}:{self.info.port}"
            raise DatabaseError(f"cannot write to {database}: the server {server} is a standby; {CONNECT_TO_PRIMARY}")
        if self.info.parameter_status("default_transaction_read_only") == "on":
            raise DatabaseError(
                f"cannot write to {database}: sessions of user {self.info.user!r} are read-only; connect without the "
                "setting default_transaction_read_only, or let the owner of the role and the database reset it"
            )

    @property
    def local_settings(self) -> bytes | None:
        """The statement that has to begin the next transaction; None inside a transaction, and without settings."""
        begins = self._local_settings and self.info.transaction_status == TransactionStatus.IDLE
        return self._local_settings if begins else None

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Start a transaction with the settings, or a nested one."""
        settings = self.local_settings
        with super().transaction(savepoint_name, force_rollback) as transaction:
            if settings is not None:
                self.execute(settings)
            yield transaction


class LocalCursor(psycopg.Cursor[Any]):
    """Sends the connection's settings before a statement outside a transaction, in one round trip.

    The server runs both in one transaction: that of a pipeline ends with its synchronization. This needs no BEGIN, so a
    pooler in statement mode allows it.
    """

    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        connection = self.connection
        assert isinstance(connection, Connection)
        settings = connection.local_settings
        if settings is None:
            return super().execute(query, params, prepare=prepare, binary=binary)
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            psycopg.Cursor(connection).execute(settings)
            return super().execute(query, params, prepare=prepare, binary=binary)
        with connection.pipeline():
            psycopg.Cursor(connection).execute(settings)
            super().execute(query, params, prepare=prepare, binary=binary)
        return self


def set_all(settings: dict[str, str], *, local: bool) -> Composed:
    """Return the statement that sets run-time settings, of the session or of the transaction."""
    calls = (
        SQL("set_config({}, {}, {})").format(Literal(name), Literal(value), Literal(local))
        for name, value in settings.items()
    )
    return SQL("SELECT {}").format(SQL(", ").join(calls))
