"""How good bits are on rows that nothing was learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.codes import Codes, hamming_top_k, quantize

K = 10
CANDIDATES = (20, 40)

Bits = Callable[[Codes], Codes]
"""Codes of 8 planes to the bits that are compared."""


@dataclass(frozen=True)
class Recall:
    """The share of the exact 10 nearest among the 20 and the 40 nearest by bits."""

    of_20: float
    of_40: float

    @property
    def mean(self) -> float:
        return (self.of_20 + self.of_40) / 2


class HeldOut:
    """Queries (m, D), rows (n, D) that they search, and the exact nearest of these by the metric."""

    def __init__(self, rows: NDArray[np.float32], queries: NDArray[np.float32], calibration: Calibration) -> None:
        self._rows = quantize(rows, calibration)
        asked = calibration.prepared(queries)
        self._queries = quantize(calibration.for_prefilter(asked), calibration)
        similar = asked @ calibration.prepared(rows).T
        self._exact = np.argpartition(-similar, K, axis=1)[:, :K]

    def recall(self, bits: Bits) -> Recall:
        found, _ = hamming_top_k(bits(self._rows), bits(self._queries), max(CANDIDATES))
        return Recall(*(self._share(found[:, :count]) for count in CANDIDATES))

    def _share(self, found: NDArray[np.int64]) -> float:
        hits = (self._exact[:, :, None] == found[:, None, :]).any(axis=2)
        return float(hits.mean())
