"""Uniform sampling without replacement: of row numbers where rows can be read directly, of a stream elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[Any]
Rows = NDArray[np.int64]


def draw_rows(population: int, size: int, rng: np.random.Generator, drawn: Rows | None = None) -> Rows:
    """`size` distinct rows of range(population), ascending, none of them in `drawn` (ascending).

    Memory grows with the rows drawn, not with the population: repeats of independent draws are dropped and
    drawn again, which leaves every set of rows equally likely.
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


def sample_rows(population: int, size: int, seed: int, take: Callable[[Rows], Matrix]) -> Matrix:
    """At most `size` finite rows of a matrix of `population` rows; `take` reads the rows of given numbers.

    Rows with a value that is not finite are replaced by others as long as there are any.
    """
    rng = np.random.default_rng(seed)
    drawn = draw_rows(population, min(size, population), rng)
    found = _finite(take(drawn))
    while len(found) < size and len(drawn) < population:
        more = draw_rows(population, min(size - len(found), population - len(drawn)), rng, drawn)
        drawn = np.union1d(drawn, more)
        found = np.concatenate([found, _finite(take(more))])
    return found


class Reservoir:
    """Algorithm R of Vitter (1985), a batch at a time: after n rows each of them is kept with chance size/n."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._kept: Matrix | None = None
        self._seen = 0

    def add(self, batch: Matrix) -> None:
        """Offer the rows of `batch` (n, d); those with a value that is not finite are passed over."""
        batch = _finite(batch)
        if self._kept is None:
            self._kept = np.empty((self._size, batch.shape[1]), batch.dtype)
        filling = min(max(self._size - self._seen, 0), len(batch))
        self._kept[self._seen : self._seen + filling] = batch[:filling]
        self._replace(self._kept, batch[filling:], self._seen + filling)
        self._seen += len(batch)

    def rows(self, dimensions: int) -> Matrix:
        """The sample (n, d); (0, dimensions) float32 when nothing was offered."""
        if self._kept is None:
            return np.empty((0, dimensions), np.float32)
        return self._kept[: min(self._seen, self._size)]

    def _replace(self, kept: Matrix, batch: Matrix, seen: int) -> None:
        places = self._rng.integers(np.arange(seen + 1, seen + 1 + len(batch)))
        chosen = places < self._size
        # A place drawn twice ends with the later row, as in one-at-a-time order: numpy assigns the last value.
        kept[places[chosen]] = batch[chosen]


def _finite(matrix: Matrix) -> Matrix:
    finite = np.isfinite(matrix).all(axis=1)
    return matrix if finite.all() else matrix[finite]
