"""Id columns as int64 or text without nulls."""

from __future__ import annotations

import uuid
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from qvec.errors import InputError
from qvec.sources.base import IdType
from qvec.sources.vectors import Faults, plain, plain_type

NO_ID = "has no id"
NUL = "holds the character \\u0000, which a database text cannot hold"
MAX_BIGINT = 2**63 - 1


def id_type_of(declared: Any, column: str, source: str) -> IdType:
    """How ids of an Arrow type are stored. Raises InputError for lists and structs."""
    kind = plain_type(declared)
    if pa.types.is_nested(kind):
        raise InputError(f"{source}: id column {column!r} is {declared}; expected integers or text")
    return "bigint" if pa.types.is_integer(kind) else "text"


def read_ids(column: Any, id_type: IdType, faults: Faults) -> Any:
    """The ids as int64 or large_string, null at the rows that go to `faults`."""
    ids = _integers(plain(column), faults) if id_type == "bigint" else _texts(column, faults)
    for row in _true_rows(ids.is_null()):
        faults.setdefault(row, NO_ID)
    return ids


def find_nul(texts: Any, what: str, faults: Faults) -> None:
    """Send the rows whose text holds the character \\u0000 to `faults`."""
    for row in _true_rows(pc.match_substring(texts, "\0")):
        faults.setdefault(row, f"{what} {NUL}")


def _integers(array: Any, faults: Faults) -> Any:
    if not pa.types.is_uint64(array.type):
        return array.cast(pa.int64())
    too_large = pc.greater(array, pa.scalar(MAX_BIGINT, pa.uint64()))
    for row in _true_rows(too_large):
        faults.setdefault(row, f"id {array[row]} is above {MAX_BIGINT}, the largest bigint")
    return pc.if_else(too_large, None, array).cast(pa.int64())


def _texts(column: Any, faults: Faults) -> Any:
    texts = _as_text(column, faults)
    find_nul(texts, "id", faults)
    return texts


def _as_text(column: Any, faults: Faults) -> Any:
    array, types = plain(column), pa.types
    if types.is_fixed_size_binary(array.type) and array.type.byte_width == 16:
        uuids = [None if value is None else str(uuid.UUID(bytes=value)) for value in array.to_pylist()]
        return pa.array(uuids, pa.large_string())
    if types.is_binary(array.type) or types.is_large_binary(array.type) or types.is_fixed_size_binary(array.type):
        return pa.array(
            [_decoded(row, value, faults) for row, value in enumerate(array.to_pylist())], pa.large_string()
        )
    return array.cast(pa.large_string())


def _decoded(row: int, value: bytes | None, faults: Faults) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        faults.setdefault(row, f"id {value!r} is not UTF-8 text")
        return None


def _true_rows(mask: Any) -> list[int]:
    rows: list[int] = pc.indices_nonzero(mask).to_pylist()
    return rows
