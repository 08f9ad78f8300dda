"""How sure a mean over queries is, and whether two ways to search differ over the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.evaluation.results import Interval

Values = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 4_000
FLIPS = 20_000
_BLOCK_DRAWS = 1 << 20


@dataclass(frozen=True)
class Comparison:
    """How much higher the first of two configurations is, over the same queries, and how likely chance alone makes a
    difference as large."""

    difference: Interval
    p_value: float
    better: int
    """Queries in which the first is higher."""
    worse: int
    equal: int


def interval(values: Values, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """The mean of values (m,), one for each query, with the bounds of a percentile bootstrap over the queries
    (Efron 1979): so many times m of them are drawn with repetition. It speaks for queries like these, not for others.
    """
    low, high = np.quantile(_means(values, seed), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def lower_bound(recalls: Values, confidence: float = CONFIDENCE, seed: int = 0, *, k: int = 10) -> float:
    """What the mean of recall@k (m,) is above with this confidence, by the same bootstrap, one-sided.

    One query more is among those that are drawn, as bad as the worst, and with at least one of k hits lost: few queries
    without a loss, of which every resample has the mean 1, are no promise that others have none.
    """
    worst = min(float(recalls.min(initial=1)), 1 - 1 / k)
    return float(np.quantile(_means(np.append(recalls, worst), seed), 1 - confidence))


def compare(first: Values, second: Values, confidence: float = CONFIDENCE, seed: int = 0) -> Comparison:
    """Compares two configurations query by query: values (m,) of each, in the same order.

    The p value is of a two-sided randomization test (Fisher 1935; for retrieval Smucker, Allan and Carterette 2007):
    the share of random exchanges within the pairs that make the means differ as much, the one that was found among
    them.
    """
    if first.shape != second.shape:
        raise InputError(f"configurations were measured over {len(first)} and {len(second)} queries, expected the same")
    differences = first - second
    found = abs(differences.mean())
    rng = np.random.default_rng(seed)
    as_large, rows = 0, max(_BLOCK_DRAWS // len(differences), 1)
    for start in range(0, FLIPS, rows):
        signs = rng.integers(0, 2, (min(rows, FLIPS - start), len(differences)), np.int8) * 2 - 1
        as_large += int((abs(signs @ differences / len(differences)) >= found - 1e-12).sum())
    return Comparison(
        interval(differences, confidence, seed),
        (as_large + 1) / (FLIPS + 1),
        int((differences > 0).sum()),
        int((differences < 0).sum()),
        int((differences == 0).sum()),
    )


def _means(values: Values, seed: int) -> Values:
    """Means of resamples; the same seed draws the same queries for all configurations."""
    if not len(values):
        raise InputError("there are no queries to take a mean over")
    rng = np.random.default_rng(seed)
    rows = max(_BLOCK_DRAWS // len(values), 1)
    blocks = [
        values[rng.integers(0, len(values), (min(rows, RESAMPLES - start), len(values)))].mean(axis=1)
        for start in range(0, RESAMPLES, rows)
    ]
    return np.concatenate(blocks)
