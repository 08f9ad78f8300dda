"""Sources of original vectors: the floats that a collection keeps, or a source matched with it by id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.client import Collection, Database
from qvec.errors import CollectionError, InputError
from qvec.sources import Batch, Source
from qvec.store.versions import VersionSync, cut

_ORIGINALS = ("float16", "float32")
_COMPARED = 500
_MIN_SAME = 0.9
"""Minimum share of compared rows with the same vector in source and collection: some may have changed since."""


def keeps_originals(collection: Collection) -> bool:
    """Return whether it keeps floats, and neither codes of qvec nor of an engine."""
    return collection.settings["rescore"] in _ORIGINALS


class KeptFloats(Source):
    """The rows of a collection with their kept floats, in the order of their ids."""

    form = "prepared"

    def __init__(self, database: Database, collection: Collection, calibration: Calibration | None = None) -> None:
        """With a calibration, vectors are cut to its dimensions."""
        super().__init__(collection.name, f"{database.name}#{collection.name}", ())
        if not keeps_originals(collection):
            raise CollectionError(
                f"collection {collection.name!r} keeps {collection.settings['rescore']} codes and no floats, and a "
                "calibration is never fitted to decoded codes; name what it was loaded from: --source SOURCE"
            )
        self.rows = collection.count()
        self._calibration = calibration or collection.calibration
        self.dimensions = self._calibration.dimensions
        self.id_type = collection.id_type
        self._collection = collection

    def fingerprint(self) -> str:
        """Return a fingerprint that later writes do not change: the version sync handles them."""
        return hashlib.sha256(f"{self.path} {self._collection.calibration.id}".encode()).hexdigest()[:16]

    def where(self, row: int) -> str:
        return f"collection {self.name!r}, row {row}"

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        collection = self._collection
        for found in collection.iter_rows(start, batch_rows):
            vectors = found.vectors
            if collection.form == "centred":
                vectors = vectors + collection.calibration.threshold
            stop = start + len(vectors)
            rows = np.arange(start, stop, dtype=np.int64)
            floats = cut(vectors, self._calibration)
            yield Batch(start, stop, rows, found.ids, floats, found.documents, found.metadata, ())
            start = stop


class MatchedSource(Source):
    """The rows of a source whose ids a collection has, with the source's vectors and the collection's texts."""

    def __init__(self, source: Source, versions: VersionSync, collection: Collection) -> None:
        """Raise InputError where the ids are of another type."""
        super().__init__(source.name, source.path, ())
        if (source.id_type or "bigint") != collection.id_type:
            raise InputError(
                f"{source.name} has {source.id_type or 'no'} ids, but collection {collection.name!r} has "
                f"{collection.id_type} ids"
            )
        self.rows = source.rows
        self.dimensions = source.dimensions
        self.id_type = collection.id_type
        self.has_text = source.has_text
        self.form = source.form
        self.codec = source.codec
        self.surplus = 0
        """Rows read from the source that the collection lacks."""
        self._counted = 0
        self._source = source
        self._versions = versions
        self._first_id = versions.first_id(source.path) or 0

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def where(self, row: int) -> str:
        return self._source.where(row)

    def _vector_batches(self) -> Iterator[Batch]:
        return self._source._vector_batches()

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        for batch in self._source.batches(start, batch_rows):
            yield self._matched(batch)

    def _matched(self, batch: Batch) -> Batch:
        ids = self.ids(batch)
        texts = self._versions.texts(ids)
        there = np.array([id in texts for id in ids], bool)
        self.surplus += int((~there & (batch.rows >= self._counted)).sum())  # the first rows are read twice
        self._counted = max(self._counted, batch.stop)
        kept = [id for id in ids if id in texts]
        return Batch(
            batch.start,
            batch.stop,
            batch.rows[there],
            pa.array(kept, pa.int64() if self.id_type == "bigint" else pa.large_string()),
            None if batch.vectors is None else np.ascontiguousarray(batch.vectors[there]),
            pa.array([texts[id][0] for id in kept], pa.large_string()),
            pa.array([texts[id][1] for id in kept], pa.large_string()),
            batch.rejected,
        )

    def ids(self, batch: Batch) -> list[int | str]:
        """Return the ids of a batch's rows; row numbers serve for a source without ids, as when it was loaded."""
        found: Any = batch.rows + self._first_id if batch.ids is None else batch.ids
        return list(found.tolist() if isinstance(found, np.ndarray) else found.to_pylist())


def check_same(source: MatchedSource, collection: Collection) -> None:
    """Raise InputError where the source has other vectors under the collection's ids."""
    if source.dimensions is None:
        return
    batch = next(iter(source.batches(0, _COMPARED)), None)
    if batch is None or batch.vectors is None or len(batch.rows) < 2:
        return
    calibration = collection.calibration
    ours = collection.vectors(source.ids(batch)) - calibration.mean
    same = _nearer_than_another(calibration.prepared(batch.vectors) - calibration.mean, ours)
    if same < _MIN_SAME:
        raise InputError(
            f"{source.name} is not what collection {collection.name!r} was loaded from: of its first {len(ours)} rows "
            f"with a known id, {1 - same:.0%} have another vector"
        )


def _nearer_than_another(theirs: NDArray[np.float32], ours: NDArray[np.float32]) -> float:
    """Return the share of rows (n, d) that are at least as similar to their own counterpart as to the previous
    one's."""
    own = np.einsum("nd,nd->n", theirs, ours)
    length = np.linalg.norm(ours, axis=1) + 1e-30
    others = np.einsum("nd,nd->n", theirs, np.roll(ours, 1, axis=0))
    return float((own / length >= others / np.roll(length, 1)).mean())
