"""Uniform samples without replacement: of a stream, or of a matrix whose rows can be read by number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
RowNumbers = NDArray[np.int64]
Sample = NDArray[np.float32]


class Reservoir:
    """Algorithm R of Vitter (1985), a batch at a time: after n rows each of them is in the sample with chance size/n.

    The sample does not depend on how the stream is cut into batches.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._kept: Sample | None = None
        self._seen = 0

    def add(self, batch: Matrix) -> None:
        """Offer the rows of `batch` (n, d); the ones kept are copied as float32."""
        if self._kept is None:
            self._kept = np.empty((self._size, batch.shape[1]), np.float32)
        filling = min(max(self._size - self._seen, 0), len(batch))
        self._kept[self._seen : self._seen + filling] = batch[:filling]
        self._replace(self._kept, batch[filling:], self._seen + filling)
        self._seen += len(batch)

    def rows(self, dimensions: int = 0) -> Sample:
        """Return the sample (at most size, d); (0, dimensions) when no row was offered."""
        if self._kept is None:
            return np.empty((0, dimensions), np.float32)
        return self._kept[: min(self._seen, self._size)]

    def _replace(self, kept: Sample, batch: Matrix, seen: int) -> None:
        places = self._rng.integers(np.arange(seen + 1, seen + 1 + len(batch)))
        chosen = places < self._size
        # A place drawn twice ends with the later row, as in one-at-a-time order: numpy assigns the last value.
        kept[places[chosen]] = batch[chosen]


class Screen:
    """Decides which rows a sample accepts. This one accepts rows of finite values; subclasses override `faults`."""

    def faults(self, vectors: Matrix) -> dict[int, str]:
        """Map the position of each unusable row of `vectors` (n, d) to the reason."""
        finite = np.isfinite(vectors).all(axis=1)
        return {} if finite.all() else dict.fromkeys(np.flatnonzero(~finite).tolist(), "is not finite")

    def left_out(self, row: int, reason: str) -> None:
        """Called for each source row that is left out."""

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """Leave out rows, given as source row and reason."""
        for row, reason in sorted(reasons.items()):
            self.left_out(row, reason)

    def kept(self, vectors: Matrix, rows: RowNumbers, others: Mapping[int, str] = MappingProxyType({})) -> Matrix:
        """Return the usable ones of `vectors` (n, d), which are source rows `rows` (n,).

        `others` are source rows without a vector and the reason; they are left out, too.
        """
        faults = self.faults(vectors)
        self.leave_out({**others, **{int(rows[position]): reason for position, reason in faults.items()}})
        return np.delete(vectors, list(faults), axis=0) if faults else vectors


def sample_rows(population: int, size: int, seed: int, take: Callable[[RowNumbers], Matrix], screen: Screen) -> Matrix:
    """Return at most `size` rows of a matrix of `population` rows; `take` reads the rows of the given numbers.

    Rows that `screen` leaves out are replaced by others while there are any.
    """
    rng = np.random.default_rng(seed)
    drawn = draw_rows(population, min(size, population), rng)
    found = screen.kept(take(drawn), drawn)
    while len(found) < size and len(drawn) < population:
        more = draw_rows(population, min(size - len(found), population - len(drawn)), rng, drawn)
        drawn = np.union1d(drawn, more)
        found = np.concatenate([found, screen.kept(take(more), more)])
    return found


def draw_rows(population: int, size: int, rng: np.random.Generator, drawn: RowNumbers | None = None) -> RowNumbers:
    """Return `size` distinct numbers of range(population), ascending, none of them in `drawn` (ascending).

    Memory grows with the rows drawn, not with the population: repeats of independent draws are dropped and drawn
    again, which leaves every set of rows equally likely.
    """
    drawn = np.empty(0, np.int64) if drawn is None else drawn
    target = len(drawn) + size
    if 2 * target >= population:
        left = np.setdiff1d(np.arange(population), drawn, assume_unique=True)
        return np.sort(rng.choice(left, size, replace=False))
    chosen = drawn
    while len(chosen) < target:
        chosen = np.union1d(chosen, rng.integers(population, size=target - len(chosen)))
    return np.setdiff1d(chosen, drawn, assume_unique=True)
