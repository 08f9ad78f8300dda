"""HDF5 as ann-benchmarks uses it: a two-dimensional dataset, "train" unless another is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qvec.arrays import Vectors
from qvec.codecs import check_dtype
from qvec.errors import InputError, MissingExtraError
from qvec.sampling import RowNumbers
from qvec.sources.base import Columns, Progress
from qvec.sources.files import read_errors
from qvec.sources.matrix import TAKE_ROWS, MatrixSource

DATASET = "train"


class Hdf5Source(MatrixSource):
    """One dataset of an HDF5 file."""

    has_named_matrices = True

    def __init__(self, name: str, file: Path, columns: Columns) -> None:
        super().__init__(name, file, columns)
        self._dataset = self._named or DATASET
        with self._open() as dataset:
            check_dtype(dataset.dtype, columns.codec, f"{file}: dataset {self._dataset!r}")
            self.rows, values = dataset.shape
        self.dimensions = self.codec.dimensions_of(values, str(file))

    def _read(self, start: int, stop: int) -> Vectors:
        with self._open() as dataset:
            return self._decoded(dataset[start:stop], np.arange(start, stop))

    def _take(self, rows: RowNumbers, progress: Progress) -> Vectors:
        """Read whole blocks and pick the rows from them: HDF5 is slow at reading single rows."""
        blocks = np.split(rows, np.flatnonzero(np.diff(rows // TAKE_ROWS)) + 1)
        taken: list[Any] = []
        for block in blocks if len(rows) else []:
            first = int(block[0])
            taken.append(self._read(first, int(block[-1]) + 1)[block - first])
            progress(int(block[-1]) + 1)
        return np.concatenate(taken) if taken else self._read(0, 0)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        h5py = _h5py()
        with read_errors(self._file, "HDF5"), h5py.File(self._file, "r") as opened:
            dataset = opened.get(self._dataset)
            if not isinstance(dataset, h5py.Dataset) or dataset.ndim != 2:
                raise InputError(
                    f"{self._file}: there is no two-dimensional dataset {self._dataset!r}; name one with "
                    f"--vector-column (found: {', '.join(opened)})"
                )
            yield dataset


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "hdf5") from None
    return h5py
