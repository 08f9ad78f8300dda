"""Ids of rows as Qdrant's points: unsigned integers and UUIDs as they are, any other by a UUID made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.qdrant.layout import IdType

PointId = int | str
_INTEGERS = range(-(2**63), 2**63)
"""Those of Postgres and of Arrow, so that a collection can be copied; a point's own go up to 2^64 - 1."""
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMESPACE = UUID("6a3ef36c-7a1f-5c4b-9d0e-1b0f2a6f5d21")
"""Of the UUIDs that stand for other ids: uuid5 of this and the id's text."""


def point_id(id: int | str) -> PointId:
    """The point's id: the same one for the same row id, wherever and whenever it is asked for."""
    if isinstance(id, int):
        return id if id >= 0 else str(uuid5(_NAMESPACE, str(id)))
    return id if _UUID.fullmatch(id) else str(uuid5(_NAMESPACE, id))


def foreign_point_id(id: int | str) -> PointId | None:
    """The id of a point that qvec did not make; None for what is no point's id."""
    if isinstance(id, int):
        return id if 0 <= id < 2**64 else None
    try:
        return str(UUID(id))
    except (ValueError, TypeError, AttributeError):
        return None


def plain(id: Any) -> PointId:
    """A point's id as an engine gives it: the embedded one gives UUIDs."""
    return id if isinstance(id, int) else str(id)


def is_kept(id: int | str) -> bool:
    """Whether the point's id is the row's own, so that the payload need not hold it."""
    return point_id(id) == id


def row_id(point: Any, original: Any) -> int | str:
    """The row's id, from the point's and from what the payload holds of it."""
    if isinstance(original, (int, str)):
        return original
    return point if isinstance(point, int) else str(point)


def row_ids(ids: Sequence[int | str] | NDArray[Any] | pa.Array, id_type: IdType) -> list[int | str]:
    """Row ids as Python values. Raises InputError when they are not of the collection's type."""
    values: Iterable[Any] = ids.to_pylist() if isinstance(ids, pa.Array) else ids
    return [_checked(value.item() if isinstance(value, np.generic) else value, id_type) for value in values]


def _checked(id: Any, id_type: IdType) -> int | str:
    if id is None:
        raise InputError("an id is missing (null)")
    wanted = int if id_type == "bigint" else str
    if not isinstance(id, wanted) or isinstance(id, bool):
        raise InputError(
            f"id {id!r} is {type(id).__name__}, but this collection's ids are {id_type}, as id_type was when it was "
            "created"
        )
    if isinstance(id, int) and id not in _INTEGERS:
        raise InputError(f"id {id} is beyond bigint")
    if isinstance(id, str) and not _is_unicode(id):
        raise InputError(f"id {id!r} holds half of a surrogate pair, which is no Unicode text")
    return id


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
