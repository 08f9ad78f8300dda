"""Loading into Qdrant: batches upserted, several at a time on a server, and behind them a checkpoint.

There are no transactions: a load that was interrupted finds some rows after its checkpoint there already, and writes
them again. Ids are the same each time, so nothing is doubled; a row that is refused is never before the checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qvec.errors import CollectionError, InputError
from qvec.loading import Checkpoint, ConnectionLostError, EncodedBatch, OnDuplicate, Writing
from qvec.qdrant.errors import is_transient, reason

if TYPE_CHECKING:
    from qvec.qdrant.collection import QdrantCollection
    from qvec.qdrant.database import Home, QdrantDatabase

_CHECKPOINT_SECONDS = 1.0
_BEGUN = "begun"
"""Key of a written load: rows before it may be there though the checkpoint has not come to them."""


class QdrantLoader:
    """One load of one source into one collection."""

    def __init__(
        self, database: QdrantDatabase, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
    ) -> None:
        self.width = 1 if on_duplicate == "error" else workers
        self._database = database
        self._home: Home = database.home
        self._name = collection
        self._source = source
        self._on_duplicate = on_duplicate
        self._collection: QdrantCollection | None = None
        self._begun = 0
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
            yield QdrantStarts(self._database.collection(self._name), self._home, self._source)

    def connect(self, collection: QdrantCollection) -> None:
        self._collection = collection
        with _told_apart():
            load = self._home.read_loads(self._name).get(self._source) or {}
        self._begun = load.get(_BEGUN, 0)

    def disconnect(self) -> None:
        """Writes down the last checkpoint, where the database is there to do so."""
        if self._unwritten is not None:
            try:
                with _told_apart():
                    self._write(self._unwritten)
            except ConnectionLostError:
                self._unwritten = None

    def write(self, batch: EncodedBatch, earlier: Sequence[Writing], executor: Executor) -> Writing:
        ids = set(batch.rows.ids)
        sharing = [writing.future for writing in earlier if not ids.isdisjoint(writing.batch.rows.ids)]
        return Writing(batch, executor.submit(self._upsert, batch, sharing))

    def _upsert(self, batch: EncodedBatch, sharing: Sequence[Future[int]]) -> int:
        """Writes a batch once those that share ids with it are through: their order decides which row stays."""
        wait(sharing)
        if not batch.count:
            return 0
        assert self._collection is not None
        ours = batch.start < self._begun
        if self._on_duplicate == "error" and not ours:
            self._announce(batch.stop)
        return self._collection.write(batch.rows, self._on_duplicate, ours=ours)

    def _announce(self, stop: int) -> None:
        """Writes down that rows up to `stop` may be this load's own, should it be interrupted."""
        load = self._home.read_loads(self._name)[self._source]
        self._home.write_load(self._name, self._source, {**load, _BEGUN: max(stop, load.get(_BEGUN, 0))})

    def wait(self, writing: Writing) -> int:
        with _told_apart():
            return writing.future.result()

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
                load = self._home.read_loads(self._name).get(self._source)
            except CollectionError:
                return None
        return load and _checkpoint(load)

    def finish(self, checkpoint: Checkpoint) -> None:
        with _told_apart():
            self._write(checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        assert self._collection is not None
        self._collection.engine().flush()
        self._home.write_load(self._name, self._source, asdict(checkpoint))
        self._unwritten = None
        self._written_at = time.monotonic()


@dataclass(frozen=True)
class QdrantStarts:
    """What stands written of a collection's loads."""

    collection: QdrantCollection
    home: Home
    source: str

    def read(self) -> Checkpoint | None:
        load = self.home.read_loads(self.collection.name).get(self.source)
        return None if load is None else _checkpoint(load)

    def write(self, checkpoint: Checkpoint) -> None:
        """Raises InputError when another load whose rows get numbers began at the same time: both see the other."""
        self.home.write_load(self.collection.name, self.source, asdict(checkpoint))
        if checkpoint.first_id is None or checkpoint.position:
            return
        others = self._unfinished()
        if any(other.first_id is not None and other.first_id >= checkpoint.first_id for other in others.values()):
            self.home.write_load(self.collection.name, self.source, None)
            raise InputError(f"{next(iter(others))} began to load at the same time and has no ids either; run again")

    def next_id(self) -> int:
        return self.collection.next_id()

    def numbered_and_unfinished(self) -> str | None:
        return next(iter(self._unfinished()), None)

    def _unfinished(self) -> dict[str, Checkpoint]:
        loads = {source: _checkpoint(load) for source, load in self.home.read_loads(self.collection.name).items()}
        return {
            source: load
            for source, load in loads.items()
            if source != self.source and load.first_id is not None and not load.finished
        }


def _checkpoint(load: dict[str, Any]) -> Checkpoint:
    return Checkpoint(**{key: value for key, value in load.items() if key != _BEGUN})


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turns the error of an overloaded or lost server into ConnectionLostError; others stay as they are."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise ConnectionLostError(reason(error)) from error
        raise
