"""Bulk loads into Qdrant: batches are upserted, several at a time on a server, and a checkpoint follows them.

Qdrant has no transactions: a load that was interrupted finds some rows after its checkpoint already written, and writes
them again. Their ids are the same each time, so no row is doubled. A row that stops the load is never before the
checkpoint, so the next run meets it again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, fields
from types import TracebackType
from typing import Any
from uuid import uuid4

from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.qdrant._sync.collection import QdrantCollection
from qvec.qdrant._sync.store import QdrantStore
from qvec.qdrant._sync.view import CollectionView
from qvec.qdrant.errors import is_transient, reason
from qvec.qdrant.points import Points
from qvec.qdrant.version_record import generation_of
from qvec.store.loads import Checkpoint, ConnectionLostError, EncodedBatch, PendingBatch
from qvec.store.requests import OnDuplicate

_CHECKPOINT_SECONDS = 1.0
_BEGUN = "begun"
"""Key of a stored load: source rows before this one may be written already, though the checkpoint is behind them."""
_RUN = "run"
"""Key of a stored load: the loader that started last to write it."""
_CHECKPOINT_FIELDS = frozenset(field.name for field in fields(Checkpoint))


def open_loader(
    store: QdrantStore, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
) -> QdrantLoader:
    """Return a load of one source into a collection, which need not exist yet."""
    return QdrantLoader(store, collection, source, on_duplicate, workers)


class QdrantLoader:
    """One load of one source into one collection; see `qvec.store.loads.Loader`."""

    def __init__(
        self, store: QdrantStore, collection: str, source: str, on_duplicate: OnDuplicate, workers: int
    ) -> None:
        self.width = 1 if on_duplicate == "error" or store.embedded else workers
        self._store = store
        self._backend = store.backend
        self._name = collection
        self._source = source
        self._on_duplicate = on_duplicate
        self._collection: QdrantCollection | None = None
        self._id = uuid4().hex
        self._begun = 0
        self._counts: dict[int, int] = {}
        """New rows of each batch, by its first source row: where it is written again, they exist already."""
        self._unwritten: Checkpoint | None = None
        self._written_at = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> QdrantLoader:
        self._stack.enter_context(self._backend.load_lock(self._name, self._source))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @contextmanager
    def registry(self) -> Iterator[QdrantLoadRegistry]:
        with self._backend.registry_lock():
            yield QdrantLoadRegistry(self._store, self._name, self._source)

    def connect(self, collection: QdrantCollection) -> None:
        """Prepare to write; the first call takes the load over from any process that still runs it."""
        with _connection_errors():
            load = self._read()
            self._begun = load.get(_BEGUN, 0)
            if self._collection is None:
                self._backend.write_load(self._name, self._source, {**load, _RUN: self._id})
        self._collection = collection

    def disconnect(self) -> None:
        """Write the last checkpoint if possible: without it some batches are only written again."""
        if self._unwritten is not None:
            with suppress(Exception):  # the user has to see the error that ended the load
                self._write_checkpoint(self._unwritten)
            self._unwritten = None

    # Batches

    def write(self, batch: EncodedBatch, earlier: Sequence[PendingBatch], executor: Executor) -> PendingBatch:
        ids = set(batch.rows.ids)
        sharing = [pending.future for pending in earlier if not ids.isdisjoint(pending.batch.rows.ids)]
        return PendingBatch(batch, executor.submit(self._upsert, batch, sharing))

    def _upsert(self, batch: EncodedBatch, sharing: Sequence[Future[int]]) -> int:
        """Write a batch after those that share ids with it: the last row with an id stays."""
        for future in sharing:
            future.result()
        if not batch.count:
            return 0
        view = self._current_view()
        rows = self._new_rows(view, batch)
        count = self._counts.setdefault(batch.start, len(rows))
        if len(rows):
            view.engine().upsert(rows)
            self._current_view()
        return count

    def _current_view(self) -> CollectionView:
        """Return the view that rows are encoded for. Raise CollectionError where another version is in use."""
        assert self._collection is not None
        view = self._collection.view
        if generation_of(self._collection.settled()) != view.version.generation:
            raise CollectionError(
                f"collection {self._name!r} was recalibrated while it was loaded; run the same load again, and it goes "
                "on where it was"
            )
        return view

    def _new_rows(self, view: CollectionView, batch: EncodedBatch) -> Points:
        """Return the rows of a batch that are to be written.

        Where an existing id is an error, first store that none of them existed: if the load is interrupted, those that
        exist then are its own.
        """
        if self._on_duplicate != "error":
            return view.admitted(batch.rows, self._on_duplicate)
        load = self._read_own()
        rows = view.admitted(batch.rows, "error", own=_rows_before(self._begun, batch))
        begun = max(batch.stop, load.get(_BEGUN, 0))
        self._backend.write_load(self._name, self._source, {**load, _BEGUN: begun})
        return rows

    def wait(self, pending: PendingBatch) -> int:
        with _connection_errors():
            try:
                return pending.future.result()
            except KeyboardInterrupt:
                self._unwritten = None
                self._store.break_off()
                raise

    def abandon(self, pending: Sequence[PendingBatch]) -> None:
        """Wait for batches in flight, which cannot be called back; they are written again later."""
        wait([batch.future for batch in pending])

    # Checkpoints

    def commit(self, pending: PendingBatch, checkpoint: Checkpoint) -> None:  # noqa: ARG002 - batches come in order
        """Write the checkpoint where the last one is some time ago: the rows before it have to be on disk first."""
        self._unwritten = checkpoint
        if self._on_duplicate == "error" or time.monotonic() - self._written_at >= _CHECKPOINT_SECONDS:
            with _connection_errors():
                self._write_checkpoint(checkpoint)

    def finish(self, checkpoint: Checkpoint) -> None:
        with _connection_errors():
            self._write_checkpoint(checkpoint)

    def read_checkpoint(self) -> Checkpoint | None:
        with _connection_errors():
            try:
                return checkpoint_of(self._read())
            except CollectionError:
                return None

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        assert self._collection is not None
        self._collection.view.engine().flush()
        self._read_own()
        self._backend.write_load(self._name, self._source, {**asdict(checkpoint), _RUN: self._id})
        self._unwritten = None
        self._written_at = time.monotonic()

    def _read(self) -> dict[str, Any]:
        """Return the stored load. Raise CollectionError where it was dropped with its collection."""
        self._store.check_open()
        load = self._backend.read_load(self._name, self._source)
        if load is None:
            raise CollectionError(f"collection {self._name!r} was dropped while it was loaded")
        return load

    def _read_own(self) -> dict[str, Any]:
        """Return the stored load. Raise DatabaseError where another loader has taken it over."""
        load = self._read()
        if load.get(_RUN) != self._id:
            raise DatabaseError(f"another process began to load {self._source} into collection {self._name!r}")
        return load


class QdrantLoadRegistry:
    """The stored loads of a collection; see `qvec.store.loads.LoadRegistry`.

    A server has no locks. A load that starts stores its checkpoint and reads the registry once more: of two that start
    at the same time at least one sees the other, and withdraws before it has written a row.
    """

    def __init__(self, store: QdrantStore, collection: str, source: str) -> None:
        self._view = CollectionView(store.catalog, store.catalog.find(collection))
        self._backend = store.backend
        self._name = collection
        self._source = source
        self._found: dict[str, Any] | None = None
        self._took_next_id = False

    def read(self) -> Checkpoint | None:
        self._found = self._backend.read_load(self._name, self._source)
        return None if self._found is None else checkpoint_of(self._found)

    def write(self, checkpoint: Checkpoint) -> None:
        """Raise DatabaseError where this source, InputError where another one without ids, started meanwhile."""
        if self._backend.read_load(self._name, self._source) != self._found:
            raise DatabaseError(f"another process began to load {self._source} into collection {self._name!r}")
        self._backend.write_load(self._name, self._source, asdict(checkpoint))
        if self._took_next_id:
            self._check_alone(checkpoint)

    def _check_alone(self, checkpoint: Checkpoint) -> None:
        other = self.unfinished_without_ids()
        if other is not None or self._view.next_id() != checkpoint.first_id:
            self._backend.write_load(self._name, self._source, self._found)
            raise InputError(
                f"{other or 'another source'} began to load into collection {self._name!r} at the same time; neither "
                "has ids, so run this load again"
            )

    def next_id(self) -> int:
        self._took_next_id = True
        return self._view.next_id()

    def unfinished_without_ids(self) -> str | None:
        for source, load in self._backend.read_loads(self._name).items():
            found = checkpoint_of(load)
            if source != self._source and found.first_id is not None and not found.finished:
                return source
        return None


def read_checkpoints(store: QdrantStore, collection: str) -> dict[str, Checkpoint]:
    """Return how far each source was loaded into a collection, by its location."""
    store.check_open()
    return {source: checkpoint_of(load) for source, load in store.backend.read_loads(collection).items()}


def checkpoint_of(load: dict[str, Any]) -> Checkpoint:
    """Return the checkpoint in a stored load."""
    return Checkpoint(**{key: value for key, value in load.items() if key in _CHECKPOINT_FIELDS})


def _rows_before(position: int, batch: EncodedBatch) -> int:
    """Return how many rows of a batch come from source rows before a position."""
    rejected = sum(row.row < position for row in batch.rejected)
    return max(min(position, batch.stop) - batch.start - rejected, 0)


@contextmanager
def _connection_errors() -> Iterator[None]:
    """Raise ConnectionLostError for the errors of an overloaded or lost server; others stay as they are."""
    try:
        yield
    except Exception as error:
        if is_transient(error):
            raise ConnectionLostError(reason(error)) from error
        raise
