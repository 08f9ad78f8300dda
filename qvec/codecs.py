"""Embeddings that arrive already quantized: how to decode the integers and bits of a model or an API.

A `Codec` describes how one embedding is stored, and `decode` turns stored rows into vectors: bits become -1 and +1,
integers their values. The presets have the names that Cohere, Voyage, Jina, Mistral, mixedbread, vLLM and
sentence-transformers agree on; Perplexity calls `ubinary-lsb` base64_binary.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.arrays import Vectors
from qvec.errors import InputError, RowError

Dtype = Literal["float16", "float32", "int8", "uint8"]
Bits = Literal["packed", "unpacked"]
BitOrder = Literal["big", "little"]
ZeroRule = Literal[">", ">="]

LENGTH_TOLERANCE = 0.1
"""How far from 1 the length of a decoded vector may be if it had unit length before it was quantized."""


@dataclass(frozen=True)
class Codec:
    """How an embedding is stored.

    - `dtype`: type of a stored value; little-endian if it comes as bytes.
    - `bits`: None for numbers. "packed": each dimension is one bit, eight to a byte. "unpacked": each dimension is a
      value, 0 or 1, or -1 or +1.
    - `bit_order`: whether the first of eight packed bits is the most ("big", as in numpy's packbits) or the least
      significant.
    - `offset`: added to each stored value first.
    - `zero`: which unpacked values are ones: those above 0 (">") or also 0 (">=").
    - `dimensions`: the logical number, if it is less than 8 for each packed byte; checked wherever it is given.
    - `scale`: value of one integer step, one number or one for each dimension; None if it is not known.
    - `normalized`: the vectors had unit length before they were quantized, so decoded ones must come near it.
    - `text`: base64 of the bytes is accepted, too.
    """

    name: str
    dtype: Dtype = "float32"
    bits: Bits | None = None
    bit_order: BitOrder = "big"
    offset: int = 0
    zero: ZeroRule = ">"
    dimensions: int | None = None
    scale: float | tuple[float, ...] | None = None
    normalized: bool = False
    text: bool = True

    def __post_init__(self) -> None:
        for field, known in (("dtype", Dtype), ("bit_order", BitOrder), ("zero", ZeroRule)):
            self._check_known(field, get_args(known))
        self._check_known("bits", (None, *get_args(Bits)))
        if self.bits and not self.quantized:
            raise InputError(f"encoding {self.name!r} has bits of dtype {self.dtype!r}, expected int8 or uint8")
        if self.dimensions is not None and self.dimensions < 1:
            raise InputError(f"encoding {self.name!r} has dimensions {self.dimensions}, expected at least 1")
        if self.scale is not None:
            self._check_scale(np.asarray(self.scale))

    def _check_known(self, field: str, known: tuple[str | None, ...]) -> None:
        value = getattr(self, field)
        if value not in known:
            raise InputError(f"encoding {self.name!r} has {field} {value!r}, expected one of: {known}")

    def _check_scale(self, scale: NDArray[Any]) -> None:
        if self.bits:
            raise InputError(f"encoding {self.name!r} has a scale, but bits have none: they are -1 and +1")
        if scale.ndim > 1 or not np.all(np.isfinite(scale) & (scale > 0)):
            raise InputError(f"encoding {self.name!r} has scale {self.scale}, expected positive finite numbers")

    @property
    def quantized(self) -> bool:
        """Whether the stored values are integers or bits."""
        return self.dtype in ("int8", "uint8")

    @property
    def storage(self) -> np.dtype[Any]:
        """The dtype of stored bytes."""
        storage: np.dtype[Any] = np.dtype(self.dtype).newbyteorder("<")
        return storage

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer that may be stored."""
        if self.bits == "unpacked":
            return -1, 1
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    def values(self, dimensions: int) -> int:
        """Return the number of stored values of a vector of `dimensions` dimensions."""
        return math.ceil(dimensions / 8) if self.bits == "packed" else dimensions

    def dimensions_of(self, values: int, where: str = "vectors") -> int:
        """Return the logical dimensions of `values` stored values.

        Raise InputError if they contradict the codec's `dimensions` or `scale`; `where` names the vectors.
        """
        dimensions = self.dimensions or (8 * values if self.bits == "packed" else values)
        if values != self.values(dimensions):
            raise InputError(
                f"{where}: {values} values a row found, {self.values(dimensions)} wanted for {dimensions} dimensions "
                f"in encoding {self.name!r}"
            )
        if isinstance(self.scale, tuple) and len(self.scale) != dimensions:
            raise InputError(f"{where}: {dimensions} dimensions found, but the scale has {len(self.scale)}")
        return dimensions


FLOAT = Codec("float", text=False)
"""Vectors that are not quantized."""

PRESETS = {
    codec.name: codec
    for codec in (
        FLOAT,
        Codec("base64"),
        Codec("int8", "int8"),
        # int8 plus 128. Without the offset a cosine would see little but the shift.
        Codec("uint8", "uint8", offset=-128),
        Codec("ubinary", "uint8", "packed"),
        Codec("ubinary-lsb", "uint8", "packed", "little"),
        Codec("binary", "int8", "packed", offset=128),
        Codec("sign", "int8", "unpacked"),
    )
}


def preset(name: str) -> Codec:
    """Return the codec of a name, or the one that a file NAME.json describes as an object of fields of `Codec`.

    Raise InputError unless the name is known and the description valid.
    """
    if name.endswith(".json"):
        return _described(Path(name))
    if name not in PRESETS:
        raise InputError(
            f"encoding {name!r} is unknown, expected one of: {', '.join(PRESETS)}, or a description: NAME.json"
        )
    return PRESETS[name]


_FIELDS: dict[str, tuple[type, ...]] = {
    "dtype": (str,),
    "bits": (str, type(None)),
    "bit_order": (str,),
    "offset": (int,),
    "zero": (str,),
    "dimensions": (int, type(None)),
    "scale": (int, float, list, type(None)),
    "normalized": (bool,),
    "text": (bool,),
}


def _described(path: Path) -> Codec:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read encoding {path}: {error}") from None
    if not isinstance(fields, dict) or not fields.keys() <= _FIELDS.keys():
        raise InputError(f"encoding {path} is not a JSON object of {', '.join(_FIELDS)}")
    for field, value in fields.items():
        if not isinstance(value, _FIELDS[field]) or (isinstance(value, bool) and bool not in _FIELDS[field]):
            raise InputError(f"encoding {path} has {field} {value!r}, expected {_FIELDS[field][0].__name__}")
    scale = fields.pop("scale", None)
    if isinstance(scale, list) and not all(type(step) in (int, float) for step in scale):
        raise InputError(f"encoding {path} has a scale that is not a list of numbers")
    return Codec(path.name, scale=tuple(scale) if isinstance(scale, list) else scale, **fields)


def decode(stored: ArrayLike, codec: Codec) -> NDArray[np.float32]:
    """Return the vectors of stored rows (n, values), float32 (n, dimensions): bits as -1 and +1, integers times scale.

    Raise InputError unless dtype and number of values fit the codec, RowError for the first row that does not fit it.
    """
    rows = np.asarray(stored)
    if rows.ndim != 2:
        raise InputError(f"vectors: {rows.ndim} axes found, 2 wanted (rows, values)")
    check_dtype(rows.dtype, codec, "vectors")
    codec.dimensions_of(rows.shape[1])
    vectors, bad = decode_rows(rows, codec)
    for row, reason in sorted(bad.items()):
        raise RowError(row, reason, "vectors")
    return vectors.astype(np.float32, copy=False)


def check_dtype(dtype: np.dtype[Any], codec: Codec, where: str) -> None:
    """Raise InputError unless an array of this dtype can hold the codec's values.

    Wider integers are accepted: their values are checked later.
    """
    if not codec.quantized:
        fits, wanted = dtype.kind == "f" and dtype.itemsize in (2, 4, 8), "float16, float32 or float64"
    elif codec.bits == "unpacked":
        fits, wanted = dtype.kind in "biu", "integers or booleans"
    else:
        fits, wanted = dtype.kind in "iu" and (dtype.itemsize > 1 or dtype.name == codec.dtype), codec.dtype
    if not fits:
        hint = "; if the vectors are quantized already, name their encoding (--encoding)" if codec == FLOAT else ""
        encoding = "" if codec == FLOAT else f" for encoding {codec.name!r}"
        raise InputError(f"{where} holds {dtype.name}; expected {wanted}{encoding}{hint}")


def decode_rows(stored: NDArray[Any], codec: Codec) -> tuple[Vectors, dict[int, str]]:
    """Return the vectors of stored rows and, by position, what is wrong with invalid ones.

    The caller has checked the dtype and the number of values. Vectors are C-contiguous float32; under `FLOAT`, float16
    stays float16.
    """
    bad: dict[int, str] = {}
    if codec == FLOAT:
        return _floats(stored), bad
    if codec.quantized:
        _find_outside(stored, codec, bad)
    if codec.bits == "packed":
        vectors = _signs(_unpacked(stored, codec, bad))
    elif codec.bits == "unpacked":
        _find_ternary(stored, codec, bad)
        vectors = _signs(stored > 0 if codec.zero == ">" else stored >= 0)
    else:
        vectors = _numbers(stored, codec)
    if codec.normalized:
        _find_lengths(vectors, bad)
    return vectors, bad


def from_base64(text: str) -> bytes:
    """Return the bytes of base64 text. Raise ValueError unless it is valid."""
    return base64.b64decode(text, validate=True)


def _floats(stored: NDArray[Any]) -> Vectors:
    """Return float16 and float32 in native byte order, float64 rounded to float32; without a copy if possible."""
    dtype = np.float16 if stored.dtype.itemsize == 2 else np.float32
    with np.errstate(over="ignore"):  # overflow becomes infinity, which the check of the vectors finds
        return np.require(stored, dtype, ["C", "A"])


def _find_outside(stored: NDArray[Any], codec: Codec, bad: dict[int, str]) -> None:
    low, high = codec.limits
    if stored.dtype.kind == "b" or (codec.bits != "unpacked" and stored.dtype.name == codec.dtype):
        return
    outside = (stored < low) | (stored > high)
    for row in np.flatnonzero(outside.any(axis=1)).tolist():
        position = int(outside[row].argmax())
        found = f"has {stored[row, position]} at position {position}"
        bad.setdefault(row, f"{found}, but encoding {codec.name!r} holds integers from {low} to {high}")


def _unpacked(stored: NDArray[Any], codec: Codec, bad: dict[int, str]) -> NDArray[np.uint8]:
    """Return the bits of packed rows as 0 and 1.

    A bit after the last dimension is a fault: bit order or dimensions must be others.
    """
    packed = (stored.astype(np.int16) + codec.offset).astype(np.uint8) if codec.offset else stored.astype(np.uint8)
    bits = np.unpackbits(packed, axis=1, bitorder=codec.bit_order)
    dimensions = codec.dimensions or bits.shape[1]
    for row in np.flatnonzero(bits[:, dimensions:].any(axis=1)).tolist():
        bad.setdefault(row, f"has a bit set after its {dimensions} dimensions, in encoding {codec.name!r}")
    return bits[:, :dimensions]


def _find_ternary(stored: NDArray[Any], codec: Codec, bad: dict[int, str]) -> None:
    """Find rows with both -1 and 0: signs are -1 and +1, or 0 and 1, unless `zero` counts 0 as one."""
    if codec.zero == ">=" or stored.dtype.kind == "b":
        return
    for row in np.flatnonzero((stored == 0).any(axis=1) & (stored == -1).any(axis=1)).tolist():
        bad.setdefault(row, f"has both -1 and 0, but encoding {codec.name!r} holds -1 and 1 or 0 and 1")


def _signs(ones: NDArray[Any]) -> NDArray[np.float32]:
    vectors = ones.astype(np.float32)
    vectors *= 2
    vectors -= 1
    return vectors


def _numbers(stored: NDArray[Any], codec: Codec) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # overflow becomes infinity, which the check of the vectors finds
        vectors = np.array(stored, np.float32, order="C")
    if codec.offset:
        vectors += np.float32(codec.offset)
    if codec.scale is not None:
        vectors *= np.asarray(codec.scale, np.float32)
    return vectors


def _find_lengths(vectors: NDArray[np.float32], bad: dict[int, str]) -> None:
    lengths = np.linalg.norm(vectors, axis=1)
    for row in np.flatnonzero(~(np.abs(lengths - 1) <= LENGTH_TOLERANCE)).tolist():
        bad.setdefault(row, f"has length {lengths[row]:.3g} when decoded, expected about 1: is the scale right?")
