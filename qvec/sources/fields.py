"""Ids, texts and metadata: Arrow columns and JSON values, with a reason for every row that a database cannot store."""

from __future__ import annotations

import base64
import datetime
import json
import math
import re
import uuid
from collections.abc import Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qvec.sources.base import IdType
from qvec.sources.columns import is_binary, plain

Faults = dict[int, str]
"""The first fault found in each invalid row, by position in the batch."""

MAX_BIGINT = 2**63 - 1
NO_ID = "has no id"
NUL_IN_TEXT = "holds the character \\u0000, which a database text cannot hold"
NUL_IN_METADATA = "metadata holds the character \\u0000, which jsonb cannot hold"

_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def read_ids(column: Any, id_type: IdType, faults: Faults) -> Any:
    """Return an Arrow column of ids as int64 or large_string, null at the rows added to `faults`."""
    array = plain(column)
    ids = _integers(array, faults) if id_type == "bigint" else _texts(array, faults)
    if id_type == "text":
        find_nul(ids, "id", faults)
    for row in _true_rows(ids.is_null()):
        faults.setdefault(row, NO_ID)
    return ids


def find_nul(texts: Any, what: str, faults: Faults) -> None:
    """Add the rows whose text holds the character \\u0000 to `faults`."""
    for row in _true_rows(pc.match_substring(texts, "\0")):
        faults.setdefault(row, f"{what} {NUL_IN_TEXT}")


def _integers(array: Any, faults: Faults) -> Any:
    if not pa.types.is_uint64(array.type):
        return array.cast(pa.int64())
    too_large = pc.greater(array, pa.scalar(MAX_BIGINT, pa.uint64()))
    for row in _true_rows(too_large):
        faults.setdefault(row, f"id {array[row]} is above {MAX_BIGINT}, the largest bigint")
    return pc.if_else(too_large, None, array).cast(pa.int64())


def _texts(array: Any, faults: Faults) -> Any:
    if not is_binary(array.type) and not pa.types.is_fixed_size_binary(array.type):
        return array.cast(pa.large_string())
    if pa.types.is_fixed_size_binary(array.type) and array.type.byte_width == 16:
        texts = [None if value is None else str(uuid.UUID(bytes=value)) for value in array.to_pylist()]
    else:
        texts = [_decoded(row, value, faults) for row, value in enumerate(array.to_pylist())]
    return pa.array(texts, pa.large_string())


def _decoded(row: int, value: bytes | None, faults: Faults) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        faults.setdefault(row, f"id {value!r} is not UTF-8 text")
        return None


def _true_rows(mask: Any) -> list[int]:
    rows: list[int] = pc.indices_nonzero(mask).to_pylist()
    return rows


def read_metadata(columns: Sequence[tuple[str, Any]], faults: Faults) -> Any:
    """Return JSON objects (n,) large_string of the named Arrow columns; rows jsonb cannot hold go to `faults`."""
    if not columns:
        return None
    parts: list[Any] = []
    for name, column in columns:
        key = f"{'{' if not parts else ','}{encode_basestring(name)}:"
        parts += [pa.scalar(key, pa.large_string()), _json_values(column)]
    objects = pc.binary_join_element_wise(*parts, pa.scalar("}", pa.large_string()), pa.scalar("", pa.large_string()))
    for row in _true_rows(pc.match_substring(objects, "\\u0000")):
        if has_nul(objects[row].as_py()):
            faults.setdefault(row, NUL_IN_METADATA)
    return objects


def _json_values(column: Any) -> Any:
    """Return each value of a column as JSON text."""
    array, types = plain(column), pa.types
    if types.is_integer(array.type) or types.is_boolean(array.type):
        texts = array.cast(pa.large_string())
    elif types.is_floating(array.type):
        floats = _widened(array) if types.is_float16(array.type) else array
        texts = pc.if_else(pc.is_finite(floats), floats.cast(pa.large_string()), None)
    elif types.is_string(array.type) or types.is_large_string(array.type):
        texts = pa.array([None if v is None else encode_basestring(v) for v in array.to_pylist()], pa.large_string())
    else:
        texts = pa.array([to_json(value) for value in column.to_pylist()], pa.large_string())
    return pc.fill_null(texts, pa.scalar("null", pa.large_string()))


def _widened(halves: Any) -> Any:
    """Return float16 as float32 by way of numpy: not every Arrow version casts it. Nulls become NaN."""
    return pa.array(halves.to_numpy(zero_copy_only=False).astype(np.float32))


def to_json(value: Any) -> str:
    """Return compact JSON of any value a column can hold; NaN and infinities, which JSON lacks, become null."""
    try:
        return _ENCODER.encode(value)
    except (TypeError, ValueError):
        return _ENCODER.encode(_json_type(value))


def has_nul(text: str) -> bool:
    """Tell whether JSON text holds the escape of the character \\u0000 (not an escaped backslash before u0000)."""
    return "\\u0000" in text and _NUL_ESCAPE.search(text) is not None


def _json_type(value: Any) -> Any:
    """Return the value in JSON's own types: dates as ISO text, decimals as text, bytes as base64 text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_type(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_type(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str | int) or value is None:
        return value
    return str(value)
