"""Metrics of a search: of one ranking, and of many queries with confidence intervals and paired comparisons. Recall
against exact neighbours is computed in `ground_truth`.

The metrics of a ranking are those of trec_eval, but documents keep the order in which the search returned them:
trec_eval sorts them by score, and equal scores by document id.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError

Grades = Mapping[str, int]
"""Grades of the judged documents of one query, by document id; documents with a grade above 0 are relevant."""
Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4_000
FLIPS = 20_000
_BLOCK_DRAWS = 1 << 20
_BLOCK_ARRAYS = 512


class Interval(NamedTuple):
    """A mean over queries with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """Two configurations compared over the same queries: the first minus the second."""

    difference: Interval
    p_value: float
    """Probability of a mean difference at least this large by chance alone."""
    better: int
    """Number of queries with a higher value for the first."""
    worse: int
    equal: int

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        return {
            "difference": self.difference.value,
            "interval": [self.difference.low, self.difference.high],
            "p_value": self.p_value,
            "better": self.better,
            "worse": self.worse,
            "equal": self.equal,
        }

    def __str__(self) -> str:
        value, low, high = (100 * share for share in self.difference)
        points = f"{value:+.2f} points ({low:+.2f} to {high:+.2f})".replace("-", "−")
        p_value = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.2g}"
        return f"{points}, {p_value}; higher in {self.better} queries, lower in {self.worse}, equal in {self.equal}"


def ndcg(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Return nDCG@k (Järvelin and Kekäläinen 2002) with grades as gains, each divided by log2(1 + rank).

    This is ndcg_cut of trec_eval and BEIR. It is 0 if no document is relevant.
    """
    ideal = _dcg(sorted(grades.values(), reverse=True)[:k])
    return _dcg([grades.get(document, 0) for document in ranking[:k]]) / ideal if ideal else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Return 1 / rank of the first relevant document in the top k, or 0 without one. Its mean is MRR@k."""
    ranks = (rank for rank, document in enumerate(ranking[:k], 1) if grades.get(document, 0) > 0)
    return 1 / next(ranks, math.inf)


def judged_recall(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """Return the share of all relevant documents in the top k (recall of trec_eval), or 0 if none is relevant."""
    relevant = {document for document, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def _dcg(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / math.log2(1 + rank) for rank, grade in enumerate(grades, 1))


def confidence_interval(values: Values, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Return the mean of values (m,), one for each query, with the bounds of a percentile bootstrap (Efron 1979).

    The bootstrap resamples queries with replacement, so the interval holds for queries of the same kind only.
    """
    return confidence_intervals([values], confidence, seed)[0]


def confidence_intervals(values: Sequence[Values], confidence: float = CONFIDENCE, seed: int = 0) -> list[Interval]:
    """Return the `confidence_interval` of each array of values (m,), all from the same resampled queries."""
    found: list[Interval] = []
    for start in range(0, len(values), _BLOCK_ARRAYS):
        block = values[start : start + _BLOCK_ARRAYS]
        means = _resampled_means(np.stack(block, axis=1), seed)
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        found += map(Interval, (float(array.mean()) for array in block), low.tolist(), high.tolist())
    return found


def lower_bound(recalls: Values, confidence: float = CONFIDENCE, seed: int = 0, *, k: int = 10) -> float:
    """Return the one-sided lower confidence bound of the mean of recall@k (m,), by the same bootstrap.

    The sample is extended by one query that is as bad as the worst and misses at least one of k hits. Without it, a
    few queries that all have recall 1 would give a bound of 1.
    """
    worst = min(float(recalls.min(initial=1)), 1 - 1 / k)
    means = _resampled_means(np.append(recalls, worst)[:, None], seed)
    return float(np.quantile(means, 1 - confidence))


def compare(first: Values, second: Values, confidence: float = CONFIDENCE, seed: int = 0) -> PairedComparison:
    """Compare two configurations by their values (m,) for the same queries.

    The p value is that of a two-sided randomization test (Fisher 1935; for retrieval Smucker, Allan and Carterette
    2007): the share of random sign flips of the differences, the observed one included, whose mean is at least as
    large.
    """
    if first.shape != second.shape:
        raise InputError(f"configurations were measured over {len(first)} and {len(second)} queries, expected the same")
    differences = first - second
    observed = abs(differences.mean())
    rng = np.random.default_rng(seed)
    at_least, rows = 1, max(_BLOCK_DRAWS // len(differences), 1)
    for start in range(0, FLIPS, rows):
        signs = rng.integers(0, 2, (min(rows, FLIPS - start), len(differences)), np.int8) * 2 - 1
        at_least += int((abs(signs @ differences / len(differences)) >= observed - 1e-12).sum())
    return PairedComparison(
        confidence_interval(differences, confidence, seed),
        at_least / (FLIPS + 1),
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        equal=int((differences == 0).sum()),
    )


def _resampled_means(columns: Values, seed: int) -> Values:
    """Return the means (RESAMPLES, n) of columns (m, n) over resampled rows; a seed always draws the same rows."""
    queries = len(columns)
    if not queries:
        raise InputError("there are no queries to take a mean over")
    blocks = _few_resamples(queries, seed) if queries * RESAMPLES <= _BLOCK_DRAWS else _resamples(queries, seed)
    return np.concatenate([counts @ columns / queries for counts in blocks])


def _resamples(queries: int, seed: int) -> Iterator[Values]:
    """Yield resamples (r, m) in blocks: how often each draws a query, so that all means are one matrix product."""
    rng = np.random.default_rng(seed)
    rows = max(_BLOCK_DRAWS // queries, 1)
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        drawn = rng.integers(0, queries, (size, queries)) + queries * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * queries).reshape(size, queries).astype(float)


@functools.lru_cache(maxsize=2)
def _few_resamples(queries: int, seed: int) -> list[Values]:
    """Return the same for so few queries that it is one block; comparing configurations asks for it again and again."""
    return list(_resamples(queries, seed))
