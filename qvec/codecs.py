"""Embeddings that arrive already quantized: what the integers and bits of a model or an API stand for.

A `Codec` describes how one embedding is stored, and `decode` makes vectors of stored rows: bits become -1 and +1,
integers their values. The presets are named as Cohere, Voyage, Jina, Mistral, mixedbread, vLLM and
sentence-transformers name them, which all agree on them; `ubinary-lsb` is what Perplexity calls base64_binary.
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

from qvec.errors import InputError, RowError

Dtype = Literal["float16", "float32", "int8", "uint8"]
Bits = Literal["packed", "unpacked"]
BitOrder = Literal["big", "little"]
ZeroRule = Literal[">", ">="]

LENGTH_TOLERANCE = 0.1
"""How far from 1 the length of a decoded vector may be that was at unit length before it was quantized."""


@dataclass(frozen=True)
class Codec:
    """How an embedding is stored.

    `dtype` is that of a stored value, little-endian where it comes as bytes. `bits`: each dimension is one bit, eight
    of them "packed" in a byte, the first one the most (`bit_order` "big", numpy's packbits) or the least significant,
    or "unpacked" as 0 and 1 or -1 and +1. `offset` is added to a stored value first. `zero` says which unpacked values
    are ones: those above 0, or 0 too. `dimensions` is the logical number where 8 x bytes is more than that, and is
    checked wherever it is given. `scale` is what one integer step is worth: one number, or one for each dimension;
    None where it is not known. `normalized`: the vectors were at unit length before they were quantized, so that
    decoded ones have to come near it. `text`: base64 of the bytes is read, too.
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
        """The least and the greatest integer that may be stored."""
        if self.bits == "unpacked":
            return -1, 1
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)

    def values(self, dimensions: int) -> int:
        """The number of stored values that make so many dimensions."""
        return math.ceil(dimensions / 8) if self.bits == "packed" else dimensions

    def dimensions_of(self, values: int, where: str = "vectors") -> int:
        """The logical dimensions of so many stored values. Raises InputError where they are not those it states."""
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
"""Vectors as they are."""

PRESETS = {
    codec.name: codec
    for codec in (
        FLOAT,
        Codec("base64"),
        Codec("int8", "int8"),
        # The same embedding's int8 plus 128: around 128, where nothing but the shift would be seen by a cosine.
        Codec("uint8", "uint8", offset=-128),
        Codec("ubinary", "uint8", "packed"),
        Codec("ubinary-lsb", "uint8", "packed", "little"),
        Codec("binary", "int8", "packed", offset=128),
        Codec("sign", "int8", "unpacked"),
    )
}


def preset(name: str) -> Codec:
    """The codec of a name, or the one that a file NAME.json describes: an object of fields of `Codec`.

    Raises InputError for a name that is not known and a description that is none.
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
        raise InputError(f"encoding {path} is no JSON object of {', '.join(_FIELDS)}")
    for field, value in fields.items():
        if not isinstance(value, _FIELDS[field]) or (isinstance(value, bool) and bool not in _FIELDS[field]):
            raise InputError(f"encoding {path} has {field} {value!r}, expected {_FIELDS[field][0].__name__}")
    scale = fields.pop("scale", None)
    if isinstance(scale, list) and not all(type(step) in (int, float) for step in scale):
        raise InputError(f"encoding {path} has a scale of other things than numbers")
    return Codec(path.name, scale=tuple(scale) if isinstance(scale, list) else scale, **fields)


def decode(stored: ArrayLike, codec: Codec) -> NDArray[np.float32]:
    """The vectors of stored rows (n, values), float32 (n, dimensions): bits as -1 and +1, integers times their scale.

    Raises InputError for another dtype or number of values than the codec's, RowError for a row that `bad_rows` finds.
    """
    rows = np.asarray(stored)
    if rows.ndim != 2:
        raise InputError(f"vectors: {rows.ndim} axes found, 2 wanted (rows, values)")
    check_dtype(rows.dtype, codec, "vectors")
    codec.dimensions_of(rows.shape[1])
    vectors, bad = decode_rows(rows, codec)
    for row, reason in sorted(bad.items()):
        raise RowError(row, reason, "vectors")
    return vectors


def check_dtype(dtype: np.dtype[Any], codec: Codec, where: str) -> None:
    """Refuses an array whose values cannot be those of a codec; of wider integers the values decide."""
    if not codec.quantized:
        fits, wanted = dtype.kind == "f" and dtype.itemsize in (2, 4, 8), "float16, float32 or float64"
    elif codec.bits == "unpacked":
        fits, wanted = dtype.kind in "biu", "integers or booleans"
    else:
        fits, wanted = dtype.kind in "iu" and (dtype.itemsize > 1 or dtype.name == codec.dtype), codec.dtype
    if not fits:
        hint = "; what is quantized already is read by its encoding (--encoding)" if codec == FLOAT else ""
        encoding = "" if codec == FLOAT else f" for encoding {codec.name!r}"
        raise InputError(f"{where} holds {dtype.name}; expected {wanted}{encoding}{hint}")


def decode_rows(stored: NDArray[Any], codec: Codec) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The vectors of stored rows whose dtype and length were checked, and what is wrong with which rows."""
    bad: dict[int, str] = {}
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
    """The bytes that base64 text stands for. Raises ValueError for other text."""
    return base64.b64decode(text, validate=True)


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
    """The bits of packed rows as 0 and 1; a bit after the last dimension tells of another order or number of them."""
    packed = (stored.astype(np.int16) + codec.offset).astype(np.uint8) if codec.offset else stored.astype(np.uint8)
    bits = np.unpackbits(packed, axis=1, bitorder=codec.bit_order)
    dimensions = codec.dimensions or bits.shape[1]
    for row in np.flatnonzero(bits[:, dimensions:].any(axis=1)).tolist():
        bad.setdefault(row, f"has a bit set after its {dimensions} dimensions, in encoding {codec.name!r}")
    return bits[:, :dimensions]


def _find_ternary(stored: NDArray[Any], codec: Codec, bad: dict[int, str]) -> None:
    """Signs are -1 and +1 or 0 and 1: a row with -1 and 0 has three values, unless its zeros are ones by the rule."""
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
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is found where vectors are checked
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
