"""The load pipeline: batches are read ahead in a thread, written several at a time, and committed in order.

One number, the checkpoint, says how far a load has come, and an interrupted load continues there. Postgres commits
each batch and the checkpoint after it in one transaction; in Qdrant the checkpoint may be some batches behind the rows.
After a lost connection a load continues at the checkpoint in the database: it may be one batch ahead of the last
acknowledged one, or some batches behind, in Qdrant and after a crash of the Postgres server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from qvec.client import Collection
from qvec.errors import CollectionError, DatabaseError
from qvec.ingest.load_options import Reporter, Stop
from qvec.ingest.read_ahead import ReadAhead
from qvec.ingest.rejects import RejectsFile
from qvec.store.loads import Checkpoint, ConnectionLostError, EncodedBatch, Loader, PendingBatch, RepeatedIdError

_RETRY_SECONDS = (1, 2, 4, 8, 15, 30, 30, 30, 30, 30)


class LoadStoppedError(Exception):
    """The load was asked to stop; its checkpoint holds how far it came."""


class Pipeline:
    """Loads the encoded batches of one source into one collection."""

    def __init__(
        self,
        loader: Loader,
        collection: Collection,
        checkpoint: Checkpoint,
        *,
        rejects: RejectsFile,
        reporter: Reporter,
        stop: Stop,
    ) -> None:
        self.checkpoint = checkpoint
        self._loader = loader
        self._collection = collection
        self._rejects = rejects
        self._reporter = reporter
        self._stop = stop
        self._counts: dict[int, int] = {}
        """Rows of each committed batch of this run, by the last source row of the batch."""
        self._waits = iter(_RETRY_SECONDS)
        """Seconds before each further try; every commit resets them."""

    @property
    def rows(self) -> int:
        """Rows written by this run, up to the checkpoint."""
        return sum(count for stop, count in self._counts.items() if stop <= self.checkpoint.position)

    def run(self, batches: Callable[[int], Iterator[EncodedBatch]]) -> None:
        """Load all batches, which `batches` yields from a source row on, and mark the source as finished.

        Raise what `batches` raises, DatabaseError while the database stays unreachable, LoadStoppedError when stopped.
        """
        try:
            while not self.checkpoint.finished:
                try:
                    self._loader.connect(self._collection.stored)
                    self._load_from(self.checkpoint.position, batches)
                    self._finish()
                except ConnectionLostError as error:
                    self._reconnect(error)
        finally:
            self._loader.disconnect()

    def _load_from(self, position: int, batches: Callable[[int], Iterator[EncodedBatch]]) -> None:
        with (
            ReadAhead(lambda: batches(position), self._stop) as ahead,
            ThreadPoolExecutor(self._loader.width) as executor,
        ):
            self._load(ahead, executor)

    def _load(self, batches: ReadAhead[EncodedBatch], executor: ThreadPoolExecutor) -> None:
        pending: deque[PendingBatch] = deque()
        while self._fill(pending, batches, executor):
            try:
                self._commit(pending[0])
            except RepeatedIdError:
                uncommitted = [one.batch for one in pending]
                self._loader.abandon(pending)
                pending.clear()
                batches.put_back(uncommitted)
            else:
                pending.popleft()
        if batches.error:
            raise batches.error
        if not batches.exhausted:
            raise LoadStoppedError

    def _fill(
        self, pending: deque[PendingBatch], batches: ReadAhead[EncodedBatch], executor: ThreadPoolExecutor
    ) -> bool:
        """Start as many batches as fit. Return False where none is left, or none may start after a stop."""
        while len(pending) < self._loader.width:
            batch = batches.take()
            if batch is None:
                break
            pending.append(self._loader.write(batch, pending, executor))
        return bool(pending)

    def _commit(self, first: PendingBatch) -> None:
        """Wait for a batch; commit it and the checkpoint after it."""
        written = self._loader.wait(first)
        batch = first.batch
        self._rejects.write(batch.rejected)
        after = replace(
            self.checkpoint,
            position=batch.stop,
            rejected=self.checkpoint.rejected + len(batch.rejected),
            rejects_size=self._rejects.size,
        )
        self._counts[batch.stop] = written
        self._loader.commit(first, after)
        self.checkpoint = after
        self._waits = iter(_RETRY_SECONDS)
        self._reporter.advance("loading", after.position)

    def _reconnect(self, error: ConnectionLostError) -> None:
        """Connect again, with growing pauses, and resume at the checkpoint in the database."""
        self._loader.disconnect()
        for seconds in self._waits:
            self._reporter.say(f"the connection was lost ({error}); next try in {seconds} s")
            if self._stop.wait(seconds):
                raise LoadStoppedError
            try:
                self._loader.connect(self._collection.stored)
                found = self._loader.read_checkpoint()
            except DatabaseError:
                self._loader.disconnect()
            else:
                self._resume(found)
                return
        raise error.__cause__ or error

    def _resume(self, found: Checkpoint | None) -> None:
        if found is None:
            raise CollectionError(f"collection {self._collection.name!r} was dropped while it was loaded")
        self.checkpoint = found
        self._rejects.resume(found.rejects_size)

    def _finish(self) -> None:
        finished = replace(self.checkpoint, finished=True)
        self._loader.finish(finished)
        self.checkpoint = finished
