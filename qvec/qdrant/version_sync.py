"""Version syncs in Qdrant: two versions of a collection are compared row by row before they are switched.

Qdrant has no record of what is written to a collection, so all rows are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from qvec.arrays import metadata_array
from qvec.calibration import Calibration
from qvec.errors import CollectionError, DatabaseError
from qvec.qdrant._sync.store import QdrantStore
from qvec.qdrant._sync.view import CollectionView
from qvec.qdrant.loader import checkpoint_of
from qvec.qdrant.points import PointId, Points, StoredPoint, plain, stored_vectors
from qvec.qdrant.version_record import VersionRecord, generation_of, version_name
from qvec.store.versions import UnsyncedRows, Version, cut

_PAGE = 1_000
_ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-24}
"""The largest relative error of a stored number."""
_SMALLEST = 2.0**-24
"""The smallest number of float16; half of it is the largest error near zero."""


def open_version_sync(store: QdrantStore, collection: str) -> QdrantVersionSync:
    """Return the version sync of a collection."""
    return QdrantVersionSync(store, collection)


class QdrantVersionSync:
    """The versions of one collection; see `qvec.store.versions.VersionSync`."""

    def __init__(self, store: QdrantStore, name: str) -> None:
        self._store = store
        self._backend = store.backend
        self._name = name
        self._stack = ExitStack()

    def __enter__(self) -> QdrantVersionSync:
        """Take the lock that a directory has; on a server, the loads of two processes into the new version collide."""
        try:
            self._stack.enter_context(self._backend.load_lock(self._name, "qvec recalibrate"))
        except DatabaseError:
            raise DatabaseError(f"another thread is recalibrating collection {self._name!r}") from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def other(self) -> Version | None:
        """Return the other version; None also where its creation or drop was interrupted."""
        record = self._record()
        if record is None or record.other is None or self._backend.describe(record.other) is None:
            return None
        name = version_name(self._name, record.calibration)
        return Version(name, "new" if record.kind == "new" else "old", record.calibration)

    def begin(self, calibration: Calibration) -> Version:
        """Create an empty new version. Raise CollectionError where the collection keeps no floats to compare."""
        used = self._view(self._name)
        if used.layout.rescore not in _ROUNDING:
            raise CollectionError(
                f"collection {self._name!r} keeps {used.layout.rescore} codes and no floats, by which to tell what is "
                "written while it is recalibrated; load its source into a new collection, and switch to that"
            )
        name = version_name(self._name, calibration.id)
        layout = replace(used.layout, dimensions=calibration.dimensions)
        generation = generation_of(self._record())
        self._write(VersionRecord(used.version.points, name, "new", calibration.id, generation=generation))
        self._backend.create(name, replace(used.description, calibration=calibration, layout=layout))
        return Version(name, "new", calibration.id)

    def texts(self, ids: Sequence[int | str]) -> dict[int | str, tuple[str | None, str | None]]:
        hits = [hit for hit in self._view(self._name).get(ids) if hit]
        metadata = metadata_array([hit.metadata for hit in hits])
        texts = [None] * len(hits) if metadata is None else metadata.to_pylist()
        return {hit.id: (hit.document, text) for hit, text in zip(hits, texts, strict=True)}

    def first_id(self, source: str) -> int | None:
        load = self._backend.read_load(self._name, source)
        return None if load is None else checkpoint_of(load).first_id

    def finish(self, name: str) -> None:
        _copy_indexes(self._view(self._name), self._view(name))

    def catch_up(self) -> UnsyncedRows:
        used, other, _ = self._pair()
        return RowComparison(used, other).sync()

    def switch(self, *, allow_missing: bool) -> UnsyncedRows:
        """Make writes wait while all rows are compared once more, then switch in one write; searches never wait."""
        used, other, record = self._pair()
        self._write(replace(record, is_switching=True))
        try:
            unsynced = RowComparison(used, other).sync()
            if unsynced and not allow_missing:
                raise CollectionError(f"of the rows of collection {self._name!r} {unsynced} in its other version")
            _copy_indexes(used, other)
            other.set_oversampling(used.description.oversampling)
        except BaseException:
            self._write(replace(record, is_switching=False))
            raise
        switched = VersionRecord(
            used=other.version.points,
            other=used.version.points,
            kind="old" if record.kind == "new" else "new",
            calibration=used.calibration.id,
            generation=record.generation + 1,
        )
        self._write(switched)
        return unsynced

    def drop(self) -> None:
        record = self._record()
        if record is None or record.other is None:
            return
        self._store.catalog.check_writable()
        self._store.catalog.drop_other(self._name, record)

    def _record(self) -> VersionRecord | None:
        self._store.check_open()
        return self._backend.read_record(self._name)

    def _write(self, record: VersionRecord) -> None:
        self._store.catalog.check_writable()
        self._backend.write_record(self._name, record)

    def _view(self, name: str) -> CollectionView:
        """Return a collection's version in use, or a version by its name."""
        return CollectionView(self._store.catalog, self._store.catalog.find(name))

    def _pair(self) -> tuple[CollectionView, CollectionView, VersionRecord]:
        """Return the version in use, the other one, and the version record."""
        other, record = self.other(), self._record()
        if other is None or record is None:
            raise CollectionError(f"collection {self._name!r} has no other version")
        return self._view(self._name), self._view(other.name), record


