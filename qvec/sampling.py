"""Uniform samples of a stream: every row has the same chance, wherever it stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Reservoir:
    """A uniform sample without replacement of the rows of a stream of batches.

    Each row gets a random key; the `size` rows with the smallest keys are the sample. That is Algorithm R's result,
    with one vectorized step a batch, and the same rows are drawn however the stream is cut into batches.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = np.random.default_rng(seed)
        self._keys: NDArray[np.float64] = np.empty(0)
        self._rows: NDArray[np.float32] | None = None

    def add(self, rows: NDArray[np.floating]) -> None:
        """Offers a batch, shape (n, d); what is kept is copied as float32."""
        keys = self._random.random(len(rows))
        if self._rows is None:
            self._rows = np.empty((0, rows.shape[1]), dtype=np.float32)
        free = self._size - len(self._rows)
        if free > 0:
            self._rows = np.concatenate([self._rows, rows[:free].astype(np.float32)])
            self._keys = np.concatenate([self._keys, keys[:free]])
            rows, keys = rows[free:], keys[free:]
        if len(rows):
            self._replace(rows, keys)

    def _replace(self, rows: NDArray[np.floating], keys: NDArray[np.float64]) -> None:
        """Keeps the smallest keys of the sample and the batch together, writing over the rows that lose."""
        assert self._rows is not None
        together = np.concatenate([self._keys, keys])
        kept = np.argpartition(together, self._size - 1)[: self._size]
        winners = kept[kept >= self._size] - self._size
        losers = np.setdiff1d(np.arange(self._size), kept[kept < self._size], assume_unique=True)
        self._rows[losers] = rows[winners]
        self._keys[losers] = keys[winners]

    @property
    def rows(self) -> NDArray[np.float32]:
        """The sample so far, shape (at most size, d); (0, 0) when nothing was offered."""
        return np.empty((0, 0), dtype=np.float32) if self._rows is None else self._rows
