"""Sources that are one matrix, with rows that can be read directly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.codecs import FLOAT, Codec, decode_rows
from qvec.errors import InputError, RowError
from qvec.sources.base import Batch, Progress, Source, Vectors
from qvec.sources.sampling import Rows, Screen, sample_rows

TAKE_ROWS = 8192


def as_vectors(values: NDArray[Any]) -> Vectors:
    """float16 and float32 as they are in native byte order, float64 rounded to float32; C-contiguous, aligned."""
    dtype = np.float16 if values.dtype.itemsize == 2 else np.float32
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is found where vectors are checked
        return np.require(values, dtype, ["C", "A"])


class MatrixSource(Source):
    """A matrix (rows, stored values) without ids, texts or metadata."""

    rows: int
    dimensions: int

    @abstractmethod
    def _read(self, start: int, stop: int) -> Vectors:
        """Rows [start, stop)."""

    @abstractmethod
    def _take(self, rows: Rows, progress: Progress) -> Vectors:
        """The given rows, which ascend."""

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        for first in range(start, self.rows, batch_rows):
            stop = min(first + batch_rows, self.rows)
            yield Batch(first, stop, np.arange(first, stop), None, self._read(first, stop), None, None, ())

    def _decoded(self, stored: NDArray[Any], rows: Rows) -> Vectors:
        """The vectors of the given rows. Raises RowError for one that does not fit the codec: then none may."""
        if self.codec == FLOAT:
            return as_vectors(stored)
        vectors, bad = decode_rows(stored, self.codec)
        for position, reason in sorted(bad.items()):
            raise RowError(int(rows[position]), reason, self.name)
        return vectors

    def _sample(self, size: int, seed: int, progress: Progress, screen: Screen) -> Vectors:
        sample = sample_rows(self.rows, size, seed, lambda rows: self._take(rows, progress), screen)
        progress(self.rows)
        return sample


@dataclass(frozen=True)
class Layout:
    """Where a file keeps its matrix: `rows` rows from byte `offset` on, each `prefix` int32 and the `values`."""

    rows: int
    values: int
    dtype: np.dtype[Any]
    offset: int
    prefix: int = 0

    @property
    def row_bytes(self) -> int:
        """The bytes of one row."""
        return 4 * self.prefix + self.dtype.itemsize * self.values

    @property
    def row(self) -> np.dtype[Any]:
        """One row as a structured type."""
        return np.dtype([("prefix", "<i4", (self.prefix,)), ("values", self.dtype, (self.values,))])


class FlatFile(MatrixSource):
    """A matrix stored row after row in a file.

    Rows are read into fresh memory: pages of a memory map would count as resident until the system reclaims
    them.
    """

    def __init__(self, name: str, file: Path, layout: Layout, codec: Codec) -> None:
        super().__init__(name, str(file.resolve()), [file])
        self.rows, self.dimensions = layout.rows, codec.dimensions_of(layout.values, str(file))
        self.codec = codec
        self._file, self._layout = file, layout

    def _read(self, start: int, stop: int) -> Vectors:
        records = np.empty(stop - start, self._layout.row)
        with FileIO(self._file) as stream:
            self._fill(stream, start, records)
        return self._values(records, np.arange(start, stop))

    def _take(self, rows: Rows, progress: Progress) -> Vectors:
        records = np.empty(len(rows), self._layout.row)
        with FileIO(self._file) as stream:
            for position, row in enumerate(rows.tolist()):
                self._fill(stream, row, records[position : position + 1])
                if position % TAKE_ROWS == 0:
                    progress(row)
        return self._values(records, rows)

    def _fill(self, stream: FileIO, row: int, records: NDArray[Any]) -> None:
        stream.seek(self._layout.offset + row * records.itemsize)
        left = memoryview(records.view(np.uint8).reshape(-1).data)
        while left:
            count = stream.readinto(left)
            if not count:
                raise InputError(f"{self.name} has become shorter while it was read; start again")
            left = left[count:]

    def _values(self, records: NDArray[Any], rows: Rows) -> Vectors:
        if self._layout.prefix:
            self._check_prefixes(records["prefix"][:, 0], rows)
        return self._decoded(records["values"], rows)

    def _check_prefixes(self, dimensions: NDArray[np.int32], rows: Rows) -> None:
        wrong = np.flatnonzero(dimensions != self._layout.values)
        if len(wrong):
            raise InputError(
                f"{self.where(int(rows[wrong[0]]))} says it has {dimensions[wrong[0]]} dimensions, expected "
                f"{self._layout.values}; the file is damaged, or its rows differ in length"
            )
