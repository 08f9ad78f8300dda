"""Loading into Qdrant: batches upserted, several at a time on a server, and behind them a checkpoint.

There are no transactions: a load that was interrupted finds some rows after its checkpoint there already, and writes
them again. Ids are the same each time, so nothing is doubled; a row that is refused is never before the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from qvec.errors import CollectionError, DatabaseError
from qvec.loading import Checkpoint, ConnectionLostError, EncodedBatch, OnDuplicate, Writing
from qvec.qdrant.errors import is_transient, reason
from qvec.qdrant.starts import QdrantStarts, checkpoint_of
from qvec.qdrant.versioning import turn_of

if TYPE_CHECKING:
    from qvec.qdrant.collection import QdrantCollection
    from qvec.qdrant.database import QdrantDatabase
    from qvec.qdrant.home import Home
    from qvec.qdrant.points import Points

_CHECKPOINT_SECONDS = 1.0
_BEGUN = "begun"
"""Key of a written load: rows before it may be there though the checkpoint has not come to them."""
_RUN = "run"
"""Key of a written load: the loader that began last to write it."""


class QdrantLoader:
    """One load of one source into one collection."""

    def __init__(
        self, database: QdrantDatabase, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
    ) -> None:
        self.width = 1 if on_duplicate == "error" else workers
        self._database = database
        self._home: Home = database.home
        self._run = database.run
        self._name = collection
        self._source = source
        self._on_duplicate = on_duplicate
        self._collection: QdrantCollection | None = None
        self._id = uuid4().hex
        self._begun = 0
        self._counts: dict[int, int] = {}
        """Rows that were new of each batch by its first source row: written once more, they are there already."""
        self._unwritten: Checkpoint | None = None
        self._written_at = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> QdrantLoader:
        self._stack.enter_context(self._home.loading(self._name, self._source))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @contextmanager
    def starting(self) -> Iterator[QdrantStarts]:
        with self._home.starting(self._name):
            yield QdrantStarts(self._database.collection(self._name), self._database, self._source)

    def connect(self, collection: QdrantCollection) -> None:
        """The first time, it takes the load over from whoever may still be at it."""
        with _told_apart():
            load = self._read()
            self._begun = load.get(_BEGUN, 0)
            if self._collection is None:
                self._run(self._home.write_load(self._name, self._source, {**load, _RUN: self._id}))
        self._collection = collection

    def disconnect(self) -> None:
        """Writes down the last checkpoint where that can be done: without it some batches are only written again."""
        if self._unwritten is not None:
            with suppress(Exception):  # what ended the load is what the user has to know
                self._write(self._unwritten)
            self._unwritten = None

    def write(self, batch: EncodedBatch, earlier: Sequence[Writing], executor: Executor) -> Writing:
        ids = set(batch.rows.ids)
        sharing = [writing.future for writing in earlier if not ids.isdisjoint(writing.batch.rows.ids)]
        return Writing(batch, executor.submit(self._upsert, batch, sharing))

    def _upsert(self, batch: EncodedBatch, sharing: Sequence[Future[int]]) -> int:
        """Writes a batch once those that share ids with it are written: their order decides which row stays."""
        for future in sharing:
            future.result()
        if not batch.count:
            return 0
        assert self._collection is not None
        self._check_version(self._collection)
        rows = self._new_rows(self._collection, batch)
        count = self._counts.setdefault(batch.start, len(rows))
        if len(rows):
            self._run(self._collection.engine().upsert(rows))
            self._check_version(self._collection)
        return count

    def _check_version(self, collection: QdrantCollection) -> None:
        """Raises CollectionError where the collection was exchanged for another version: rows are encoded for one."""
        if turn_of(self._run(collection.settled())) != collection.turn:
            raise CollectionError(
                f"collection {self._name!r} was recalibrated while it was loaded; run the same load again, and it goes "
                "on where it was"
            )

    def _new_rows(self, collection: QdrantCollection, batch: EncodedBatch) -> Points:
        """The rows of a batch that are to be written. Where an id that is there is an error, it is written down first
        that they were not: should the load be interrupted, those that are there then are its own."""
        if self._on_duplicate != "error":
            return self._run(collection.admitted(batch.rows, self._on_duplicate))
        load = self._read_own()
        rows = self._run(collection.admitted(batch.rows, "error", ours=_rows_before(self._begun, batch)))
        begun = max(batch.stop, load.get(_BEGUN, 0))
        self._run(self._home.write_load(self._name, self._source, {**load, _BEGUN: begun}))
        return rows

    def wait(self, writing: Writing) -> int:
        with _told_apart():
            try:
                return writing.future.result()
            except KeyboardInterrupt:
                self._unwritten = None
                self._database.break_off()
                raise

    def commit(self, writing: Writing, checkpoint: Checkpoint) -> None:  # noqa: ARG002 - batches come in order
        """Writes the checkpoint down when the last one is a while ago: what is behind it has to be on disk first."""
        self._unwritten = checkpoint
        if self._on_duplicate == "error" or time.monotonic() - self._written_at >= _CHECKPOINT_SECONDS:
            with _told_apart():
                self._write(checkpoint)

    def abandon(self, writings: Sequence[Writing]) -> None:
        """Batches on their way cannot be called back; they are waited for, and written again later."""
        wait([writing.future for writing in writings])

    def read_checkpoint(self) -> Checkpoint | None:
        with _told_apart():
            try:
                return checkpoint_of(self._read())
            except CollectionError:
                return None

    def finish(self, checkpoint: Checkpoint) -> None:
        with _told_apart():
            self._write(checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        assert self._collection is not None
        self._run(self._collection.engine().flush())
        self._read_own()
        self._run(self._home.write_load(self._name, self._source, {**asdict(checkpoint), _RUN: self._id}))
        self._unwritten = None
        self._written_at = time.monotonic()

    def _read(self) -> dict[str, Any]:
        """What is written down of this load. Raises CollectionError when it is gone with its collection."""
        load = self._run(self._home.read_load(self._name, self._source))
        if load is None:
            raise CollectionError(f"collection {self._name!r} was dropped while it was loaded")
        return load

    def _read_own(self) -> dict[str, Any]:
        """The same; raises DatabaseError when another loader has taken the load over."""
        load = self._read()
        if load.get(_RUN) != self._id:
            raise DatabaseError(f"another process began to load {self._source} into collection {self._name!r}")
        return load


def _rows_before(position: int, batch: EncodedBatch) -> int:
    """How many of a batch's rows are of source rows before this one."""
    rejected = sum(row.row < position for row in batch.rejected)
    return max(min(position, batch.stop) - batch.start - rejected, 0)


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turns the error of an overloaded or lost server into ConnectionLostError; others stay as they are."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise ConnectionLostError(reason(error)) from error
        raise
