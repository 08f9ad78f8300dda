"""Drift: how newer vectors differ from those that a calibration was fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Drift:
    """Newer vectors compared with a calibration, one value for each dimension (float32, shape (d,))."""

    count: int
    mean_shift: Array
    """Change of the mean in the calibration's standard deviations. In a dimension whose standard deviation was 0, it is
    0 if the mean is unchanged, and infinite if not."""
    spread_ratio: Array
    """Standard deviation divided by the calibration's; 1 if both are 0."""
    bit_balance: Array
    """Share of vectors whose sign bit is set; 0.5 carries the most information."""
    clip_rate: Array
    """Share of vectors further from the threshold than the radius: their codes are clipped."""

    def summary(self) -> dict[str, float]:
        """Return the figures to watch, over all dimensions."""
        return {
            "count": self.count,
            "largest_mean_shift": float(np.abs(self.mean_shift).max()),
            "median_spread_ratio": float(np.median(self.spread_ratio)),
            "mean_bit_balance": float(self.bit_balance.mean()),
            "mean_clip_rate": float(self.clip_rate.mean()),
            "largest_clip_rate": float(self.clip_rate.max()),
        }


def measure(vectors: Array, *, threshold: Array, radius: Array, mean: Array, std: Array) -> Drift:
    """Compare vectors (n, d), n at least 1, with the statistics of a calibration."""
    difference = vectors - threshold
    new_mean = vectors.mean(axis=0, dtype=np.float64)
    new_std = vectors.std(axis=0, dtype=np.float64)
    return Drift(
        count=len(vectors),
        mean_shift=_ratio(new_mean - mean, std, when_both_zero=0),
        spread_ratio=_ratio(new_std, std, when_both_zero=1),
        bit_balance=(difference > 0).mean(axis=0, dtype=np.float32),
        clip_rate=(np.abs(difference) > radius).mean(axis=0, dtype=np.float32),
    )


def _ratio(above: NDArray[np.float64], below: Array, when_both_zero: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.float64(above) / below
    return np.where((above == 0) & (below == 0), when_both_zero, ratio).astype(np.float32)
