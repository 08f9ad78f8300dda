"""The headers of .npy, .fbin, .fvecs and safetensors files: where the matrix is, checked against the file's size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from qvec.codecs import Codec, check_dtype
from qvec.errors import InputError
from qvec.sources.matrix import Layout

SAFETENSORS_TYPES = {
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
FLOAT32 = np.dtype("<f4")


def npy_layout(file: Path, codec: Codec) -> Layout:
    """numpy's own format, two-dimensional, in C order, either byte order."""
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
    check_dtype(dtype, codec, str(file))
    return _checked(file, Layout(shape[0], shape[1], dtype, offset))


def fbin_layout(file: Path, codec: Codec) -> Layout:
    """Two int32, the rows and the dimensions, then float32 rows (big-ann-benchmarks)."""
    check_dtype(FLOAT32, codec, str(file))
    header = _int32s(file, 2)
    if len(header) < 2 or min(header) < 0:
        raise InputError(f"{file} is not an .fbin file: expected two counts at its start, found {header}")
    return _checked(file, Layout(header[0], header[1], FLOAT32, 8))


def fvecs_layout(file: Path, codec: Codec) -> Layout:
    """Each row an int32, the dimensions, then float32 values (corpus-texmex)."""
    check_dtype(FLOAT32, codec, str(file))
    size = file.stat().st_size
    if size == 0:
        return Layout(0, 0, FLOAT32, 0, prefix=1)
    header = _int32s(file, 1)
    if len(header) < 1 or header[0] < 1:
        raise InputError(f"{file} is not an .fvecs file: expected the dimensions at its start, found {header}")
    return _checked(file, Layout(size // (4 + 4 * header[0]), header[0], FLOAT32, 0, prefix=1))


def safetensors_layout(file: Path, tensor: str | None, codec: Codec) -> Layout:
    """The tensor named, or else the only one with two dimensions."""
    tensors = _safetensors_header(file)
    name = _choose(file, tensors, tensor)
    dtype, shape = tensors[name]["dtype"], tensors[name]["shape"]
    if len(shape) != 2 or dtype not in SAFETENSORS_TYPES:
        raise InputError(
            f"{file}: tensor {name!r} is {dtype} of shape {shape}; expected F16, F32, F64 or integers in two dimensions"
        )
    check_dtype(np.dtype(SAFETENSORS_TYPES[dtype]), codec, f"{file}: tensor {name!r}")
    offset = tensors[name]["data_offsets"][0] + 8 + _header_bytes(file)
    return _checked(file, Layout(shape[0], shape[1], np.dtype(SAFETENSORS_TYPES[dtype]), offset), exact=False)


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
        with safe_open(file, "numpy"):  # checks that the header is sound and covers the whole file
            pass
    except SafetensorError as error:
        raise InputError(f"{file} is not a safetensors file: {error}") from None
    with file.open("rb") as stream:
        stream.seek(8)
        header: dict[str, Any] = json.loads(stream.read(_header_bytes(file)))
    header.pop("__metadata__", None)
    return header


def _choose(file: Path, tensors: dict[str, Any], name: str | None) -> str:
    found = ", ".join(f"{name} {tuple(tensor['shape'])}" for name, tensor in tensors.items())
    if name is None:
        matrices = [name for name, tensor in tensors.items() if len(tensor["shape"]) == 2]
        if len(matrices) == 1:
            return matrices[0]
        raise InputError(f"{file} has {len(matrices)} matrices; name one with --vector-column (tensors found: {found})")
    if name not in tensors:
        raise InputError(f"{file}: there is no tensor {name!r}; tensors found: {found}")
    return name
