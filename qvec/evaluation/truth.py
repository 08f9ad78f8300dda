"""The rows that are truly nearest: every row compared with every query in float32, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError

Floats = NDArray[np.float32]
Ids = Sequence[int | str]

TIE = 1e-6
"""Scores that differ by less than this share of |query| * |row| are equal: the sum's order alone moves them so far."""
MOST_TIES = 10_000
"""Rows that are kept of a query; more that are equally near are not, and then `Truth.capped` says so."""
_BLOCK_SCORES = 4 << 20


@dataclass(frozen=True)
class Truth:
    """The k nearest rows of each query.

    `better` holds the ids that belong to any choice of k nearest rows, best first, `tied` those that are as near as the
    last: as many of them belong to it as are wanting.
    """

    k: int
    rows: int
    better: tuple[tuple[int | str, ...], ...]
    tied: tuple[frozenset[int | str], ...]
    capped: bool = False

    def recalls(self, found: Sequence[Ids]) -> NDArray[np.float64]:
        """recall@k of each query (m,): the share of k nearest rows that was found, of the choice that is met best.

        `found` holds the ids for each query, best first; those past k do not count, nor does an id twice. Where there
        are fewer than k rows, all of them are wanted.
        """
        shares = [self._recall(*each) for each in zip(found, self.better, self.tied, strict=True)]
        return np.array(shares, np.float64)

    def _recall(self, found: Ids, better: tuple[int | str, ...], tied: frozenset[int | str]) -> float:
        first = set(found[: self.k])
        wanted = min(self.k, len(better) + len(tied))
        return (len(first.intersection(better)) + min(len(first & tied), wanted - len(better))) / wanted

    def nearest(self) -> list[list[int | str]]:
        """One choice of k nearest rows for each query, best first."""
        pairs = zip(self.better, self.tied, strict=True)
        return [[*better, *sorted(tied, key=str)][: self.k] for better, tied in pairs]

    def ids(self) -> set[int | str]:
        """Every id that is among the nearest of some query."""
        return set().union(*self.better, *self.tied)


class NearestRows:
    """Collects the nearest rows of queries (m, d) from batches. Scores are inner products: under cosine queries and
    rows come at unit length."""

    def __init__(self, queries: Floats, k: int, left_out: Ids | None = None) -> None:
        """`left_out` names a row for each query that is not to count for it: the row it was taken from."""
        if k < 1:
            raise InputError(f"k is {k}, expected at least 1")
        if not len(queries):
            raise InputError("there are no queries")
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._lengths = np.linalg.norm(self._queries.astype(np.float64), axis=1)
        self._k = k
        self._left_out = _positions(left_out or ())
        self._top = np.full((len(queries), k), -np.inf, np.float32)  # the best scores, ascending
        self._longest = 0.0
        self._kept_queries = np.empty(0, np.int64)
        self._kept_scores = np.empty(0, np.float32)
        self._kept_ids = np.empty(0, object)
        self._rows = 0
        self._capped = False

    def update(self, ids: NDArray[Any], vectors: Floats) -> None:
        """Compares a batch of rows: ids (n,) of int or str and vectors float32 (n, d)."""
        names = np.array(ids.tolist(), object)
        size = max(_BLOCK_SCORES // len(self._queries), 1)
        for start in range(0, len(vectors), size):
            self._compare(names[start : start + size], vectors[start : start + size])
        self._rows += len(vectors)

    def _compare(self, names: NDArray[Any], vectors: Floats) -> None:
        scores = self._queries @ vectors.T
        if not np.all(np.isfinite(scores)):
            raise InputError("a score is beyond float32, or a vector holds NaN or infinity")
        for column, name in enumerate(names) if self._left_out else ():
            scores[self._left_out.get(name, ()), column] = -np.inf
        self._longest = max(self._longest, float(np.linalg.norm(vectors, axis=1).max()))
        best = scores if scores.shape[1] <= self._k else np.partition(scores, -self._k, axis=1)[:, -self._k :]
        self._top = np.sort(np.concatenate([self._top, best], axis=1), axis=1)[:, -self._k :]
        found = np.nonzero((scores >= self._floor()[:, None]) & np.isfinite(scores))
        self._keep(found[0], scores[found], names[found[1]])

    def _tolerance(self) -> NDArray[np.float64]:
        tolerance: NDArray[np.float64] = self._lengths * (TIE * self._longest)
        return tolerance

    def _floor(self) -> NDArray[np.float64]:
        """The score of each query that its nearest rows and their equals reach."""
        floor: NDArray[np.float64] = self._top[:, 0] - self._tolerance()
        return floor

    def _keep(self, queries: NDArray[np.int64], scores: Floats, names: NDArray[Any]) -> None:
        queries = np.concatenate([self._kept_queries, queries])
        scores = np.concatenate([self._kept_scores, scores])
        names = np.concatenate([self._kept_ids, names])
        order = np.lexsort((-scores, queries))
        order = order[scores[order] >= self._floor()[queries[order]]]
        first = np.searchsorted(queries[order], queries[order])
        within = np.arange(len(order)) - first < max(MOST_TIES, self._k)
        self._capped |= not within.all()
        order = order[within]
        self._kept_queries, self._kept_scores, self._kept_ids = queries[order], scores[order], names[order]

    def finish(self) -> Truth:
        """The nearest rows of all that came. Raises InputError where none did."""
        bounds = np.searchsorted(self._kept_queries, np.arange(len(self._queries) + 1))
        pairs = [self._split(query, slice(*bounds[query : query + 2])) for query in range(len(self._queries))]
        if not all(better or tied for better, tied in pairs):
            raise InputError("there are no rows to compare the queries with")
        better, tied = zip(*pairs, strict=True)
        return Truth(self._k, self._rows, better, tied, self._capped)

    def _split(self, query: int, kept: slice) -> tuple[tuple[int | str, ...], frozenset[int | str]]:
        """The ids of a query's rows above its k-th score, and of those at it."""
        scores, names = self._kept_scores[kept].astype(np.float64), self._kept_ids[kept]
        if not len(scores):
            return (), frozenset()
        last = scores[min(self._k, len(scores)) - 1]
        above = int((scores > last + self._tolerance()[query]).sum())
        return tuple(names[:above]), frozenset(names[above:])


def nearest_rows(
    batches: Iterable[tuple[NDArray[Any], Floats]], queries: Floats, k: int, left_out: Ids | None = None
) -> Truth:
    """The k rows nearest to each query (m, d) among batches of ids and vectors (n, d); see `NearestRows`."""
    nearest = NearestRows(queries, k, left_out)
    for ids, vectors in batches:
        nearest.update(ids, vectors)
    return nearest.finish()


def _positions(names: Ids) -> dict[int | str, list[int]]:
    found: dict[int | str, list[int]] = {}
    for position, name in enumerate(names):
        found.setdefault(name, []).append(position)
    return found
