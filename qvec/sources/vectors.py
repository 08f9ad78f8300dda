"""Arrow columns of vectors as numpy matrices, floats without a copy where every row is as expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.codecs import FLOAT, Codec, check_dtype, decode_rows, from_base64
from qvec.errors import InputError
from qvec.sources.base import Vectors
from qvec.sources.columns import Kind
from qvec.sources.matrix import as_vectors

Starts = NDArray[np.int64]
Faults = dict[int, str]
"""What is wrong with the row at a position of the batch; the first reason found stays."""

NO_VECTOR = "has no vector"


def plain(array: Any) -> Any:
    """The array without dictionary encoding and extension types."""
    if isinstance(array, pa.DictionaryArray):
        return plain(array.dictionary_decode())
    return plain(array.storage) if isinstance(array, pa.ExtensionArray) else array


def plain_type(kind: Any) -> Any:
    """The type that `plain` arrives at."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return plain_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def kind_of(declared: Any) -> Kind:
    """What a column of an Arrow type can be."""
    kind, types = plain_type(declared), pa.types
    if _is_list(kind):
        value = plain_type(kind.value_type)
        numbers: Kind = "numbers" if types.is_integer(value) or types.is_decimal(value) else "other"
        return "vector" if types.is_floating(value) else numbers
    if types.is_fixed_size_binary(kind) or _is_binary(kind):
        return "bytes"
    if types.is_nested(kind):
        return "other"
    return "text" if _is_text(kind) else "scalar"


def check_vector_type(declared: Any, codec: Codec, where: str) -> None:
    """Raise InputError for a type that holds no vectors of the codec; as floats, integers are codes already."""
    kind = kind_of(declared)
    if kind == "numbers" and codec.quantized:
        check_dtype(np.dtype(plain_type(declared).value_type.to_pandas_dtype()), codec, where)
    elif kind != "bytes" and not (kind == "text" and codec.text) and (kind != "vector" or codec.quantized):
        raise InputError(f"{where} is {declared}; expected {_wanted(codec)}")


def _wanted(codec: Codec) -> str:
    if codec == FLOAT:
        return (
            "lists of float16, float32 or float64, or binary values of little-endian float32; what is quantized "
            "already is read by its encoding (--encoding)"
        )
    lists = f"lists of {'integers' if codec.quantized else 'floats'}"
    return f"{lists}, binary values of {codec.dtype} or their base64 for encoding {codec.name!r}"


def first_dimensions(array: Any, codec: Codec) -> int | None:
    """The dimensions of the first vector in a column; None when all are null."""
    values = _first_length(plain(array), codec.storage.itemsize)
    return None if values is None else codec.dimensions_of(values)


def _first_length(array: Any, itemsize: int) -> int | None:
    """The number of values of the first vector."""
    if pa.types.is_fixed_size_list(array.type):
        return int(array.type.list_size)
    if pa.types.is_fixed_size_binary(array.type):
        return int(array.type.byte_width) // itemsize
    present = array.drop_null()
    if _is_text(array.type):
        present = _from_base64(present, {}).drop_null()
    if not len(present):
        return None
    return len(present[0].as_py()) // itemsize if _is_binary(present.type) else len(present[0])


def read_vectors(column: Any, dimensions: int, faults: Faults, codec: Codec = FLOAT) -> Vectors:
    """The column as (n, dimensions). Rows that are null, ragged or hold a null go to `faults` and become zeros."""
    array = plain(column)
    if _is_text(array.type):
        array = _from_base64(array, faults)
    rows = _stored_rows(array, codec.values(dimensions), faults, codec)
    if codec == FLOAT:
        return as_vectors(rows)
    vectors, bad = decode_rows(rows, codec)
    for row, reason in bad.items():
        faults.setdefault(row, reason)
    return vectors


def _stored_rows(array: Any, width: int, faults: Faults, codec: Codec) -> NDArray[Any]:
    """The stored values (n, width) of a column of lists or bytes."""
    values, starts, lengths = _flat(array)
    is_list = _is_list(array.type)
    size = width if is_list else width * codec.storage.itemsize
    unit = "dimensions" if is_list and codec.bits != "packed" else "bytes"
    _find_faults(array, values, starts, lengths, size, unit, faults)
    if is_list:
        return _rows(_to_numpy(values), starts, size, faults)
    return _rows(values, starts, size, faults).view(codec.storage)


def _from_base64(texts: Any, faults: Faults) -> Any:
    """The bytes that text stands for, null where it is no base64; those rows go to `faults`."""
    decoded: list[bytes | None] = []
    for row, text in enumerate(texts.to_pylist()):
        try:
            decoded.append(None if text is None else from_base64(text))
        except ValueError as error:
            decoded.append(None)
            faults.setdefault(row, f"has a vector that is not base64: {error}")
    return pa.array(decoded, pa.large_binary())


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return str(kind) in ("string", "large_string", "string_view")


def _flat(array: Any) -> tuple[Any, Starts, Starts]:
    """The values of all rows one after another, and where each row starts in them and how long it is.

    Lists have Arrow values (numbers), binary columns numpy bytes.
    """
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        return values, *_regular(len(array), size)
    if pa.types.is_fixed_size_binary(array.type):
        size = array.type.byte_width
        data = _bytes(array.buffers()[1])[array.offset * size :]
        return data, *_regular(len(array), size)
    offsets = _offsets(array)
    first, last = int(offsets[0]), int(offsets[-1])
    if _is_binary(array.type):
        return _bytes(array.buffers()[2])[first:last], offsets[:-1] - first, np.diff(offsets)
    return array.values.slice(first, last - first), offsets[:-1] - first, np.diff(offsets)


def _regular(count: int, size: int) -> tuple[Starts, Starts]:
    return np.arange(count, dtype=np.int64) * size, np.full(count, size, np.int64)


def _offsets(array: Any) -> Starts:
    if _is_list(array.type):
        return np.asarray(array.offsets, np.int64)
    width = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    stored = np.frombuffer(array.buffers()[1] or b"\0" * 8, width)
    return stored[array.offset : array.offset + len(array) + 1].astype(np.int64)


def _bytes(buffer: Any) -> NDArray[np.uint8]:
    return np.frombuffer(buffer or b"", np.uint8)


def _find_faults(
    array: Any, values: Any, starts: Starts, lengths: Starts, expected: int, unit: str, faults: Faults
) -> None:
    valid = _valid(array)
    for row in np.flatnonzero(~valid).tolist():
        faults.setdefault(row, NO_VECTOR)
    for row in np.flatnonzero(valid & (lengths != expected)).tolist():
        faults.setdefault(row, f"has {lengths[row]} {unit}, expected {expected}")
    if _is_list(array.type) and values.null_count:
        nulls = np.flatnonzero(~_valid(values))
        rows = np.searchsorted(starts, nulls, side="right") - 1
        for row, position in zip(rows.tolist(), (nulls - starts[rows]).tolist(), strict=True):
            faults.setdefault(row, f"has a null in its vector, at position {position}")


def _valid(array: Any) -> NDArray[np.bool_]:
    if not array.null_count:
        return np.ones(len(array), bool)
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _to_numpy(values: Any) -> NDArray[Any]:
    numbers: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return numbers


def _rows(values: NDArray[Any], starts: Starts, width: int, faults: Faults) -> NDArray[Any]:
    if not faults:
        return values[: len(starts) * width].reshape(len(starts), width)
    rows = np.zeros((len(starts), width), values.dtype)
    good = np.setdiff1d(np.arange(len(starts)), list(faults))
    rows[good] = values[starts[good, None] + np.arange(width)]
    return rows
