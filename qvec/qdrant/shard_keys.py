"""Shard keys of a collection that a metadata field spreads over shards: of rows, and of filters.

Each value of the field, such as each tenant, has shards of its own, so that a filter on the value asks these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from qdrant_client import models

from qvec.errors import InputError, RowError
from qvec.filters import And, Filter, OneOf, Or
from qvec.filters.nodes import Field
from qvec.metadata_index import MetadataIndex
from qvec.qdrant.filters import payload_key
from qvec.qdrant.points import METADATA, Payload, PointId, Points

_INTEGERS = range(2**63)

ShardKey = str | int
"""A shard key of Qdrant: a string or an integer from 0 on."""


def check_field(field: str) -> None:
    """Raise InputError unless a field of metadata, with dots between nested names, can hold shard keys."""
    if not isinstance(field, str):
        raise InputError(f"shard_key_field is {field!r}, expected the name of a metadata field")
    payload_key(MetadataIndex(field).keys)


@cache
def path_of(field: str) -> Field:
    """Return the keys of nested objects down to a field."""
    return MetadataIndex(field).keys


def payload_path(field: str) -> str:
    """Return the field's path in the payload."""
    return payload_key(path_of(field))


def key_of(payload: Payload | None, field: str) -> ShardKey | None:
    """Return the shard key in a row's payload; None where it holds no valid one."""
    value = _value(payload, field)
    is_key = (isinstance(value, str) and value) or (type(value) is int and value in _INTEGERS)
    return value if is_key else None


def check_rows(rows: Points, field: str) -> None:
    """Raise RowError for the first row whose metadata does not hold a shard key."""
    for row, payload in enumerate(rows.payloads):
        if key_of(payload, field) is None:
            found = _value(payload, field)
            raise RowError(
                row,
                f"metadata field {field!r}, which names the row's shard, is {found!r}, expected a string that is not "
                "empty or an integer from 0 on",
            )


def rows_by_key(rows: Points, field: str) -> dict[ShardKey, Points]:
    """Return rows that `check_rows` accepts, by their shard key."""
    positions: dict[ShardKey, list[int]] = {}
    for position, payload in enumerate(rows.payloads):
        key = key_of(payload, field)
        assert key is not None
        positions.setdefault(key, []).append(position)
    return {key: rows if len(positions) == 1 else rows.take(found) for key, found in positions.items()}


def ids_by_key(points: Iterable[tuple[PointId, Payload | None]], field: str) -> dict[ShardKey, list[PointId]]:
    """Return the ids of stored points by their shard key."""
    found: dict[ShardKey, list[PointId]] = {}
    for id, payload in points:
        key = key_of(payload, field)
        if key is not None:
            found.setdefault(key, []).append(id)
    return found


def keys_of_filter(tree: Filter | None, field: str) -> tuple[ShardKey, ...] | None:
    """Return the shard keys that rows which pass a filter can have; None where they may have any."""
    found = None if tree is None else _keys(tree, path_of(field))
    return None if found is None else tuple(sorted(found, key=lambda key: (isinstance(key, str), key)))


def _keys(node: Filter, path: Field) -> frozenset[ShardKey] | None:
    if isinstance(node, OneOf) and node.field == path:
        return _keys_of_values(node)
    if isinstance(node, And):
        limits = [keys for keys in (_keys(part, path) for part in node.parts) if keys is not None]
        return frozenset.intersection(*limits) if limits else None
    if isinstance(node, Or):
        limits = [_keys(part, path) for part in node.parts]  # type: ignore[misc]
        return None if not limits or None in limits else frozenset.union(*limits)
    return None


def _keys_of_values(node: OneOf) -> frozenset[ShardKey] | None:
    """Return the keys that equal a value, of numbers the whole ones, since 1 is 1.0; None where strings may be dates.

    No key equals true, false or null.
    """
    if node.kind == "instant":
        return None
    if node.kind == "number":
        return frozenset(int(value) for value in node.values if _is_whole(value) and int(value) in _INTEGERS)  # type: ignore[arg-type]
    return frozenset(value for value in node.values if isinstance(value, str) and value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _value(payload: Payload | None, field: str) -> Any:
    value: Any = (payload or {}).get(METADATA)
    for name in path_of(field):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def held_keys(info: models.CollectionClusterInfo) -> list[ShardKey | None]:
    """Return the shard key of each shard, also of those on other nodes."""
    return [shard.shard_key for shard in info.local_shards] + [shard.shard_key for shard in info.remote_shards]
