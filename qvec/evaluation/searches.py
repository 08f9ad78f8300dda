"""Searches as a user makes them: what each way finds, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.client import Collection
from qvec.evaluation.queries import Queries
from qvec.evaluation.scan import candidate_count
from qvec.evaluation.ways import Way

Found = list[list[int | str]]

_WARMING = 20
_EXACT_SECONDS = 3.0
_FEWEST_TIMED = 3


@dataclass(frozen=True)
class Measured:
    """The ids that a way found for each query, best first, and the milliseconds of the searches that were timed."""

    found: Found
    milliseconds: NDArray[np.float64]

    def percentiles(self) -> tuple[float, float, float]:
        """p50, p95 and p99."""
        p50, p95, p99 = np.percentile(self.milliseconds, [50, 95, 99])
        return float(p50), float(p95), float(p99)


def warm(collection: Collection, queries: Queries, way: Way, k: int) -> None:
    """Searches once with every query, so that no way pays for reading from disk what a later one finds in memory."""
    for query in queries.vectors:
        _search(collection, query, way, k, None)


def measure(collection: Collection, queries: Queries, way: Way, k: int) -> Measured:
    """Searches with one query at a time and takes the time, from this process and back to it. Texts are left out.

    An exact search reads every row: all queries go at once, and only some are timed.
    """
    for query in queries.vectors[:_WARMING]:
        if not way.exact:
            _search(collection, query, way, k, queries.rows)
    if way.exact:
        found = _search_all(collection, queries, way, k)
        return Measured(found, _timed_exact(collection, queries, way, k))
    found, milliseconds = [], []
    for query in queries.vectors:
        started = time.perf_counter()
        hits = _search(collection, query, way, k, queries.rows)
        milliseconds.append((time.perf_counter() - started) * 1e3)
        found.append(hits)
    return Measured(_without_rows(found, queries.rows, k), np.array(milliseconds))


def _timed_exact(collection: Collection, queries: Queries, way: Way, k: int) -> NDArray[np.float64]:
    milliseconds: list[float] = []
    for query in queries.vectors:
        if len(milliseconds) >= _FEWEST_TIMED and sum(milliseconds) > _EXACT_SECONDS * 1e3:
            break
        started = time.perf_counter()
        _search(collection, query, way, k, queries.rows)
        milliseconds.append((time.perf_counter() - started) * 1e3)
    return np.array(milliseconds)


def _search_all(collection: Collection, queries: Queries, way: Way, k: int) -> Found:
    hits = collection.search(queries.vectors, k + (queries.rows is not None), texts=False, **way.options)
    return _without_rows([[hit.id for hit in each] for each in hits], queries.rows, k)


def _search(
    collection: Collection, query: NDArray[np.float32], way: Way, k: int, rows: Sequence[int | str] | None
) -> list[int | str]:
    """The ids found for one query (D,): one more than k where it is a row itself, which is dropped later."""
    oversampling = way.oversampling
    if rows is not None:
        oversampling = oversampling and beside_itself(k, oversampling)
        k += 1
    hits = collection.search(query, k, oversampling, texts=False, **way.options)
    return [hit.id for hit in hits]


def beside_itself(k: int, oversampling: float) -> float:
    """The oversampling at which a search for k + 1 hits takes k × `oversampling` candidates and one more, the query's
    own row: so that of the others it sees no more than a search with another query does."""
    candidates = candidate_count(k, oversampling) + 1
    return max((candidates - 0.5) / (k + 1), 1)  # it is rounded up again to a whole number of candidates


def _without_rows(found: Found, rows: Sequence[int | str] | None, k: int) -> Found:
    """The first k that are not the query's own row."""
    if rows is None:
        return found
    return [[id for id in ids if id != row][:k] for ids, row in zip(found, rows, strict=True)]
