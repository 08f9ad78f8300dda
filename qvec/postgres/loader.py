"""Bulk loads into Postgres: batches copied over one or more connections, each committed with its checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import psycopg
from psycopg import errors

from qvec.errors import CollectionError, DatabaseError
from qvec.postgres import statements
from qvec.postgres._sync.collection import PostgresCollection
from qvec.postgres._sync.session import Connection
from qvec.postgres._sync.store import PostgresStore
from qvec.postgres._sync.writing import check_calibration, copy_rows, merge_rows
from qvec.postgres.errors import NoAnswerError, RecalibratedError, connection_lost, refuses_writes
from qvec.postgres.layout import Table
from qvec.postgres.locks import AdvisoryLock
from qvec.postgres.pools import break_off
from qvec.store.loads import Checkpoint, ConnectionLostError, EncodedBatch, PendingBatch, RepeatedIdError
from qvec.store.requests import OnDuplicate

_CONFLICTS = (errors.UniqueViolation, errors.LockNotAvailable, errors.DeadlockDetected)
"""Signs of repeated ids: two open transactions with one id wait for each other until the lock times out."""
_LOCK_TIMEOUT = "1s"
_BEGIN = (
    # A commit need not wait for the disk: rows and checkpoint are lost or kept together.
    "BEGIN; SET LOCAL synchronous_commit = off; SET LOCAL statement_timeout = 0;"
    " SET LOCAL idle_in_transaction_session_timeout = 0"
)
_WAIT_FOR_DISK = (
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)
"""Makes a commit wait for the disk, or for standbys where the setting of the session says so."""


def open_loader(
    store: PostgresStore, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
) -> PostgresLoader:
    """Return a load of one source into a collection, which need not exist yet."""
    return PostgresLoader(store, collection, source, on_duplicate, workers)


@dataclass(frozen=True)
class _Transaction:
    """The transaction that writes one batch."""

    connection: Connection
    begun: threading.Event = field(default_factory=threading.Event)
    """Set once it has begun, or failed to begin."""


class PostgresLoader:
    """One load of one source into one collection; see `qvec.store.loads.Loader`.

    Every commit first checks that the lock is still held. Transactions begin in the order in which they commit: where a
    pooler has fewer server connections than the load has workers, the batch that is committed next has one.
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
        self._lock = AdvisoryLock(store, f"qvec.ingest {collection} {source}")
        self._connections: list[Connection] = []

    def __enter__(self) -> PostgresLoader:
        try:
            self._take_lock()
        except BaseException:
            self.disconnect()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.disconnect()

    @property
    def width(self) -> int:
        """Batches in flight at once: one while ids repeat, since then their order decides which row stays."""
        return 1 if self._staging else self._workers

    @contextmanager
    def registry(self) -> Iterator[PostgresLoadRegistry]:
        table = self._store.open(self._collection).table
        with self._store.connection() as connection, connection.transaction():
            # One load at a time may start, until the transaction ends: two would take the same ids.
            key = f"qvec.start {self._collection}"
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [key])
            yield PostgresLoadRegistry(connection, table, self._collection, self._source)

    def connect(self, collection: PostgresCollection) -> None:
        if self._connections:
            return
        self._table = collection.table
        self._calibration = collection.calibration.id
        self._take_lock()
        with _wrap_lost_connection():
            self._lock.check()
        while len(self._connections) < self._workers:
            self._connections.append(self._store.direct_connection())
        with _wrap_lost_connection(), self._connections[0].transaction():
            self._check_calibration(self._connections[0])

    def disconnect(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections = []
        self._lock.release()

    def write(self, batch: EncodedBatch, earlier: Sequence[PendingBatch], executor: Executor) -> PendingBatch:
        busy = {id(pending.transaction.connection) for pending in earlier}
        transaction = _Transaction(next(free for free in self._connections if id(free) not in busy))
        before = earlier[-1].transaction if earlier else None
        return PendingBatch(batch, executor.submit(self._write, transaction, batch, before), transaction)

    def _write(self, transaction: _Transaction, batch: EncodedBatch, before: _Transaction | None) -> int:
        """Write a batch's rows in a transaction that stays open; return the number that was not skipped."""
        assert self._table is not None
        connection = transaction.connection
        if before:
            before.begun.wait()
        try:
            self._begin(connection)
        finally:
            transaction.begun.set()
        if not batch.count:
            return 0
        self._check_calibration(connection)
        if self._staging:
            return merge_rows(connection, self._table, batch.rows, self._on_duplicate)
        return copy_rows(connection, self._table, batch.rows)

    def _begin(self, connection: Connection) -> None:
        waits = self._staging or self._workers == 1
        limit = "" if waits else f"; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"
        connection.execute((_BEGIN + limit).encode())

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
        self._wait_for_transaction(pending.transaction)
        with _wrap_lost_connection():
            try:
                return pending.future.result()
            except _CONFLICTS as error:
                if self._staging and not isinstance(error, errors.DeadlockDetected):
                    raise
                self._staging = True
                raise RepeatedIdError from error

    def _wait_for_transaction(self, transaction: _Transaction) -> None:
        """Raise NoAnswerError where a pooler has no server connection for the batch that is committed next."""
        seconds = self._store.options.timeout
        if transaction.connection.behind_pooler and not transaction.begun.wait(seconds):
            for connection in self._connections:  # behind this batch others wait
                break_off(connection)
            raise NoAnswerError(self._store.name, seconds)

    def commit(self, pending: PendingBatch, checkpoint: Checkpoint) -> None:
        connection = pending.transaction.connection
        with _wrap_lost_connection():
            _write_checkpoint(connection, self._collection, self._source, checkpoint)
            self._lock.check()
            connection.execute("COMMIT")

    def abandon(self, pending: Sequence[PendingBatch]) -> None:
        """Roll back the transactions of batches in flight."""
        for batch in pending:
            batch.future.exception()  # waits; a failed transaction is rolled back like any other
            connection = batch.transaction.connection
            if not connection.closed:
                try:
                    connection.execute("ROLLBACK")
                except psycopg.Error:
                    connection.close()

    def read_checkpoint(self) -> Checkpoint | None:
        with _wrap_lost_connection():
            return _read_checkpoint(self._connections[0], self._collection, self._source)

    def finish(self, checkpoint: Checkpoint) -> None:
        with _wrap_lost_connection(), self._connections[0].transaction():
            self._connections[0].execute(_WAIT_FOR_DISK)
            _write_checkpoint(self._connections[0], self._collection, self._source, checkpoint)
            self._lock.check()

    def _take_lock(self) -> None:
        """Take the lock unless it is taken. Raise DatabaseError where another process keeps it for seconds."""
        with _wrap_lost_connection():
            if self._lock.acquire():
                return
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
    """Raise ConnectionLostError where the connection breaks, or leads to a standby after a failover; other errors
    pass."""
    try:
        yield
    except psycopg.Error as error:
        if connection_lost(error) or refuses_writes(error):
            raise ConnectionLostError(str(error).strip().partition("\n")[0]) from error
        raise
