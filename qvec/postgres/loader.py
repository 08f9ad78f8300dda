"""Bulk loads into Postgres: batches copied over one or more connections, each committed with its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType

import psycopg
from psycopg import errors

from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import statements
from qvec.postgres._sync.collection import PostgresCollection
from qvec.postgres._sync.store import PostgresStore
from qvec.postgres._sync.writing import check_calibration, copy_rows, merge_rows
from qvec.postgres.errors import RecalibratedError, connection_lost
from qvec.postgres.layout import Table
from qvec.postgres.pools import Connection
from qvec.store.loads import Checkpoint, ConnectionLostError, EncodedBatch, PendingBatch, RepeatedIdError
from qvec.store.requests import OnDuplicate

_CONFLICTS = (errors.UniqueViolation, errors.LockNotAvailable, errors.DeadlockDetected)
"""Signs of repeated ids: two open transactions with one id wait for each other until the lock times out."""
_LOCK_TIMEOUT = "1s"
_LOCK_TRIES = 20
_SECONDS_BETWEEN_TRIES = 0.5


def open_loader(
    store: PostgresStore, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
) -> PostgresLoader:
    """Return a load of one source into a collection, which need not exist yet."""
    return PostgresLoader(store, collection, source, on_duplicate, workers)


class PostgresLoader:
    """One load of one source into one collection; see `qvec.store.loads.Loader`.

    The connection that holds the lock also loads, so that the load notices when it breaks.
    """

    def __init__(
        self, store: PostgresStore, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
    ) -> None:
        self._store = store
        self._collection = collection
        self._source = source
        self._on_duplicate = on_duplicate
        self._workers = workers
        self._table: Table | None = None
        self._calibration = ""
        self._staging = False
        self._lock: Connection | None = None
        self._connections: list[Connection] = []

    def __enter__(self) -> PostgresLoader:
        self._take_lock()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

    @property
    def width(self) -> int:
        """Batches in flight at once: one while ids repeat, since then their order decides which row stays."""
        return 1 if self._staging else self._workers

    @contextmanager
    def registry(self) -> Iterator[PostgresLoadRegistry]:
        with self._store.connection() as connection, connection.transaction():
            # One load at a time may start, until the transaction ends: two would take the same ids.
            key = f"qvec.start {self._collection}"
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])
            table = self._store.open(self._collection).table
            yield PostgresLoadRegistry(connection, table, self._collection, self._source)

    def connect(self, collection: PostgresCollection) -> None:
        if self._connections:
            return
        self._table = collection.table
        self._calibration = collection.calibration.id
        self._connections = [self._take_lock()]
        while len(self._connections) < self._workers:
            self._connections.append(self._store.direct_connection())
        with _wrap_lost_connection():
            with self._connections[0].transaction():
                self._check_calibration(self._connections[0])
            for connection in self._connections:
                # A commit need not wait for the disk: rows and checkpoint are lost or kept together.
                connection.execute(
                    "SET synchronous_commit = off; SET statement_timeout = 0;"
                    " SET idle_in_transaction_session_timeout = 0"
                )

    def disconnect(self) -> None:
        for connection in {*self._connections, *filter(None, [self._lock])}:
            connection.close()
        self._connections, self._lock = [], None

    def write(self, batch: EncodedBatch, earlier: Sequence[PendingBatch], executor: Executor) -> PendingBatch:
        busy = {id(pending.connection) for pending in earlier}
        connection = next(free for free in self._connections if id(free) not in busy)
        return PendingBatch(batch, executor.submit(self._write, connection, batch), connection)

    def _write(self, connection: Connection, batch: EncodedBatch) -> int:
        """Write a batch's rows in a transaction that stays open; return the number that was not skipped."""
        assert self._table is not None
        waits = self._staging or self._workers == 1
        connection.execute("BEGIN" if waits else f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        if not batch.count:
            return 0
        self._check_calibration(connection)
        if self._staging:
            return merge_rows(connection, self._table, batch.rows, self._on_duplicate)
        return copy_rows(connection, self._table, batch.rows)

    def _check_calibration(self, connection: Connection) -> None:
        """Raise CollectionError where the rows were quantized for a calibration that the collection no longer has."""
        assert self._table is not None
        try:
            check_calibration(connection, self._collection, self._calibration, self._table)
        except RecalibratedError:
            raise CollectionError(
                f"collection {self._collection!r} was recalibrated, or dropped and created again, while it was loaded; "
                "run the same load again to continue it"
            ) from None

    def wait(self, pending: PendingBatch) -> int:
        with _wrap_lost_connection():
            try:
                return pending.future.result()
            except _CONFLICTS as error:
                if self._staging and not isinstance(error, errors.DeadlockDetected):
                    raise
                self._staging = True
                raise RepeatedIdError from error

    def commit(self, pending: PendingBatch, checkpoint: Checkpoint) -> None:
        with _wrap_lost_connection():
            _write_checkpoint(pending.connection, self._collection, self._source, checkpoint)
            pending.connection.execute("COMMIT")

    def abandon(self, pending: Sequence[PendingBatch]) -> None:
        """Roll back the transactions of batches in flight."""
        for batch in pending:
            batch.future.exception()  # waits; a failed transaction is rolled back like any other
            if not batch.connection.closed:
                try:
                    batch.connection.execute("ROLLBACK")
                except psycopg.Error:
                    batch.connection.close()

    def read_checkpoint(self) -> Checkpoint | None:
        with _wrap_lost_connection():
            return _read_checkpoint(self._connections[0], self._collection, self._source)

    def finish(self, checkpoint: Checkpoint) -> None:
        with _wrap_lost_connection(), self._connections[0].transaction():
            self._connections[0].execute("SET LOCAL synchronous_commit = on")
            _write_checkpoint(self._connections[0], self._collection, self._source, checkpoint)

    def _take_lock(self) -> Connection:
        """Return the connection that holds the lock. Raise DatabaseError where another process keeps it for seconds."""
        if self._lock is None:
            self._lock = self._store.direct_connection()
            with _wrap_lost_connection():
                self._wait_for_lock(self._lock)
        return self._lock

    def _wait_for_lock(self, connection: Connection) -> None:
        """Try for some seconds: the server may need a moment to notice that the client of a load was killed."""
        key = f"qvec.ingest {self._collection} {self._source}"
        for _ in range(_LOCK_TRIES):
            row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [key]).fetchone()
            if row and row[0]:
                return
            time.sleep(_SECONDS_BETWEEN_TRIES)
        self.disconnect()
        raise DatabaseError(f"another process is loading {self._source} into collection {self._collection!r}")


