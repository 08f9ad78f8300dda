"""Sources that are one matrix: .npy, .fbin, .fvecs and safetensors files, and the base class that HDF5 shares."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from qvec.arrays import Vectors
from qvec.codecs import check_dtype, decode_rows
from qvec.errors import InputError, RowError
from qvec.sampling import RowNumbers, Screen, sample_rows
from qvec.sources.base import Batch, Columns, Progress, Source

TAKE_ROWS = 8192

_FLOAT32 = np.dtype("<f4")
_SAFETENSORS_TYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "?",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
}


class MatrixSource(Source):
    """A matrix (rows, stored values) without ids, texts or metadata, whose rows can be read by number."""

    rows: int
    dimensions: int
    has_named_matrices: bool = False
    """Whether a file of this format may hold several matrices, so that `columns.vector` names one."""

    def __init__(self, name: str, file: Path, columns: Columns) -> None:
        super().__init__(name, str(file.resolve()), [file])
        self._file, self._named, self.codec = file, columns.vector, columns.codec
        vector = None if self.has_named_matrices else columns.vector
        for column in filter(None, (columns.id, vector, columns.text, columns.metadata)):
            raise InputError(f"{name} holds only vectors; there is no column {column!r} in its format")

    @abstractmethod
    def _read(self, start: int, stop: int) -> Vectors:
        """Return rows [start, stop)."""

    @abstractmethod
    def _take(self, rows: RowNumbers, progress: Progress) -> Vectors:
        """Return the given rows, which ascend."""

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        for first in range(start, self.rows, batch_rows):
            stop = min(first + batch_rows, self.rows)
            yield Batch(first, stop, np.arange(first, stop), None, self._read(first, stop), None, None, ())

    def _decoded(self, stored: NDArray[Any], rows: RowNumbers) -> Vectors:
        """Return the vectors of the given rows. Raise RowError for the first one that does not fit the codec."""
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
        """Bytes of one row."""
        return 4 * self.prefix + self.dtype.itemsize * self.values

    @property
    def row(self) -> np.dtype[Any]:
        """Structured type of one row."""
        return np.dtype([("prefix", "<i4", (self.prefix,)), ("values", self.dtype, (self.values,))])


class FlatFile(MatrixSource):
    """A matrix stored row after row in a file. A subclass finds its layout in the file's header.

    Rows are read into fresh memory: pages of a memory map would count as resident until the system reclaims them.
    """

    def __init__(self, name: str, file: Path, columns: Columns) -> None:
        super().__init__(name, file, columns)
        self._layout = self._find_layout()
        self.rows = self._layout.rows
        self.dimensions = self.codec.dimensions_of(self._layout.values, str(file))

    @abstractmethod
    def _find_layout(self) -> Layout:
        """Read the header of the file."""

    def _read(self, start: int, stop: int) -> Vectors:
        records = np.empty(stop - start, self._layout.row)
        with FileIO(self._file) as stream:
            self._fill(stream, start, records)
        return self._values(records, np.arange(start, stop))

    def _take(self, rows: RowNumbers, progress: Progress) -> Vectors:
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

    def _values(self, records: NDArray[Any], rows: RowNumbers) -> Vectors:
        if self._layout.prefix:
            self._check_prefixes(records["prefix"][:, 0], rows)
        return self._decoded(records["values"], rows)

    def _check_prefixes(self, dimensions: NDArray[np.int32], rows: RowNumbers) -> None:
        wrong = np.flatnonzero(dimensions != self._layout.values)
        if len(wrong):
            raise InputError(
                f"{self.where(int(rows[wrong[0]]))} says it has {dimensions[wrong[0]]} dimensions, expected "
                f"{self._layout.values}; the file is damaged, or its rows differ in length"
            )


class NpyFile(FlatFile):
    """numpy's own format, two-dimensional, in C order, either byte order."""

    def _find_layout(self) -> Layout:
        file = self._file
        with file.open("rb") as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran_order, dtype = read(stream)
            except ValueError as error:
                raise InputError(f"{file} is not a .npy file: {error}") from None
            offset = stream.tell()
        if len(shape) != 2:
            raise InputError(f"{file} holds an array of shape {shape}; expected two dimensions, a row for each vector")
        if fortran_order:
            raise InputError(f"{file} is in Fortran order; save it again with numpy.ascontiguousarray")
        check_dtype(dtype, self.codec, str(file))
        return _checked(file, Layout(shape[0], shape[1], dtype, offset))


