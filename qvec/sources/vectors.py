"""Arrow columns of vectors as numpy matrices; floats are not copied if every row is valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.arrays import Vectors
from qvec.codecs import FLOAT, Codec, decode_rows, from_base64
from qvec.sources.columns import is_binary, is_list, is_text, plain
from qvec.sources.fields import Faults

NO_VECTOR = "has no vector"

Offsets = NDArray[np.int64]


def first_dimensions(array: Any, codec: Codec) -> int | None:
    """Return the dimensions of the first vector in a column; None if all are null."""
    values = _first_length(plain(array), codec.storage.itemsize)
    return None if values is None else codec.dimensions_of(values)


def _first_length(array: Any, itemsize: int) -> int | None:
    if pa.types.is_fixed_size_list(array.type):
        return int(array.type.list_size)
    if pa.types.is_fixed_size_binary(array.type):
        return int(array.type.byte_width) // itemsize
    present = array.drop_null()
    if is_text(array.type):
        present = _from_base64(present, {}).drop_null()
    if not len(present):
        return None
    return len(present[0].as_py()) // itemsize if is_binary(present.type) else len(present[0])


def read_vectors(column: Any, dimensions: int, faults: Faults, codec: Codec = FLOAT) -> Vectors:
    """Return the column as (n, dimensions). Rows that are null, ragged or hold a null go to `faults`, as zeros."""
    array = plain(column)
    if is_text(array.type):
        array = _from_base64(array, faults)
    vectors, bad = decode_rows(_stored_rows(array, codec.values(dimensions), faults, codec), codec)
    for row, reason in bad.items():
        faults.setdefault(row, reason)
    return vectors


def _stored_rows(array: Any, width: int, faults: Faults, codec: Codec) -> NDArray[Any]:
    """Return the stored values (n, width) of a column of lists or bytes."""
    values, starts, lengths = _flat(array)
    lists = is_list(array.type)
    size = width if lists else width * codec.storage.itemsize
    unit = "dimensions" if lists and codec.bits != "packed" else "bytes"
    _find_faults(array, values, starts, lengths, size, unit, faults)
    if lists:
        return _valid_rows(values.to_numpy(zero_copy_only=False), starts, size, faults)
    return _valid_rows(values, starts, size, faults).view(codec.storage)


def _from_base64(texts: Any, faults: Faults) -> Any:
    """Return the bytes of base64 texts. Rows that are not base64 become null and go to `faults`."""
    decoded: list[bytes | None] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            decoded.append(None if text is None else from_base64(text))
        except ValueError as error:
            decoded.append(None)
            faults.setdefault(row, f"has a vector that is not base64: {error}")
    return pa.array(decoded, pa.large_binary())


def _flat(array: Any) -> tuple[Any, Offsets, Offsets]:
    """Return the values of all rows one after another, and each row's start and length in them.

    The values of lists are Arrow numbers, those of binary columns numpy bytes.
    """
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        return values, *_equal_lengths(len(array), size)
    if pa.types.is_fixed_size_binary(array.type):
        size = array.type.byte_width
        data = _bytes(array.buffers()[1])[array.offset * size :]
        return data, *_equal_lengths(len(array), size)
    offsets = _offsets(array)
    first, last = int(offsets[0]), int(offsets[-1])
    if is_binary(array.type):
        return _bytes(array.buffers()[2])[first:last], offsets[:-1] - first, np.diff(offsets)
    return array.values.slice(first, last - first), offsets[:-1] - first, np.diff(offsets)


def _equal_lengths(count: int, size: int) -> tuple[Offsets, Offsets]:
    return np.arange(count, dtype=np.int64) * size, np.full(count, size, np.int64)


def _offsets(array: Any) -> Offsets:
    if is_list(array.type):
        return np.asarray(array.offsets, np.int64)
    width = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    stored = np.frombuffer(array.buffers()[1] or b"\0" * 8, width)
    return stored[array.offset : array.offset + len(array) + 1].astype(np.int64)


def _bytes(buffer: Any) -> NDArray[np.uint8]:
    return np.frombuffer(buffer or b"", np.uint8)


def _find_faults(
    array: Any, values: Any, starts: Offsets, lengths: Offsets, expected: int, unit: str, faults: Faults
) -> None:
    valid = _valid(array)
    for row in np.flatnonzero(~valid).tolist():
        faults.setdefault(row, NO_VECTOR)
    for row in np.flatnonzero(valid & (lengths != expected)).tolist():
        faults.setdefault(row, f"has {lengths[row]} {unit}, expected {expected}")
    if is_list(array.type) and values.null_count:
        nulls = np.flatnonzero(~_valid(values))
        rows = np.searchsorted(starts, nulls, side="right") - 1
        for row, position in zip(rows.tolist(), (nulls - starts[rows]).tolist(), strict=True):
            faults.setdefault(row, f"has a null in its vector, at position {position}")


def _valid(array: Any) -> NDArray[np.bool_]:
    if not array.null_count:
        return np.ones(len(array), bool)
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _valid_rows(values: NDArray[Any], starts: Offsets, width: int, faults: Faults) -> NDArray[Any]:
    """Return the values as (n, width), with zeros for the rows in `faults`."""
    if not faults:
        return values[: len(starts) * width].reshape(len(starts), width)
    rows = np.zeros((len(starts), width), values.dtype)
    good = np.setdiff1d(np.arange(len(starts)), list(faults))
    rows[good] = values[starts[good, None] + np.arange(width)]
    return rows
