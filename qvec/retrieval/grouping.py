"""Hits grouped by a field of their metadata: the best passages of the best documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.filters import CombinedFilter, parse
from qvec.hits import Hit
from qvec.retrieval.steps import Search, Steps
from qvec.stores import check_count

_WIDER = 4
"""How many times more hits are asked for when they were of too few groups."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that share a value of the field, best first; `score` is that of the best."""

    value: Any
    hits: list[Hit]

    @property
    def score(self) -> float:
        return self.hits[0].score


def grouped(
    query: NDArray[np.float32], k: int, by: str, per_group: int, options: Mapping[str, Any]
) -> Steps[list[Group]]:
    """The k groups with the best rows, each with its `per_group` best, best group first.

    Hits are asked for until they are of k groups or there are no more: hits of other groups than those found or, where
    no filter tells them apart, more hits. Rows without the field are of no group. Where a field holds now scalars and
    now lists, lists that hold a scalar of a group found before are passed over, as filters take them for its rows.
    """
    _check(k, by, per_group)
    limit = 2 * k * per_group
    hits = yield Search(query, limit, options)
    found = _Found(hits, by, limit)
    while len(found.groups) < k and len(hits) == limit:
        try:
            hits = yield Search(query, limit, _within(options, {by: {"$exists": True, "$nin": found.values}}))
            is_told_apart = found.add(hits, by, limit)
        except InputError:  # a value that no filter of this database is for, such as a list
            is_told_apart = False
        if not is_told_apart:
            limit *= _WIDER
            hits = yield Search(query, limit, options)
            found = _Found(hits, by, limit)
    best = sorted(found.groups.items(), key=lambda pair: -pair[1].score)[:k]
    filled = []
    for key, one in best:
        rows = one.hits
        if len(rows) < per_group and key not in found.whole:
            rows = yield from _rows_of(query, one.value, by, per_group, options)
        filled.append(Group(one.value, rows[:per_group]))
    return filled


def _check(k: int, by: str, per_group: int) -> None:
    check_count("k", k)
    check_count("per_group", per_group)
    if not isinstance(by, str):
        raise InputError(f"by is {by!r}, expected the name of a metadata field")
    parse({by: {"$exists": True}})  # a name that no filter takes is of no field


class _Found:
    """Groups by what tells them apart, and which of them have all their rows."""

    def __init__(self, hits: list[Hit], by: str, limit: int) -> None:
        self.groups: dict[Any, Group] = {}
        self.whole: set[Any] = set()
        self.add(hits, by, limit)

    @property
    def values(self) -> list[Any]:
        return [one.value for one in self.groups.values()]

    def add(self, hits: list[Hit], by: str, limit: int) -> bool:
        """Takes the groups of a search for `limit` hits; returns False where they are not others than those here."""
        new = {_key(one.value): one for one in group(hits, by)}
        if new.keys() & self.groups.keys() or (hits and not new):
            return False
        self.groups |= new
        if len(hits) < limit:
            self.whole |= new.keys()
        return True


def _rows_of(
    query: NDArray[np.float32], value: Any, by: str, count: int, options: Mapping[str, Any]
) -> Steps[list[Hit]]:
    """The best rows of one group, so many or all. What keeps to them lets others pass: lists that hold the value, or
    every row where the database has no filter for it."""
    limit = count
    kept: Mapping[str, Any] = _within(options, {by: _passing(value)})
    while True:
        try:
            hits = yield Search(query, limit, kept)
        except InputError:
            if kept is options:
                raise
            kept = options
            continue
        rows = [hit for hit in hits if _key(_field(hit.metadata, by)) == _key(value)]
        if len(rows) >= count or len(hits) < limit:
            return rows
        limit *= _WIDER


def _passing(value: Any) -> dict[str, Any]:
    """A condition of a field that holds this value. Filters know scalars, and lists by the scalars that they hold."""
    if not isinstance(value, (list, Mapping)):
        return {"$eq": value}
    scalars = [one for one in value if isinstance(one, (str, int, float))] if isinstance(value, list) else []
    return {"$contains": scalars} if scalars else {"$exists": True}


def group(hits: list[Hit], by: str) -> list[Group]:
    """Hits by the value of a field, the groups in the order of their first hit; `by` names nested fields by dots."""
    groups: dict[Any, Group] = {}
    for hit in hits:
        value = _field(hit.metadata, by)
        if value not in (None, []):  # which are no value for filters either
            groups.setdefault(_key(value), Group(value, [])).hits.append(hit)
    return list(groups.values())


def _key(value: Any) -> Any:
    """What tells groups apart as filters do: 1 is 1.0 and not true."""
    return (isinstance(value, bool), value) if isinstance(value, (str, int, float)) else repr(value)


def _field(metadata: Any, path: str) -> Any:
    for name in path.split("."):
        metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
    return metadata


def _within(options: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Options that keep to a filter, whatever filter there is already."""
    given = options.get("filter")
    if not given:
        return {**options, "filter": own}
    return {**options, "filter": {"$and": [given, own]} if isinstance(given, Mapping) else CombinedFilter(given, own)}
