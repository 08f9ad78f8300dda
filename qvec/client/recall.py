"""Recall of searches against exact searches of the same collection: which hits count, and how sure the mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.results import Hit
from qvec.store.requests import candidate_count

TIE = 1e-6
"""Scores tie if they differ by less than this share of the best: the order of summation alone can do that."""
_NORMAL_QUANTILE = 1.96
"""Of the standard normal distribution, for 95% confidence."""


OwnRows = Sequence[int | str | None] | None
"""The ids of the rows that serve as queries; None if the queries are not rows."""


class RecallQueries(NamedTuple):
    """Queries (m, d) to measure recall with."""

    vectors: NDArray[Any]
    own_rows: OwnRows


class MeanRecall(NamedTuple):
    """A mean over queries with the bounds of its 95% confidence interval."""

    recall: float
    low: float
    high: float


def check_rows(collection: str, rows: int, k: int) -> None:
    """Raise InputError unless a search for k hits can miss a row."""
    if rows <= k:
        raise InputError(
            f"collection {collection!r} has {rows:,} rows, expected at least {k + 1:,} to measure recall@{k}: a search "
            "for k of at most k rows finds them all; choose a smaller k, or measure when there are more rows"
        )


def given_queries(vectors: NDArray[Any]) -> RecallQueries:
    """Return queries (m, d) that are not rows. Raise InputError if there are none."""
    if not len(vectors):
        raise InputError("there are no queries to measure recall with")
    return RecallQueries(vectors, None)


def usable_rows(collection: str, ids: Sequence[int | str], vectors: NDArray[np.float32]) -> RecallQueries:
    """Return sampled rows as queries, without those that were deleted meanwhile or decode to a zero vector.

    Raise InputError if none is left.
    """
    usable = np.flatnonzero(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)).tolist()
    if not usable:
        raise InputError(f"none of the {len(ids):,} rows drawn from collection {collection!r} can serve as a query")
    return RecallQueries(vectors[usable], [ids[row] for row in usable])


def oversampling_with_own_row(k: int, oversampling: float) -> float:
    """Return the oversampling at which a search for k + 1 hits takes one candidate more than a search for k hits.

    A query that is a row finds itself: with the extra candidate it sees as many other rows as any query.
    """
    candidates = candidate_count(k, oversampling) + 1
    return max((candidates - 0.5) / (k + 1), 1)  # candidate_count rounds up


def recalls_of(
    collection: str, found: Sequence[Sequence[Hit]], exact: Sequence[Sequence[Hit]], k: int, own_rows: OwnRows
) -> list[float]:
    """Return recall@k of each query for which the exact search found a row. Raise InputError if it found none."""
    each = zip(found, exact, own_rows or [None] * len(found), strict=True)
    recalls = [recall_at_k(hits, nearest, k, own_row) for hits, nearest, own_row in each]
    measured = [recall for recall in recalls if recall is not None]
    if not measured:
        raise InputError(f"no row of collection {collection!r} passes the filter: there is no recall to measure")
    return measured


def recall_at_k(found: Sequence[Hit], exact: Sequence[Hit], k: int, own_row: int | str | None) -> float | None:
    """Return which share of the k best exact hits a search found; None if the exact search found none.

    The query's own row does not count. Hits that tie with the k-th exact one count as found: any of them may take its
    place. Fewer than k exact hits are all the rows that pass a filter.
    """
    nearest, hits = ([hit for hit in each if hit.id != own_row][:k] for each in (exact, found))
    if not nearest:
        return None
    lowest = nearest[-1].score - TIE * max(abs(hit.score) for hit in nearest)
    ids = {hit.id for hit in nearest}
    correct = sum(hit.id in ids or hit.score >= lowest for hit in hits)
    return min(correct, len(nearest)) / len(nearest)


def mean_recall(recalls: Sequence[float], k: int) -> MeanRecall:
    """Return the mean of recall@k over queries, with its 95% confidence interval, as qvec.recall in SQL does.

    The interval is normal: 1.96 standard errors to either side, within 0 and 1. For the standard error and the lower
    bound, the sample is extended by one query that is as bad as the worst and misses at least one of k hits. Without
    it, queries that all have recall 1 would give a bound of 1. A bootstrap of few queries with recalls near 1 is too
    sure of them as well: tests/test_recall.py compares both.
    """
    values = np.array(recalls, np.float64)
    extended = np.append(values, min(values.min(), 1 - 1 / k))
    margin = _NORMAL_QUANTILE * float(extended.std(ddof=1)) / math.sqrt(len(extended))
    mean = float(values.mean())
    return MeanRecall(mean, max(float(extended.mean()) - margin, 0.0), min(mean + margin, 1.0))
