"""The calibration of a collection that is created for its first vectors, even if they are few."""

from __future__ import annotations

import warnings
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration, Metric
from qvec.ingest.load_options import default_ranges

SHRINK_BELOW = 1_000
"""With fewer vectors, mean and variance are shrunk before they set the ranges."""
WARN_BELOW = 100
"""With fewer vectors, warn: they may all be about one topic."""

_THRESHOLD_FACTOR = 0.5
"""The threshold is this share of the mean."""
_PRIOR_COUNT = 10
"""How many observations of the average variance to add to each dimension."""


def first_calibration(
    vectors: NDArray[Any], metric: Metric, model: str | None, rescore: str | None = None
) -> Calibration:
    """Return a calibration for vectors (n, d) and those that follow, with the default ranges of the codec `rescore`.

    Warn if there are fewer than `WARN_BELOW`. Raise RowError for a vector that cannot be stored.
    """
    ranges = default_ranges(rescore)
    calibration = Calibration.fit(vectors, metric=metric, model=model, ranges=ranges)
    if len(vectors) >= SHRINK_BELOW:
        return calibration
    if len(vectors) < WARN_BELOW:
        warnings.warn(
            f"the calibration is made from the first {len(vectors)} vectors; if they are not typical of later ones, "
            "recall suffers: pass a calibration of the model, or write hundreds of mixed texts first",
            stacklevel=2,
        )
    return _shrunk(calibration, len(vectors), ranges.quantile)


def _shrunk(calibration: Calibration, count: int, quantile: float) -> Calibration:
    """Return the calibration with ranges computed from shrunk estimates of mean and variance.

    The quantile that `fit` takes is useless for few vectors: for ten it is their maximum. So assume that each dimension
    is normally distributed, and take the quantile of that distribution. The mean is shrunk towards 0 by the factor of
    James and Stein (1961), signal / (signal + noise), where signal is the unbiased squared length of the mean and noise
    is what sampling adds to it; each variance is shrunk towards the average over all dimensions, which counts as
    `_PRIOR_COUNT` more vectors. A single vector only sets the overall scale.

    Recall@10 of int8 after a ternary prefilter, calibrated on all 1,400 Cranfield abstracts (MiniLM), on 10 and on 1 of
    them: 97.9, 97.8, 96.9; by `fit` 90.4 and 68.0 for 10 and 1. On 30 nearest neighbours of each other: 95.9, by `fit`
    89.3.
    """
    mean, variance = calibration.mean.astype(np.float64), calibration.std.astype(np.float64) ** 2
    if count > 1:
        variance *= count / (count - 1)
        noise = variance.sum() / count
        signal = max(float(mean @ mean) - noise, 0.0)
        mean *= signal / (signal + noise) if signal else 0.0
        variance = ((count - 1) * variance + _PRIOR_COUNT * variance.mean()) / (count - 1 + _PRIOR_COUNT)
    else:
        mean, variance = np.zeros_like(mean), np.full_like(variance, mean @ mean / len(mean))
    threshold, std = _THRESHOLD_FACTOR * mean, np.sqrt(variance)
    offset = mean - threshold
    spread = round(NormalDist().inv_cdf((1 + quantile) / 2), 2)
    method = {"name": "normal", "threshold": _THRESHOLD_FACTOR, "spread": spread, "prior": _PRIOR_COUNT}
    return replace(
        calibration,
        threshold=threshold.astype(np.float32),
        radius=(np.abs(offset) + spread * std).astype(np.float32),
        deviation=np.sqrt(2 / np.pi * variance + offset**2).astype(np.float32),
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        description={**calibration.description, "method": method},
    )