def _copy_indexes(used: CollectionView, other: CollectionView) -> None:
    """Create the indexes on metadata and texts that the other version lacks."""
    existing = other.engine().payload_indexes()
    for field, schema in used.engine().payload_indexes().items():
        if field not in existing:
            other.engine().create_payload_index(field, schema)


class RowComparison:
    """Compares the version in use with the other one, and copies the rows that differ. Both keep floats."""

    def __init__(self, used: CollectionView, other: CollectionView) -> None:
        self._used = used
        self._other = other
        self._has_originals = used.layout.dimensions >= other.layout.dimensions
        """Whether the version in use has all dimensions of the other one."""

    def sync(self) -> UnsyncedRows:
        """Make the other version hold the same rows; return the rows that it cannot receive."""
        unsynced = UnsyncedRows(0, 0)
        start: PointId | None = 0
        while start is not None:
            stored, start = self._used.engine().scroll(start, _PAGE, vectors=True)
            if stored:
                found = self._sync_page(stored)
                unsynced = UnsyncedRows(unsynced.missing + found.missing, unsynced.outdated + found.outdated)
        self._delete_surplus()
        self._other.engine().flush()
        return unsynced

    def _delete_surplus(self) -> None:
        start: PointId | None = 0
        while start is not None:
            stored, start = self._other.engine().scroll(start, _PAGE, vectors=False)
            ids = [plain(point.id) for point in stored]
            kept = self._used.engine().retrieve(ids, payload=False)
            surplus = set(ids) - {plain(point.id) for point in kept}
            if surplus:
                self._other.engine().delete(list(surplus))

    def _sync_page(self, stored: Sequence[StoredPoint]) -> UnsyncedRows:
        """Copy those of the used version's rows that the other one lacks or holds differently."""
        ids = [plain(point.id) for point in stored]
        payloads = [point.payload or {} for point in stored]
        used = np.stack([point.vector for point in stored if point.vector is not None])
        theirs = {plain(point.id): point for point in self._other.engine().retrieve(ids, payload=True, vectors=True)}
        vectors = np.zeros((len(ids), self._other.layout.dimensions), np.float32)
        for row, id in enumerate(ids):
            if id in theirs:
                vectors[row] = theirs[id].vector
        both = [row for row, id in enumerate(ids) if id in theirs]
        missing = [row for row, id in enumerate(ids) if id not in theirs]
        outdated = [row for row, same in zip(both, self._same(used[both], vectors[both]), strict=True) if not same]
        changed = {row for row in both if payloads[row] != (theirs[ids[row]].payload or {})}
        if self._has_originals:
            copied = missing + outdated
            vectors[copied] = self._converted(used[copied])
            changed.update(copied)
        if changed:
            self._other.engine().upsert(Points(ids, vectors, payloads).take(sorted(changed)))
        return UnsyncedRows(0, 0) if self._has_originals else UnsyncedRows(len(missing), len(outdated))

    def _converted(self, used: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors as the used version stores them (n, d) as the other version does."""
        calibration = self._other.calibration
        vectors = cut(used + self._used.calibration.threshold, calibration)
        return stored_vectors(vectors, calibration, self._other.layout, "prepared")

    def _same(self, used: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which stored vectors (n, d) of both versions are of the same vector: they differ by rounding alone."""
        left_from, right_from = self._used.calibration, self._other.calibration
        fewer = min(left_from, right_from, key=lambda calibration: calibration.dimensions)
        left, right = cut(used + left_from.threshold, fewer), cut(other + right_from.threshold, fewer)
        thresholds = np.abs(left_from.threshold[: fewer.dimensions]) + np.abs(right_from.threshold[: fewer.dimensions])
        sizes = np.abs(left) + np.abs(right) + thresholds
        bound = 2 * _ROUNDING[self._used.layout.rescore] * sizes + _SMALLEST
        same: NDArray[np.bool_] = (np.abs(left - right) <= bound).all(axis=1)
        return same
