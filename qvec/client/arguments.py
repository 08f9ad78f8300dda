"""Checks of what users hand to the client; below it, the stores trust their arguments."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence, Sized
from numbers import Real
from typing import Any, TypeGuard, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec.codes import PLANES
from qvec.errors import CollectionError, InputError
from qvec.filters import parse
from qvec.sources import IdType
from qvec.store._async.interface import AsyncStore
from qvec.store._sync.interface import Store
from qvec.store.requests import EVERY_ROW, MAX_ROWS, OnDuplicate, RescoreIn, RowFilter

_BIGINT = range(-(2**63), 2**63)
_MAX_NAME_BYTES = 63


def check_name(name: str) -> None:
    """Raise CollectionError unless `name` can be a collection's name in every database."""
    size = len(name.encode(errors="replace"))
    if not 0 < size <= _MAX_NAME_BYTES:
        raise CollectionError(f"collection name {name!r} has {size} bytes, expected 1 to {_MAX_NAME_BYTES}")
    if not name.isprintable() or "%" in name:
        raise CollectionError(f"collection name {name!r} holds % or a character that cannot be printed")


def check_count(name: str, count: Any, alternative: str = "") -> None:
    """Raise InputError unless `count` is a whole number from 1 to `MAX_ROWS`; the message ends in `alternative`."""
    if not isinstance(count, (int, np.integer)):
        raise InputError(f"{name} is {count!r}, expected a whole number of at least 1{alternative}")
    if count < 1:
        raise InputError(f"{name} is {count}, expected at least 1{alternative}")
    if count > MAX_ROWS:
        raise InputError(f"{name} is {count}, expected at most {MAX_ROWS}{alternative}")


def check_limit(limit: int | None) -> None:
    """Raise InputError unless `limit` is None or a valid count."""
    if limit is not None:
        check_count("limit", limit, ", or None for all")


def check_oversampling(oversampling: float) -> None:
    """Raise InputError unless `oversampling` is finite and at least 1."""
    if not isinstance(oversampling, Real) or not 1 <= oversampling < math.inf:
        raise InputError(f"oversampling is {oversampling!r}, expected at least 1")


def check_seed(seed: Any) -> None:
    """Raise InputError unless `seed` is a whole number from 0 to `MAX_ROWS`, as in SQL."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed <= MAX_ROWS:
        raise InputError(f"seed is {seed!r}, expected a whole number from 0 to {MAX_ROWS}")


def fetch_count(fetch_k: int | None, k: int, default: int) -> int:
    """Return how many rows to choose k from. Raise InputError for fewer than k."""
    check_count("k", k)
    if fetch_k is None:
        return default
    check_count("fetch_k", fetch_k)
    if fetch_k < k:
        raise InputError(f"fetch_k is {fetch_k}, expected at least k, {k}")
    return fetch_k


def check_rescore_in(rescore_in: str | None) -> None:
    """Raise InputError unless `rescore_in` is None or a place where Postgres's codes can be rescored."""
    if rescore_in is not None and rescore_in not in get_args(RescoreIn):
        raise InputError(f"rescore_in is {rescore_in!r}, expected 'client' or 'sql'")


def check_planes(planes: int | None, rescore_in: str | None, collection: str, rescore: str) -> None:
    """Raise InputError unless this process rescores a collection of codes with that many planes."""
    if planes is None:
        return
    held = PLANES.get(rescore)
    if held is None or rescore_in == "sql":
        where = "Postgres rescores" if held else "there are floats"
        raise InputError(f"planes is {planes}, but {where}; expected None")
    if not isinstance(planes, int) or not 1 <= planes <= held:
        raise InputError(f"planes is {planes}, but collection {collection!r} keeps {held}: expected 1 to {held}")


