"""What a query becomes: prefilter bits, and bit planes for scoring in SQL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration

QUERY_PLANES = 13
"""Bits of a query component in SQL scoring: the error is about 2e-5 of |q| |x|, at most 8e-5, at 384 dimensions and
more; up to 2e-4 at a few, and 2e-3 where one dimension weighs 30 times as much as any other."""


@dataclass(frozen=True)
class SlicedQuery:
    """A query for `statements.rescore_codes`: <q, x> = constant + scale * (weighted counts of common bits)."""

    constant: float
    scale: float
    planes: tuple[bytes, ...]

    @classmethod
    def of(cls, query: NDArray[np.float32], calibration: Calibration, planes: int) -> SlicedQuery:
        """Slices a float32 query (d,) against codes of `planes` planes.

        With u_i = q_i r_i / 2^(p-1), or 2 q_i deviation_i for p = 1, and the code's p bits as an integer c_i, <q, x> is
        estimated by <q, threshold> + sum u_i (c_i + 1/2 - 2^(p-1)); u is rounded to signed integers of QUERY_PLANES
        bits.
        """
        half = 1 << (planes - 1)
        step = 2 * calibration.deviation if planes == 1 else calibration.radius / half
        weights = query.astype(np.float64) * step
        most = (1 << (QUERY_PLANES - 1)) - 1
        scale = float(np.abs(weights).max(initial=0)) / most or 1.0
        levels = np.rint(weights / scale).astype(np.int32) + most + 1
        sliced = [np.packbits(levels >> bit & 1).tobytes() for bit in reversed(range(QUERY_PLANES))]
        # The rounded weights of the counts: their errors then meet c_i + 1/2 - 2^(p-1), which is small, and not c_i.
        rounded = scale * float(np.sum(levels - most - 1))
        constant = float(query.astype(np.float64) @ calibration.threshold) + (0.5 - half) * rounded
        return cls(constant, scale, tuple(sliced))
