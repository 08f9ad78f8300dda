"""Uniform sampling without replacement of row numbers, where rows can be read directly."""

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
    found = finite_rows(take(drawn))
    while len(found) < size and len(drawn) < population:
        more = draw_rows(population, min(size - len(found), population - len(drawn)), rng, drawn)
        drawn = np.union1d(drawn, more)
        found = np.concatenate([found, finite_rows(take(more))])
    return found


def finite_rows(matrix: Matrix) -> Matrix:
    """The rows of `matrix` (n, d) that hold neither NaN nor infinity."""
    finite = np.isfinite(matrix).all(axis=1)
    return matrix if finite.all() else matrix[finite]