class FbinFile(FlatFile):
    """Two int32, the rows and the dimensions, then float32 rows (big-ann-benchmarks)."""

    def _find_layout(self) -> Layout:
        check_dtype(_FLOAT32, self.codec, str(self._file))
        header = _int32s(self._file, 2)
        if len(header) < 2 or min(header) < 0:
            raise InputError(f"{self._file} is not an .fbin file: expected two counts at its start, found {header}")
        return _checked(self._file, Layout(header[0], header[1], _FLOAT32, 8))


class FvecsFile(FlatFile):
    """Each row an int32, the dimensions, then float32 values (corpus-texmex)."""

    def _find_layout(self) -> Layout:
        check_dtype(_FLOAT32, self.codec, str(self._file))
        size = self._file.stat().st_size
        if size == 0:
            return Layout(0, 0, _FLOAT32, 0, prefix=1)
        header = _int32s(self._file, 1)
        if len(header) < 1 or header[0] < 1:
            raise InputError(
                f"{self._file} is not an .fvecs file: expected the dimensions at its start, found {header}"
            )
        return _checked(self._file, Layout(size // (4 + 4 * header[0]), header[0], _FLOAT32, 0, prefix=1))


class SafetensorsFile(FlatFile):
    """The named tensor of a safetensors file, or its only one with two dimensions."""

    has_named_matrices = True

    def _find_layout(self) -> Layout:
        file = self._file
        tensors = _safetensors_header(file)
        name = _choose_tensor(file, tensors, self._named)
        dtype, shape = tensors[name]["dtype"], tensors[name]["shape"]
        if len(shape) != 2 or dtype not in _SAFETENSORS_TYPES:
            raise InputError(
                f"{file}: tensor {name!r} is {dtype} of shape {shape}; "
                "expected F16, F32, F64 or integers in two dimensions"
            )
        numpy_type = np.dtype(_SAFETENSORS_TYPES[dtype])
        check_dtype(numpy_type, self.codec, f"{file}: tensor {name!r}")
        offset = tensors[name]["data_offsets"][0] + 8 + _header_bytes(file)
        return _checked(file, Layout(shape[0], shape[1], numpy_type, offset), exact=False)


def _checked(file: Path, layout: Layout, exact: bool = True) -> Layout:
    if layout.rows and not layout.values:
        raise InputError(f"{file} has {layout.rows} rows of 0 dimensions; expected at least 1")
    expected = layout.offset + layout.rows * layout.row_bytes
    size = file.stat().st_size
    if size < expected or (exact and size > expected):
        raise InputError(
            f"{file} has {size} bytes, but {layout.rows} rows of {layout.values} dimensions take {expected}; "
            "it is truncated or damaged"
        )
    return layout


def _int32s(file: Path, count: int) -> list[int]:
    with file.open("rb") as stream:
        header = stream.read(4 * count)
    values: list[int] = np.frombuffer(header[: len(header) // 4 * 4], "<i4").tolist()
    return values


def _header_bytes(file: Path) -> int:
    with file.open("rb") as stream:
        return int.from_bytes(stream.read(8), "little")


def _safetensors_header(file: Path) -> dict[str, Any]:
    try:
        with safe_open(file, "numpy"):  # checks that the header is valid and covers the whole file
            pass
    except SafetensorError as error:
        raise InputError(f"{file} is not a safetensors file: {error}") from None
    with file.open("rb") as stream:
        stream.seek(8)
        header: dict[str, Any] = json.loads(stream.read(_header_bytes(file)))
    header.pop("__metadata__", None)
    return header


def _choose_tensor(file: Path, tensors: dict[str, Any], name: str | None) -> str:
    found = ", ".join(f"{name} {tuple(tensor['shape'])}" for name, tensor in tensors.items())
    if name is None:
        matrices = [name for name, tensor in tensors.items() if len(tensor["shape"]) == 2]
        if len(matrices) == 1:
            return matrices[0]
        raise InputError(f"{file} has {len(matrices)} matrices; name one with --vector-column (tensors found: {found})")
    if name not in tensors:
        raise InputError(f"{file}: there is no tensor {name!r}; tensors found: {found}")
    return name