@dataclass(frozen=True)
class PostgresLoadRegistry:
    """The registered loads of a collection, inside a transaction during which no other load starts."""

    connection: Connection
    table: Table
    collection: str
    source: str

    def read(self) -> Checkpoint | None:
        return _read_checkpoint(self.connection, self.collection, self.source)

    def write(self, checkpoint: Checkpoint) -> None:
        _write_checkpoint(self.connection, self.collection, self.source, checkpoint)

    def next_id(self) -> int:
        (next_id,) = self.connection.execute(statements.next_id(self.table)).fetchone() or (0,)
        return int(next_id)

    def unfinished_without_ids(self) -> str | None:
        row = self.connection.execute(
            "SELECT source FROM qvec.ingest WHERE collection = %s AND source <> %s AND first_id IS NOT NULL"
            " AND NOT finished LIMIT 1",
            [self.collection, self.source],
        ).fetchone()
        return str(row[0]) if row else None


def read_checkpoints(store: PostgresStore, collection: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of all sources that were loaded into a collection, by their locations."""
    with store.connection() as connection:
        rows = connection.execute(
            "SELECT source, fingerprint, first_id, position, rejected, rejects_size, finished FROM qvec.ingest"
            " WHERE collection = %s",
            [collection],
        ).fetchall()
    return {source: Checkpoint(*row) for source, *row in rows}


def _read_checkpoint(connection: Connection, collection: str, source: str) -> Checkpoint | None:
    """Return the checkpoint, after any transaction that is about to commit another one, even of a killed client."""
    row = connection.execute(
        "SELECT fingerprint, first_id, position, rejected, rejects_size, finished FROM qvec.ingest"
        " WHERE collection = %s AND source = %s FOR UPDATE",
        [collection, source],
    ).fetchone()
    return Checkpoint(*row) if row else None


def _write_checkpoint(connection: Connection, collection: str, source: str, checkpoint: Checkpoint) -> None:
    connection.execute(
        "INSERT INTO qvec.ingest"
        " (collection, source, fingerprint, first_id, position, rejected, rejects_size, finished) VALUES"
        " (%(collection)s, %(source)s, %(fingerprint)s, %(first_id)s, %(position)s, %(rejected)s,"
        " %(rejects_size)s, %(finished)s) ON CONFLICT (collection, source) DO UPDATE SET"
        " fingerprint = excluded.fingerprint, first_id = excluded.first_id, position = excluded.position,"
        " rejected = excluded.rejected, rejects_size = excluded.rejects_size, finished = excluded.finished,"
        " updated_at = now()",
        {"collection": collection, "source": source, **vars(checkpoint)},
    )


@contextmanager
def _wrap_lost_connection() -> Iterator[None]:
    """Raise ConnectionLostError where the connection breaks; other errors pass."""
    try:
        yield
    except psycopg.Error as error:
        if connection_lost(error):
            raise ConnectionLostError(str(error).strip().partition("\n")[0]) from error
        raise
