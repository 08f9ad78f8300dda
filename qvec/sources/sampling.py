"""Uniform sampling without replacement of row numbers, where rows can be read directly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
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


class Screen:
    """Decides which rows a sample takes: here all that are finite."""

    def faults(self, vectors: Matrix) -> dict[int, str]:
        """By position in `vectors` (n, d) why a row is left out."""
        finite = np.isfinite(vectors).all(axis=1)
        return {} if finite.all() else dict.fromkeys(np.flatnonzero(~finite).tolist(), "is not finite")

    def left_out(self, row: int, reason: str) -> None:
        """Hears of each source row that is left out."""

    def leave_out(self, reasons: Mapping[int, str]) -> None:
        """Leaves out rows, by source row with the reason."""
        for row, reason in sorted(reasons.items()):
            self.left_out(row, reason)

    def kept(self, vectors: Matrix, rows: Rows, others: Mapping[int, str] = MappingProxyType({})) -> Matrix:
        """The vectors (n, d) of source rows (n,) without those that are left out, as are `others` that have none."""
        faults = self.faults(vectors)
        self.leave_out({**others, **{int(rows[position]): reason for position, reason in faults.items()}})
        return np.delete(vectors, list(faults), axis=0) if faults else vectors


def sample_rows(population: int, size: int, seed: int, take: Callable[[Rows], Matrix], screen: Screen) -> Matrix:
    """At most `size` rows of a matrix of `population` rows; `take` reads the rows of given numbers.

    Rows that the screen leaves out are replaced by others as long as there are any.
    """
    rng = np.random.default_rng(seed)
    drawn = draw_rows(population, min(size, population), rng)
    found = screen.kept(take(drawn), drawn)
    while len(found) < size and len(drawn) < population:
        more = draw_rows(population, min(size - len(found), population - len(drawn)), rng, drawn)
        drawn = np.union1d(drawn, more)
        found = np.concatenate([found, screen.kept(take(more), more)])
    return found
