"""The calibration of a collection that is created for the first vectors it gets, be they few."""

from __future__ import annotations

import warnings
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration, Metric
from qvec.ingest.load_options import default_ranges

ENOUGH = 1_000
"""So many vectors are calibrated on as they are."""
TYPICAL = 100
"""Fewer than so many are warned of: they may all be of one topic."""

_SHARE = 0.5
_PRIOR = 10


def calibration_for(
    vectors: NDArray[Any], metric: Metric, model: str | None, rescore: str | None = None
) -> Calibration:
    """The calibration for vectors (n, d) and for what follows them, with the ranges that serve a precision best. Warns
    where they are few.

    Raises RowError for a vector that cannot be stored.
    """
    ranges = default_ranges(rescore)
    fitted = Calibration.fit(vectors, metric=metric, model=model, ranges=ranges)
    if len(vectors) >= ENOUGH:
        return fitted
    if len(vectors) < TYPICAL:
        warnings.warn(
            f"the calibration is made from the first {len(vectors)} vectors; if they are not typical of what follows, "
            "recall suffers: give a calibration of the model, or write hundreds of mixed texts first",
            stacklevel=2,
        )
    return _steadied(fitted, len(vectors), ranges.quantile)


def _steadied(fitted: Calibration, count: int, quantile: float) -> Calibration:
    """A calibration from the mean and the spread of few vectors, both drawn towards what is known without them.

    A quantile as `fit` takes it is of no use then: of ten vectors it is their maximum. So dimensions are taken for
    normally distributed, and the quantile is that distribution's. Means are drawn towards 0 by the factor of James and
    Stein (1961), signal / (signal + noise), where signal is the squared length of the mean without bias and noise what
    sampling adds to it; variances are drawn towards their mean over all dimensions, as if `_PRIOR` more vectors had it.
    A single vector tells its length alone.

    Recall@10 of int8 behind ternary bits, calibrated on all of 1,400 abstracts (MiniLM), on 10 and on 1 of them: 97.9,
    97.8, 96.9; by `fit` 90.4 and 68.0 on these. On 30 that are nearest neighbours of each other: 95.9, by `fit` 89.3.
    """
    mean, variance = fitted.mean.astype(np.float64), fitted.std.astype(np.float64) ** 2
    if count > 1:
        variance *= count / (count - 1)
        noise = variance.sum() / count
        signal = max(float(mean @ mean) - noise, 0.0)
        mean *= signal / (signal + noise) if signal else 0.0
        variance = ((count - 1) * variance + _PRIOR * variance.mean()) / (count - 1 + _PRIOR)
    else:
        mean, variance = np.zeros_like(mean), np.full_like(variance, mean @ mean / len(mean))
    threshold, std = _SHARE * mean, np.sqrt(variance)
    offset = mean - threshold
    spread = round(NormalDist().inv_cdf((1 + quantile) / 2), 2)
    method = {"name": "normal", "threshold": _SHARE, "spread": spread, "prior": _PRIOR}
    return replace(
        fitted,
        threshold=threshold.astype(np.float32),
        radius=(np.abs(offset) + spread * std).astype(np.float32),
        deviation=np.sqrt(2 / np.pi * variance + offset**2).astype(np.float32),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        description={**fitted.description, "method": method},
    )
