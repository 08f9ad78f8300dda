"""Bringing rows that differ from one version of a collection to the other.

Nothing notes what is written to a collection, so all rows are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.qdrant.engine import Record
from qvec.qdrant.ids import plain
from qvec.qdrant.operations import CollectionOperations
from qvec.qdrant.points import Points, stored_vectors
from qvec.qdrant.steps import Steps
from qvec.versions import Wanting, cut

_PAGE = 1_000
_ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-24}
"""The largest relative error of a number that is stored so."""
_SMALLEST = 2.0**-24
"""The smallest number of float16, of which half is the largest error near zero."""


class Bringing:
    """From the version in use to the other one. Both keep floats."""

    def __init__(self, used: CollectionOperations, other: CollectionOperations) -> None:
        self._used = used
        self._other = other
        self._has_originals = used.layout.dimensions >= other.layout.dimensions

    def all(self) -> Steps[Wanting]:
        """Writes and deletes in the other version what makes it hold the same rows. Of rows that it cannot be given,
        since the one in use has fewer dimensions, it tells how many there are."""
        wanting = Wanting(0, 0)
        start: Any = 0
        while start is not None:
            records, start = yield from self._used.engine().scroll(start, _PAGE, vectors=True)
            if records:
                found = yield from self._rows(records)
                wanting = Wanting(wanting.missing + found.missing, wanting.outdated + found.outdated)
        yield from self._delete_surplus()
        yield from self._other.engine().flush()
        return wanting

    def _delete_surplus(self) -> Steps[None]:
        start: Any = 0
        while start is not None:
            records, start = yield from self._other.engine().scroll(start, _PAGE, vectors=False)
            ids = [plain(record.id) for record in records]
            kept = yield from self._used.engine().retrieve(ids, payload=False)
            surplus = set(ids) - {plain(record.id) for record in kept}
            if surplus:
                yield from self._other.engine().delete(list(surplus))

    def _rows(self, records: Sequence[Record]) -> Steps[Wanting]:
        """Brings those of the used version's rows that the other one has not, or has otherwise."""
        ids = [plain(record.id) for record in records]
        found = yield from self._other.engine().retrieve(ids, payload=True, vectors=True)
        theirs = {plain(record.id): record for record in found}
        both = [row for row, id in enumerate(ids) if id in theirs]
        missing = [row for row, id in enumerate(ids) if id not in theirs]
        ours = np.stack([record.vector for record in records if record.vector is not None])
        stored = np.zeros((len(ids), self._other.layout.dimensions), np.float32)
        stored[both] = [theirs[ids[row]].vector for row in both]
        outdated = [row for row, same in zip(both, self._same(ours[both], stored[both]), strict=True) if not same]
        if self._has_originals:
            stored[missing + outdated] = self._anew(ours[missing + outdated])
        payloads = [record.payload or {} for record in records]
        changed = {row for row in both if payloads[row] != (theirs[ids[row]].payload or {})}
        changed.update(missing + outdated if self._has_originals else [])
        if changed:
            yield from self._other.engine().upsert(Points(ids, stored, payloads).take(sorted(changed)))
        return Wanting(0, 0) if self._has_originals else Wanting(len(missing), len(outdated))

    def _anew(self, ours: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the other version stores of vectors (n, d) that the used one does."""
        calibration = self._other.calibration
        vectors = cut(ours + self._used.calibration.threshold, calibration)
        return stored_vectors(vectors, calibration, self._other.layout, "prepared")

    def _same(self, ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether stored vectors (n, d) are of the same ones: as far apart as both were rounded, and no further."""
        used, other = self._used.calibration, self._other.calibration
        fewer = min(used, other, key=lambda calibration: calibration.dimensions)
        left, right = cut(ours + used.threshold, fewer), cut(theirs + other.threshold, fewer)
        thresholds = np.abs(used.threshold[: fewer.dimensions]) + np.abs(other.threshold[: fewer.dimensions])
        sizes = np.abs(left) + np.abs(right) + thresholds
        bound = 2 * _ROUNDING[self._used.layout.rescore] * sizes + _SMALLEST
        same: NDArray[np.bool_] = (np.abs(left - right) <= bound).all(axis=1)
        return same
