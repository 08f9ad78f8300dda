"""The bootstrap of `intervals`, for thousands of configurations over the same queries at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qvec.evaluation.intervals import CONFIDENCE, RESAMPLES, Values
from qvec.evaluation.results import Interval

_BLOCK = 512


def many_intervals(values: Sequence[Values], confidence: float = CONFIDENCE, seed: int = 0) -> list[Interval]:
    """What `interval` gives for each of the values (m,), from the same resamples, to float rounding.

    A resample is the number of times that it draws each query, so that all means are one matrix product.
    """
    if not values:
        return []
    queries = len(values[0])
    drawn = np.random.default_rng(seed).integers(0, queries, (RESAMPLES, queries))
    times = np.array([np.bincount(row, minlength=queries) for row in drawn], np.float64) / queries
    found: list[Interval] = []
    for start in range(0, len(values), _BLOCK):
        block = np.stack(values[start : start + _BLOCK], axis=1)
        low, high = np.quantile(times @ block, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        found += map(Interval, block.mean(axis=0).tolist(), low.tolist(), high.tolist())
    return found
