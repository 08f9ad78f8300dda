"""Learned bits: the integer projection of a calibration that computes them from codes.

Bit j of a row is [sum_i projection[j, i] * (2 * code[i] - 255) + bias[j] > 0] of the row's 8-bit codes. All terms and
partial sums are integers below 2**24 in magnitude, which float32 holds exactly: numpy, Rust and Postgres agree bit for
bit, in whatever order they add.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.errors import CalibrationError

Weights = NDArray[np.int8]
Bias = NDArray[np.int32]

EXACT = 1 << 24
"""float32 holds all integers below this magnitude."""


def checked_projection(projection: Any, bias: Any, dimensions: int) -> tuple[Weights, Bias] | None:
    """Return a projection (m, dimensions) and its bias (m,) as read-only arrays; None if there is neither.

    Raise CalibrationError for other shapes or types, and for weights whose sums float32 could not hold.
    """
    if projection is None and bias is None:
        return None
    if projection is None or bias is None:
        raise CalibrationError("a projection needs a bias and a bias a projection, but one of them is missing")
    weights, offsets = np.asarray(projection), np.asarray(bias)
    if weights.dtype != np.int8 or offsets.dtype != np.int32:
        raise CalibrationError(
            f"projection and bias are {weights.dtype} and {offsets.dtype}, expected int8 and int32: "
            "make them with qvec.projection.quantize_projection"
        )
    if weights.ndim != 2 or weights.shape[1] != dimensions or not len(weights) or len(weights) % 8:
        raise CalibrationError(
            f"projection has shape {weights.shape}, expected (m, {dimensions}) with m a multiple of 8, at least 8"
        )
    if offsets.shape != (len(weights),):
        raise CalibrationError(f"bias has shape {offsets.shape}, expected ({len(weights)},)")
    largest = int(_reach(weights, offsets).max())
    if largest >= EXACT:
        raise CalibrationError(f"projection and bias reach {largest} in a row, expected less than {EXACT}")
    return _frozen(weights), _frozen(offsets)


def quantize_projection(
    projection: NDArray[Any], bias: NDArray[Any], radius: NDArray[np.float32]
) -> tuple[Weights, Bias]:
    """Return int8 weights and int32 bias for the bits [projection @ (x - threshold) + bias > 0], as exact as int8 can.

    A code decodes to x - threshold = (2 * code - 255) * radius / 256, so the radius is multiplied into the weights.
    Then each row is scaled with its bias until its largest weight is 127, which does not change the sign.
    """
    weights = np.asarray(projection, np.float64) * (np.asarray(radius, np.float64) / 256)
    offsets = np.asarray(bias, np.float64)
    largest = np.abs(weights).max(axis=1)
    scale = np.divide(127, largest, out=np.ones_like(largest), where=largest > 0)
    rounded = np.rint(weights * scale[:, None]).astype(np.int64)
    room = EXACT - 1 - 255 * np.abs(rounded).sum(axis=1)
    return rounded.astype(np.int8), np.clip(np.rint(offsets * scale), -room, room).astype(np.int32)


def _reach(weights: Weights, bias: Bias) -> NDArray[np.int64]:
    """Return the largest magnitude of each row's sum."""
    reach: NDArray[np.int64] = 255 * np.abs(weights.astype(np.int64)).sum(axis=1) + np.abs(bias.astype(np.int64))
    return reach


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    copied = np.array(array, order="C")
    copied.setflags(write=False)
    return copied
