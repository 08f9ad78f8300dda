"""Metadata columns as one JSON object a row."""

from __future__ import annotations

import base64
import datetime
import json
import math
import re
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qvec.sources.vectors import Faults, plain

NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
NUL_FOUND = "metadata holds the character \\u0000, which jsonb cannot hold"


def dump(value: Any) -> str:
    """Compact JSON of any value a column can hold; NaN and infinities, which JSON lacks, become null."""
    try:
        return ENCODER.encode(value)
    except (TypeError, ValueError):
        return ENCODER.encode(_plain(value))


def has_nul(text: str) -> bool:
    """Whether JSON text holds the escape of the character \\u0000 (and not an escaped backslash before u0000)."""
    return "\\u0000" in text and NUL_ESCAPE.search(text) is not None


def read_metadata(columns: Sequence[tuple[str, Any]], faults: Faults) -> Any:
    """JSON objects (n,) large_string of the named columns; rows that jsonb could not hold go to `faults`."""
    if not columns:
        return None
    parts: list[Any] = []
    for name, column in columns:
        key = f"{'{' if not parts else ','}{encode_basestring(name)}:"
        parts += [pa.scalar(key, pa.large_string()), _fragments(column)]
    objects = pc.binary_join_element_wise(*parts, pa.scalar("}", pa.large_string()), pa.scalar("", pa.large_string()))
    for row in pc.indices_nonzero(pc.match_substring(objects, "\\u0000")).to_pylist():
        if has_nul(objects[row].as_py()):
            faults.setdefault(row, NUL_FOUND)
    return objects


def _fragments(column: Any) -> Any:
    """Each value of a column as JSON text."""
    array, types = plain(column), pa.types
    if types.is_integer(array.type) or types.is_boolean(array.type):
        texts = array.cast(pa.large_string())
    elif types.is_floating(array.type):
        texts = _finite(_widened(array) if types.is_float16(array.type) else array)
    elif types.is_string(array.type) or types.is_large_string(array.type):
        texts = pa.array([None if v is None else encode_basestring(v) for v in array.to_pylist()], pa.large_string())
    else:
        texts = pa.array([dump(value) for value in column.to_pylist()], pa.large_string())
    return pc.fill_null(texts, pa.scalar("null", pa.large_string()))


def _finite(floats: Any) -> Any:
    return pc.if_else(pc.is_finite(floats), floats.cast(pa.large_string()), None)


def _widened(halves: Any) -> Any:
    """float16 as float32 by way of numpy: not every Arrow version casts it. Nulls become NaN."""
    return pa.array(halves.to_numpy(zero_copy_only=False).astype(np.float32))


def _plain(value: Any) -> Any:
    """The value in JSON's own types: dates as ISO text, decimals as text, bytes as base64 text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str | int) or value is None:
        return value
    return str(value)
