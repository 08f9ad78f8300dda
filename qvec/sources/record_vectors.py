"""The vector of one JSON Lines or CSV row: a list of numbers, or base64 text where it is quantized."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.codecs import FLOAT, Codec, decode_rows, from_base64
from qvec.sources.metadata import dump
from qvec.sources.vectors import NO_VECTOR

NUMBERS = frozenset((float, int))
INTEGERS = frozenset((int,))


class Fault(Exception):  # noqa: N818
    """Why a record is rejected."""


def vector_length(value: Any, codec: Codec) -> int | None:
    """The number of stored values of a vector; None where the value is none."""
    if isinstance(value, list):
        return len(value) if NUMBERS.issuperset(map(type, value)) else None
    if not (isinstance(value, str) and codec.text):
        return None
    try:
        return len(from_base64(value)) // codec.storage.itemsize
    except ValueError:
        return None


def read_vector(value: Any, dimensions: int, codec: Codec) -> NDArray[np.float32]:
    """The vector (dimensions,) that a field stands for. Raises Fault."""
    if value is None:
        raise Fault(NO_VECTOR)
    if codec == FLOAT:
        return _from_list(value, dimensions, codec).astype(np.float32, copy=False)
    stored = _from_text(value, dimensions, codec) if isinstance(value, str) else _from_list(value, dimensions, codec)
    vectors, bad = decode_rows(stored[np.newaxis], codec)
    if bad:
        raise Fault(bad[0])
    vector: NDArray[np.float32] = vectors[0]
    return vector


def _from_list(value: Any, dimensions: int, codec: Codec) -> NDArray[Any]:
    types, kind = (INTEGERS, "integer") if codec.quantized else (NUMBERS, "number")
    if not isinstance(value, list):
        wanted = f"a list of {kind}s{' or base64 text' if codec.text else ''}"
        raise Fault(f"has a vector that is a {type(value).__name__}, expected {wanted}")
    expected = codec.values(dimensions)
    if len(value) != expected:
        raise Fault(f"has {len(value)} {'bytes' if codec.bits == 'packed' else 'dimensions'}, expected {expected}")
    if not types.issuperset(map(type, value)):
        position, wrong = next((i, item) for i, item in enumerate(value) if type(item) not in types)
        article = "an" if codec.quantized else "a"
        raise Fault(f"has {dump(wrong)[:40]} in its vector, at position {position}, expected {article} {kind}")
    try:
        with np.errstate(over="ignore"):  # infinities are found where vectors are checked
            return np.array(value, np.int64 if codec.quantized else np.float32)
    except OverflowError:
        raise Fault(
            f"has an integer in its vector that is too large for {'an int64' if codec.quantized else 'a float'}"
        ) from None


def _from_text(text: str, dimensions: int, codec: Codec) -> NDArray[Any]:
    try:
        data = from_base64(text)
    except ValueError as error:
        raise Fault(f"has a vector that is not base64: {error}") from None
    expected = codec.values(dimensions) * codec.storage.itemsize
    if len(data) != expected:
        raise Fault(f"has {len(data)} bytes, expected {expected}")
    return np.frombuffer(data, codec.storage)