def check_store_options(store: AsyncStore | Store, options: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise InputError for an option that has a value and that this store does not have."""
    for name, value in options.items():
        if value is not None and name not in known:
            raise InputError(f"{name} is {value!r}, but {store.kind} has no such option; leave it out")


def deleted_rows(store: AsyncStore | Store, ids: object, filter: Any) -> RowFilter:
    """Return the filter of rows to delete. Raise InputError where nothing says which rows."""
    rows = row_filter(store, filter)
    if ids is None and not rows:
        raise InputError(
            "delete was given neither ids nor a filter with a condition; to delete all rows, drop the collection"
        )
    return rows


def row_filter(store: AsyncStore | Store, filter: Any) -> RowFilter:
    """Return a filter in the language, or of the database's own kind, as stores take it.

    Raise InputError for a malformed filter, and for one of another kind.
    """
    if filter is None or (isinstance(filter, Mapping) and not filter):
        return EVERY_ROW
    if isinstance(filter, Mapping):
        return RowFilter(parse(filter))
    if store.is_native_filter(filter):
        return RowFilter(native=filter)
    raise InputError(f"filter is a {type(filter).__name__}; expected a dict, or {store.native_filter}")


def check_columns(
    vectors: Sized, ids: Sized, documents: Sized | None, metadata: Sized | None, on_duplicate: str
) -> None:
    """Raise InputError unless the columns of an upsert have one length, and `on_duplicate` is a known rule."""
    if on_duplicate not in get_args(OnDuplicate):
        raise InputError(f"on_duplicate is {on_duplicate!r}, expected one of: {', '.join(get_args(OnDuplicate))}")
    for what, values in (("ids", ids), ("documents", documents), ("metadata", metadata)):
        if values is not None and len(values) != len(vectors):
            raise InputError(f"there are {len(values)} {what} for {len(vectors)} vectors")


def id_list(ids: Sequence[Any] | NDArray[Any], id_type: IdType) -> list[int | str]:
    """Return ids as Python values. Raise InputError unless each is of the collection's type."""
    return [_checked_id(id.item() if isinstance(id, np.generic) else id, id_type) for id in ids]


def id_array(ids: Sequence[Any] | NDArray[Any], id_type: IdType) -> NDArray[np.int64] | pa.Array:
    """Return ids as int64 (n,) or a large_string array. Raise InputError unless each is of the collection's type."""
    if id_type == "bigint":
        if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind == "i":
            return ids.astype(np.int64)  # no id can be invalid
        return np.array(id_list(ids, id_type), np.int64)
    return pa.array(id_list(ids, id_type), pa.large_string())


def _checked_id(id: Any, id_type: IdType) -> int | str:
    if id is None:
        raise InputError("an id is missing (null)")
    wanted = int if id_type == "bigint" else str
    if not isinstance(id, wanted) or isinstance(id, bool):
        raise InputError(
            f"id {id!r} is {type(id).__name__}, but this collection's ids are {id_type}, as id_type was when it was "
            "created"
        )
    if isinstance(id, int) and id not in _BIGINT:
        raise InputError(f"id {id} is beyond bigint")
    if isinstance(id, str) and not _is_unicode(id):
        raise InputError(f"id {id!r} holds half of a surrogate pair, which is not Unicode text")
    return id


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def new_ids(count: int, id_type: IdType) -> list[int | str]:
    """Return random ids for rows without any: UUIDs, or integers of 63 bits."""
    drawn = [uuid.uuid4() for _ in range(count)]
    return [id.int >> 65 for id in drawn] if id_type == "bigint" else [str(id) for id in drawn]


def are_texts(query: Any) -> TypeGuard[Sequence[str]]:
    """Return whether a query consists of several questions, and not of vectors."""
    return isinstance(query, Sequence) and len(query) > 0 and all(isinstance(one, str) for one in query)


def text_list(texts: Any) -> list[str]:
    """Return texts as a list. Raise InputError for a single string, and for an element that is not a string."""
    if isinstance(texts, str):
        raise InputError("texts is one string; wanted a sequence of them: put it in a list")
    found = list(texts)
    for position, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"text {position} is {type(text).__name__}, wanted a string")
    return found
