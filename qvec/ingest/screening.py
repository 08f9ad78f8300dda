"""Which rows of a source a calibration may be fitted to, and what becomes of the others."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from qvec import _native
from qvec.errors import InputError
from qvec.ingest.options import FitOptions
from qvec.sampling import Screen
from qvec.sources import Source


class FitScreen(Screen):
    """Takes the rows that can be quantized. The first other one raises InputError, as it would in a load, or all of
    them are counted."""

    def __init__(self, source: Source, fit: FitOptions, *, stop: bool) -> None:
        self.count = 0
        self.first = ""
        """Where the first row is that was left out, and why."""
        self._source = source
        self._fit = fit
        self._stop = stop

    def faults(self, vectors: NDArray[Any]) -> dict[int, str]:
        cut, width = self._fit.dimensions, vectors.shape[1]
        dimensions = cut if cut and 0 < cut < width else width
        return dict(_native.bad_rows(vectors, dimensions, self._fit.metric == "cosine"))

    def left_out(self, row: int, reason: str) -> None:
        self.count += 1
        if self.count == 1:
            self.first = f"{self._source.where(row)}: {reason}"
        if self._stop:
            raise InputError(self.first)
