"""Uniform samples of a stream: every row has the same chance, wherever it stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32] | NDArray[np.float16]
Sample = NDArray[np.float32]


class Reservoir:
    """Algorithm R of Vitter (1985), a batch at a time: after n rows each of them is kept with chance size/n.

    The same rows are drawn however the stream is cut into batches.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._kept: Sample | None = None
        self._seen = 0

    def add(self, batch: Vectors) -> None:
        """Offers the rows of `batch` (n, d); what is kept is copied as float32."""
        if self._kept is None:
            self._kept = np.empty((self._size, batch.shape[1]), np.float32)
        filling = min(max(self._size - self._seen, 0), len(batch))
        self._kept[self._seen : self._seen + filling] = batch[:filling]
        self._replace(self._kept, batch[filling:], self._seen + filling)
        self._seen += len(batch)

    def rows(self, dimensions: int = 0) -> Sample:
        """The sample (at most size, d); (0, dimensions) when nothing was offered."""
        if self._kept is None:
            return np.empty((0, dimensions), np.float32)
        return self._kept[: min(self._seen, self._size)]

    def _replace(self, kept: Sample, batch: Vectors, seen: int) -> None:
        places = self._rng.integers(np.arange(seen + 1, seen + 1 + len(batch)))
        chosen = places < self._size
        # A place drawn twice ends with the later row, as in one-at-a-time order: numpy assigns the last value.
        kept[places[chosen]] = batch[chosen]
