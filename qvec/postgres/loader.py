"""Loading into Postgres: batches copied over one or more connections, each committed with the checkpoint after it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors

from qvec.errors import CollectionError, DatabaseError
from qvec.loading import Checkpoint, ConnectionLostError, EncodedBatch, OnDuplicate, RepeatedIdError, Writing
from qvec.postgres import inserting, loading, statements
from qvec.postgres.errors import connection_lost
from qvec.postgres.layout import Table
from qvec.postgres.steps import Connection, perform

if TYPE_CHECKING:
    from qvec.postgres.collection import PostgresCollection
    from qvec.postgres.database import PostgresDatabase

_CONFLICTS = (errors.UniqueViolation, errors.LockNotAvailable, errors.DeadlockDetected)
"""What tells that ids repeat; two open transactions with one id wait for each other until the lock times out."""
_LOCK_TIMEOUT = "1s"
_LOCK_TRIES = 20
_SECONDS_BETWEEN_TRIES = 0.5


class PostgresLoader:
    """One load of one source into one collection. The connection that holds its lock also loads: where it breaks, the
    load notices."""

    def __init__(
        self, database: PostgresDatabase, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
    ) -> None:
        self._database = database
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
        """Batches on their way at once: one while ids repeat, since then their order decides which row stays."""
        return 1 if self._staging else self._workers

    @contextmanager
    def starting(self) -> Iterator[PostgresStarts]:
        with self._database.connection() as connection, connection.transaction():
            loading.lock_starts(connection, self._collection)
            table = self._database.collection(self._collection).table
            yield PostgresStarts(connection, table, self._collection, self._source)

    def connect(self, collection: PostgresCollection) -> None:
        if self._connections:
            return
        self._table = collection.table
        self._calibration = collection.calibration.id
        self._connections = [self._take_lock()]
        while len(self._connections) < self._workers:
            self._connections.append(self._database.connect())
        with _told_apart():
            with self._connections[0].transaction():
                self._check_calibration(self._connections[0])
            for connection in self._connections:
                loading.settings_for_loading(connection)

    def disconnect(self) -> None:
        for connection in {*self._connections, *filter(None, [self._lock])}:
            connection.close()
        self._connections, self._lock = [], None

    def write(self, batch: EncodedBatch, earlier: Sequence[Writing], executor: Executor) -> Writing:
        busy = {id(writing.lane) for writing in earlier}
        connection = next(free for free in self._connections if id(free) not in busy)
        return Writing(batch, executor.submit(self._write, connection, batch), connection)

    def _write(self, connection: Connection, batch: EncodedBatch) -> int:
        """Writes a batch's rows in a transaction that stays open; returns how many were not skipped."""
        assert self._table is not None
        waits = self._staging or self._workers == 1
        connection.execute("BEGIN" if waits else f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        if not batch.count:
            return 0
        self._check_calibration(connection)
        if self._staging:
            return perform(connection, inserting.merge_rows(self._table, batch.rows, self._on_duplicate))
        return perform(connection, inserting.copy_rows(self._table, batch.rows))

    def _check_calibration(self, connection: Connection) -> None:
        """The rows were quantized for the calibration that the collection had: it may have another version by now."""
        assert self._table is not None
        try:
            perform(connection, inserting.check_calibration(self._collection, self._calibration, self._table))
        except inserting.RecalibratedError:
            raise CollectionError(
                f"collection {self._collection!r} was recalibrated, or made anew, while it was loaded; run the same "
                "load again, and it goes on"
            ) from None

    def wait(self, writing: Writing) -> int:
        with _told_apart():
            try:
                return writing.future.result()
            except _CONFLICTS as error:
                if self._staging and not isinstance(error, errors.DeadlockDetected):
                    raise
                self._staging = True
                raise RepeatedIdError from error

    def commit(self, writing: Writing, checkpoint: Checkpoint) -> None:
        with _told_apart():
            loading.write_checkpoint(writing.lane, self._collection, self._source, checkpoint)
            writing.lane.execute("COMMIT")

    def abandon(self, writings: Sequence[Writing]) -> None:
        """Ends the transactions of batches in flight, with nothing written."""
        for writing in writings:
            writing.future.exception()  # waits; a failed transaction is rolled back like any other
            if not writing.lane.closed:
                try:
                    writing.lane.execute("ROLLBACK")
                except psycopg.Error:
                    writing.lane.close()

    def read_checkpoint(self) -> Checkpoint | None:
        with _told_apart():
            return loading.read_checkpoint(self._connections[0], self._collection, self._source)

    def finish(self, checkpoint: Checkpoint) -> None:
        with _told_apart(), self._connections[0].transaction():
            self._connections[0].execute("SET LOCAL synchronous_commit = on")
            loading.write_checkpoint(self._connections[0], self._collection, self._source, checkpoint)

    def _take_lock(self) -> Connection:
        """The connection that holds the lock. Raises DatabaseError when another process keeps it for some seconds."""
        if self._lock is None:
            self._lock = self._database.connect()
            with _told_apart():
                self._wait_for_lock(self._lock)
        return self._lock

    def _wait_for_lock(self, connection: Connection) -> None:
        """A killed load's backend may need a moment to notice that it is alone."""
        for _ in range(_LOCK_TRIES):
            if loading.lock_source(connection, self._collection, self._source):
                return
            time.sleep(_SECONDS_BETWEEN_TRIES)
        self.disconnect()
        raise DatabaseError(f"another process is loading {self._source} into collection {self._collection!r}")


@dataclass(frozen=True)
class PostgresStarts:
    """What stands written of a collection's loads, inside a transaction in which no other load begins."""

    connection: Connection
    table: Table
    collection: str
    source: str

    def read(self) -> Checkpoint | None:
        return loading.read_checkpoint(self.connection, self.collection, self.source)

    def write(self, checkpoint: Checkpoint) -> None:
        loading.write_checkpoint(self.connection, self.collection, self.source, checkpoint)

    def next_id(self) -> int:
        (next_id,) = self.connection.execute(statements.next_id(self.table)).fetchone() or (0,)
        return int(next_id)

    def numbered_and_unfinished(self) -> str | None:
        return loading.numbered_and_unfinished(self.connection, self.collection, self.source)


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turns the error of a lost connection into ConnectionLostError; others stay as they are."""
    try:
        yield
    except psycopg.Error as error:
        if connection_lost(error):
            raise ConnectionLostError(str(error).strip().partition("\n")[0]) from error
        raise
