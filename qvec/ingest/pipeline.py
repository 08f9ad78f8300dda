"""Batches into the table: read ahead in a thread, copied by one or more connections, committed in order.

A batch's rows and the checkpoint after it commit in one transaction, and batches commit in the order of the source.
So the checkpoint is one number, and whatever ends the process, the table holds exactly the rows before it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors

from qvec.errors import DatabaseError
from qvec.ingest.batches import EncodedBatch
from qvec.ingest.options import Reporter, Stop
from qvec.ingest.readahead import ReadAhead
from qvec.ingest.rejects import RejectsFile
from qvec.postgres import loading
from qvec.postgres.collection import PostgresCollection
from qvec.postgres.database import PostgresDatabase
from qvec.postgres.errors import connection_lost
from qvec.postgres.loading import Checkpoint
from qvec.postgres.schema import Connection
from qvec.postgres.statements import OnDuplicate

_CONFLICTS = (errors.UniqueViolation, errors.LockNotAvailable, errors.DeadlockDetected)
"""What tells that ids repeat; two open transactions with one id wait for each other until the lock times out."""
_LOCK_TIMEOUT = "5s"
_RETRY_SECONDS = (1, 2, 4, 8, 15, 30, 30, 30, 30, 30)


class LoadStoppedError(Exception):
    """The load was asked to stop; the checkpoint holds how far it came."""


@dataclass
class _Copying:
    """A batch being copied, not committed."""

    batch: EncodedBatch
    connection: Connection
    future: Future[None]


class Pipeline:
    """Loads the encoded batches of one source into one collection."""

    def __init__(
        self,
        database: PostgresDatabase,
        collection: PostgresCollection,
        source: str,
        checkpoint: Checkpoint,
        *,
        on_duplicate: OnDuplicate,
        workers: int,
        rejects: RejectsFile,
        reporter: Reporter,
        stop: Stop,
    ) -> None:
        self.checkpoint = checkpoint
        self.rows = 0
        self._database = database
        self._collection = collection
        self._source = source
        self._on_duplicate = on_duplicate
        self._workers = workers
        self._rejects = rejects
        self._reporter = reporter
        self._stop = stop
        self._staging = False
        self._connections: list[Connection] = []
        self._lock_connection: Connection | None = None

    def run(self, batches: Callable[[], Iterator[EncodedBatch]]) -> None:
        """Loads all batches and marks the source as finished.

        Raises what `batches` raises, DatabaseError when the database stays away, LoadStoppedError when stopped.
        """
        self._connect()
        try:
            with ReadAhead(batches) as ahead, ThreadPoolExecutor(self._workers) as executor:
                self._load(ahead, executor)
            self._finish()
        finally:
            self._disconnect()

    def _load(self, batches: ReadAhead[EncodedBatch], executor: ThreadPoolExecutor) -> None:
        copying: deque[_Copying] = deque()
        while self._fill(copying, batches, executor):
            try:
                self._commit(copying[0])
            except psycopg.Error as error:
                uncommitted = [item.batch for item in copying]
                self._abandon(copying)
                batches.put_back(self._recover(error, uncommitted))
            else:
                copying.popleft()
        if batches.error:
            raise batches.error
        if not batches.exhausted:
            raise LoadStoppedError

    def _fill(self, copying: deque[_Copying], batches: ReadAhead[EncodedBatch], executor: ThreadPoolExecutor) -> bool:
        """Starts as many batches as fit. False when none is left, or none is to be begun after a stop."""
        while len(copying) < self._width:
            batch = batches.take(only_put_back=self._stop.is_set())
            if batch is None:
                break
            copying.append(self._start(batch, executor, copying))
        return bool(copying)

    @property
    def _width(self) -> int:
        """Batches in flight: one while ids repeat, since then their order decides which row stays."""
        return 1 if self._staging else self._workers

    def _start(self, batch: EncodedBatch, executor: ThreadPoolExecutor, copying: deque[_Copying]) -> _Copying:
        busy = {id(item.connection) for item in copying}
        connection = next(free for free in self._connections if id(free) not in busy)
        return _Copying(batch, connection, executor.submit(self._write, connection, batch))

    def _write(self, connection: Connection, batch: EncodedBatch) -> None:
        """Writes a batch's rows in a transaction that stays open."""
        connection.execute("BEGIN")
        if not batch.count:
            return
        if self._staging:
            loading.merge_rows(connection, self._collection.table, batch.rows, self._on_duplicate)
        else:
            loading.copy_rows(connection, self._collection.table, batch.rows)

    def _commit(self, item: _Copying) -> None:
        """Waits for a batch's rows and commits them with the checkpoint after them."""
        item.future.result()
        batch = item.batch
        self._rejects.write(batch.rejected)
        after = replace(
            self.checkpoint,
            position=batch.stop,
            rejected=self.checkpoint.rejected + len(batch.rejected),
            rejects_size=self._rejects.size,
        )
        loading.write_checkpoint(item.connection, self._collection.name, self._source, after)
        item.connection.execute("COMMIT")
        self._passed(after, batch.count)

    def _passed(self, checkpoint: Checkpoint, rows: int) -> None:
        self.checkpoint = checkpoint
        self.rows += rows
        self._reporter.advance("loading", checkpoint.position)

    def _abandon(self, copying: deque[_Copying]) -> None:
        """Ends the transactions of all batches in flight, with nothing written."""
        for item in copying:
            item.future.exception()  # waits; a failed transaction is rolled back like any other
            if not item.connection.closed:
                try:
                    item.connection.execute("ROLLBACK")
                except psycopg.Error:
                    item.connection.close()
        copying.clear()

    def _recover(self, error: psycopg.Error, uncommitted: list[EncodedBatch]) -> list[EncodedBatch]:
        """The batches to load again, everything made ready for it. Raises the error when that cannot help."""
        if isinstance(error, _CONFLICTS) and not self._staging:
            self._staging = True
            return uncommitted
        if not connection_lost(error):
            raise error
        self._reconnect(error)
        return self._still_uncommitted(uncommitted)

    def _still_uncommitted(self, batches: list[EncodedBatch]) -> list[EncodedBatch]:
        """Leaves out batches that had committed when the connection broke before saying so."""
        found = loading.read_checkpoint(self._connections[0], self._collection.name, self._source)
        for batch in batches:
            if found and batch.stop <= found.position:
                self._passed(found, batch.count)
        return [batch for batch in batches if not found or batch.stop > found.position]

    def _reconnect(self, error: psycopg.Error) -> None:
        self._disconnect()
        for seconds in _RETRY_SECONDS:
            self._reporter.say(
                f"the connection was lost ({str(error).strip().splitlines()[0]}); next try in {seconds} s"
            )
            if self._stop.wait(seconds):
                raise LoadStoppedError
            try:
                self._connect()
                return
            except (DatabaseError, psycopg.Error):
                self._disconnect()
        raise error

    def _connect(self) -> None:
        self._lock_connection = self._database.connect()
        self._take_lock(self._lock_connection)
        for _ in range(self._workers):
            connection = self._database.connect()
            self._connections.append(connection)
            loading.settings_for_loading(connection)
            connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'".encode())

    def _take_lock(self, connection: Connection) -> None:
        """One load of a source at a time; a killed one's backend may need a moment to notice."""
        for _ in range(20):
            if loading.lock_source(connection, self._collection.name, self._source):
                return
            time.sleep(0.5)
        raise DatabaseError(f"another process is loading {self._source} into collection {self._collection.name!r}")

    def _disconnect(self) -> None:
        for connection in (*self._connections, self._lock_connection):
            if connection is not None:
                connection.close()
        self._connections, self._lock_connection = [], None

    def _finish(self) -> None:
        self.checkpoint = replace(self.checkpoint, finished=True)
        with self._connections[0].transaction():
            self._connections[0].execute("SET LOCAL synchronous_commit = on")
            loading.write_checkpoint(self._connections[0], self._collection.name, self._source, self.checkpoint)
