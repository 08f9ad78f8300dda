"""The radius of a calibration, the expected distance of each dimension from its threshold, by four methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec import _native
from qvec.errors import InputError

Array = NDArray[np.float32]

METHODS = ("quantile", "minmax", "rolling", "fixed")


@dataclass(frozen=True)
class RangeMethod:
    """A range method and its parameters.

    - quantile: the `quantile` of |x - threshold|.
    - minmax: the maximum of |x - threshold|.
    - rolling: `spread` standard deviations around the mean, both of them exponential moving averages with `momentum`
      over batches of `batch_size` rows; the best method in Jina's study of quantization-aware training.
    - fixed: `value`, given by the model's author as one number or one for each dimension.

    If `per_dimension` is false, all dimensions have the same radius.
    """

    name: str = "quantile"
    quantile: float = 0.9999
    spread: float = 4.0
    momentum: float = 0.95
    batch_size: int = 256
    value: ArrayLike | None = None
    per_dimension: bool = True

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise InputError(f"range method {self.name!r} is unknown; known: {', '.join(METHODS)}")
        if not 0 < self.quantile <= 1:
            raise InputError(f"quantile is {self.quantile}, expected a number above 0 and at most 1")
        if not 0 < self.spread < np.inf:
            raise InputError(f"spread is {self.spread}, expected a positive number of standard deviations")
        if not 0 <= self.momentum < 1:
            raise InputError(f"momentum is {self.momentum}, expected at least 0 and below 1")
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}, expected at least 1")
        if (self.name == "fixed") != (self.value is not None):
            raise InputError("a fixed range needs its value, and only a fixed range takes one")
        if self.value is not None:
            object.__setattr__(self, "value", _plain(self.value))

    def parameters(self) -> Mapping[str, Any]:
        """Return the name and the parameters that the method uses, which a calibration records."""
        used: dict[str, tuple[str, ...]] = {
            "quantile": ("quantile",),
            "rolling": ("spread", "momentum", "batch_size"),
        }
        return {
            "name": self.name,
            "per_dimension": self.per_dimension,
            **{name: getattr(self, name) for name in used.get(self.name, ())},
        }

    def radius(self, sample: Array, threshold: Array) -> Array:
        """Return the radius of each dimension, float32 (d,), from a sample (n, d)."""
        radius = _RADIUS[self.name](self, sample, threshold)
        if self.name != "quantile" and not self.per_dimension:
            radius = np.full_like(radius, radius.max(initial=0))
        return radius


def _quantile(method: RangeMethod, sample: Array, threshold: Array) -> Array:
    if method.per_dimension:
        return _native.deviation_quantile(sample, threshold, method.quantile)
    differences = np.ascontiguousarray((sample - threshold).reshape(-1, 1))
    one = _native.deviation_quantile(differences, np.zeros(1, np.float32), method.quantile)
    return np.full(sample.shape[1], one[0], np.float32)


def _minmax(_method: RangeMethod, sample: Array, threshold: Array) -> Array:
    reach: Array = np.maximum(sample.max(axis=0) - threshold, threshold - sample.min(axis=0))
    return reach


def _rolling(method: RangeMethod, sample: Array, threshold: Array) -> Array:
    mean, std = _moving_averages(sample, method.batch_size, method.momentum)
    radius: Array = (method.spread * std + np.abs(mean - threshold)).astype(np.float32)
    return radius


def _moving_averages(
    sample: Array, batch_size: int, momentum: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exponential moving averages of the batches' means and standard deviations, from those of the first on."""
    mean = std = np.empty(0)
    for start in range(0, len(sample), batch_size):
        batch = sample[start : start + batch_size].astype(np.float64)
        if start == 0:
            mean, std = batch.mean(axis=0), batch.std(axis=0)
        else:
            mean = momentum * mean + (1 - momentum) * batch.mean(axis=0)
            std = momentum * std + (1 - momentum) * batch.std(axis=0)
    return mean, std


def _fixed(method: RangeMethod, sample: Array, _threshold: Array) -> Array:
    value = np.asarray(method.value, dtype=np.float32)
    if value.ndim and len(value) != sample.shape[1]:
        raise InputError(
            f"a fixed range of {len(value)} values does not fit {sample.shape[1]} dimensions; "
            "give one number or one for each dimension"
        )
    return np.full(sample.shape[1], value, dtype=np.float32)


def _plain(value: ArrayLike) -> float | tuple[float, ...]:
    """Return a fixed range as a number or a tuple of numbers, so that methods can be compared and hashed."""
    try:
        with np.errstate(over="ignore"):
            array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"a fixed range must be one number or one for each dimension ({error})") from None
    if array.ndim > 1:
        raise InputError(f"a fixed range has shape {array.shape}, expected one number or one for each dimension")
    if not np.all(np.isfinite(array) & (array > 0)):
        raise InputError("a fixed range must be positive and finite")
    return tuple(array.tolist()) if array.ndim else float(array)


_RADIUS = {"quantile": _quantile, "minmax": _minmax, "rolling": _rolling, "fixed": _fixed}
