"""Hits grouped by a field of their metadata: the best passages of the best documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qvec.client.arguments import check_count
from qvec.errors import InputError
from qvec.filters import parse
from qvec.results import Hit


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share a value of the field, best first; `score` is that of the best."""

    value: Any
    hits: list[Hit]

    @property
    def score(self) -> float:
        return self.hits[0].score


def check_groups(group_by: str, k: int, group_size: int) -> None:
    """Raise InputError unless the counts are valid and `group_by` is a field that a filter can name."""
    check_count("k", k)
    check_count("group_size", group_size)
    if not isinstance(group_by, str):
        raise InputError(f"group_by is {group_by!r}, expected the name of a metadata field")
    parse({group_by: {"$exists": True}})


def group(hits: list[Hit], group_by: str) -> list[Group]:
    """Return hits grouped by the value of a field, in the order of each group's first hit; dots name nested fields."""
    groups: dict[Any, Group] = {}
    for hit in hits:
        value = field_of(hit.metadata, group_by)
        if value not in (None, []):  # filters do not count these as values either
            groups.setdefault(key_of(value), Group(value, [])).hits.append(hit)
    return list(groups.values())


class GroupsFound:
    """Groups by key, and the keys of those that are complete."""

    def __init__(self, hits: list[Hit], group_by: str, limit: int) -> None:
        self.groups: dict[Any, Group] = {}
        self.complete: set[Any] = set()
        self.add(hits, group_by, limit)

    @property
    def values(self) -> list[Any]:
        return [found.value for found in self.groups.values()]

    def add(self, hits: list[Hit], group_by: str, limit: int) -> bool:
        """Add the groups of a search for `limit` hits; return False where they are not all new ones."""
        new = {key_of(found.value): found for found in group(hits, group_by)}
        if new.keys() & self.groups.keys() or (hits and not new):
            return False
        self.groups |= new
        if len(hits) < limit:
            self.complete |= new.keys()
        return True


def condition_of(value: Any) -> dict[str, Any]:
    """Return a condition that holds for a field with this value. Filters know scalars, and lists by their scalars."""
    if not isinstance(value, (list, Mapping)):
        return {"$eq": value}
    scalars = [one for one in value if isinstance(one, (str, int, float))] if isinstance(value, list) else []
    return {"$contains": scalars} if scalars else {"$exists": True}


def key_of(value: Any) -> Any:
    """Return a key that is equal where filters take values as equal: 1 is 1.0 and not true."""
    return (isinstance(value, bool), value) if isinstance(value, (str, int, float)) else repr(value)


def field_of(metadata: Any, path: str) -> Any:
    """Return the value of a nested field; None where it is missing."""
    for name in path.split("."):
        metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
    return metadata
