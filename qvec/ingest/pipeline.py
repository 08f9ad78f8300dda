"""Batches into the table: read ahead in a thread, copied by one or more connections, committed in order.

A batch's rows and the checkpoint after it commit in one transaction, and batches commit in the order of the source.
So the checkpoint is one number, and whatever ends the process, the table holds exactly the rows before it. After a lost
connection the load goes on at the checkpoint that the database has: it may be a batch ahead of what was heard of it or,
when the server crashed, some batches behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import psycopg
from psycopg import errors

from qvec.errors import CollectionError, DatabaseError
from qvec.ingest.batches import EncodedBatch
from qvec.ingest.lock import SourceLock
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
_LOCK_TIMEOUT = "1s"
_RETRY_SECONDS = (1, 2, 4, 8, 15, 30, 30, 30, 30, 30)


class LoadStoppedError(Exception):
    """The load was asked to stop; the checkpoint holds how far it came."""


@dataclass
class _Copying:
    """A batch being copied, not committed."""

    batch: EncodedBatch
    connection: Connection
    future: Future[int]


class Pipeline:
    """Loads the encoded batches of one source into one collection."""

    def __init__(
        self,
        database: PostgresDatabase,
        lock: SourceLock,
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
        self._database = database
        self._lock = lock
        self._collection = collection
        self._source = source
        self._on_duplicate = on_duplicate
        self._workers = workers
        self._rejects = rejects
        self._reporter = reporter
        self._stop = stop
        self._staging = False
        self._connections: list[Connection] = []
        self._counts: dict[int, int] = {}
        """Rows of each batch that this run committed, by the batch's last source row."""
        self._waits = iter(_RETRY_SECONDS)
        """Seconds before each further try; begun anew by each commit."""

    @property
    def rows(self) -> int:
        """Rows that this run wrote, up to the checkpoint."""
        return sum(count for stop, count in self._counts.items() if stop <= self.checkpoint.position)

    def run(self, batches: Callable[[int], Iterator[EncodedBatch]]) -> None:
        """Loads all batches, which `batches` gives from a source row on, and marks the source as finished.

        Raises what `batches` raises, DatabaseError when the database stays away, LoadStoppedError when stopped.
        """
        try:
            while not self.checkpoint.finished:
                try:
                    if not self._connections:
                        self._connect()
                    self._load_from(self.checkpoint.position, batches)
                    self._finish()
                except psycopg.Error as error:
                    if not connection_lost(error):
                        raise
                    self._reconnect(error)
        finally:
            self._disconnect()

    def _load_from(self, position: int, batches: Callable[[int], Iterator[EncodedBatch]]) -> None:
        with ReadAhead(lambda: batches(position)) as ahead, ThreadPoolExecutor(self._workers) as executor:
            self._load(ahead, executor)

    def _load(self, batches: ReadAhead[EncodedBatch], executor: ThreadPoolExecutor) -> None:
        copying: deque[_Copying] = deque()
        while self._fill(copying, batches, executor):
            try:
                self._commit(copying[0])
            except _CONFLICTS as error:
                if self._staging and not isinstance(error, errors.DeadlockDetected):
                    raise
                uncommitted = [item.batch for item in copying]
                self._abandon(copying)
                self._staging = True
                batches.put_back(uncommitted)
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

    def _write(self, connection: Connection, batch: EncodedBatch) -> int:
        """Writes a batch's rows in a transaction that stays open; returns how many were not skipped."""
        waits = self._staging or self._workers == 1
        connection.execute("BEGIN" if waits else f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
        if not batch.count:
            return 0
        if self._staging:
            return loading.merge_rows(connection, self._collection.table, batch.rows, self._on_duplicate)
        return loading.copy_rows(connection, self._collection.table, batch.rows)

    def _commit(self, item: _Copying) -> None:
        """Waits for a batch's rows and commits them with the checkpoint after them."""
        written = item.future.result()
        batch = item.batch
        self._rejects.write(batch.rejected)
        after = replace(
            self.checkpoint,
            position=batch.stop,
            rejected=self.checkpoint.rejected + len(batch.rejected),
            rejects_size=self._rejects.size,
        )
        loading.write_checkpoint(item.connection, self._collection.name, self._source, after)
        self._counts[batch.stop] = written
        item.connection.execute("COMMIT")
        self.checkpoint = after
        self._waits = iter(_RETRY_SECONDS)
        self._reporter.advance("loading", after.position)

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

    def _reconnect(self, error: psycopg.Error) -> None:
        """Connects again, with growing waits, and takes up the checkpoint that is in the database."""
        self._disconnect()
        for seconds in self._waits:
            reason = str(error).strip().partition("\n")[0]
            self._reporter.say(f"the connection was lost ({reason}); next try in {seconds} s")
            if self._stop.wait(seconds):
                raise LoadStoppedError
            try:
                self._connect()
                found = loading.read_checkpoint(self._connections[0], self._collection.name, self._source)
            except (DatabaseError, psycopg.Error):
                self._disconnect()
            else:
                self._resume(found)
                return
        raise error

    def _resume(self, found: Checkpoint | None) -> None:
        if found is None:
            raise CollectionError(f"collection {self._collection.name!r} was dropped while it was loaded")
        self.checkpoint = found
        self._rejects.resume(found.rejects_size)

    def _connect(self) -> None:
        self._connections = [self._lock.take()]
        while len(self._connections) < self._workers:
            self._connections.append(self._database.connect())
        for connection in self._connections:
            loading.settings_for_loading(connection)

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections = []
        self._lock.release()

    def _finish(self) -> None:
        finished = replace(self.checkpoint, finished=True)
        with self._connections[0].transaction():
            self._connections[0].execute("SET LOCAL synchronous_commit = on")
            loading.write_checkpoint(self._connections[0], self._collection.name, self._source, finished)
        self.checkpoint = finished
