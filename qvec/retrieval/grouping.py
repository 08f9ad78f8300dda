"""Hits grouped by a field of their metadata: the best passages of the best documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.hits import Hit
from qvec.retrieval.steps import Search, Steps

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

    Hits are asked for until they are of k groups or there are no more. Rows without the field are of no group.
    """
    if k < 1 or per_group < 1:
        raise InputError(f"k is {k} and per_group {per_group}, expected at least 1")
    limit = 2 * k * per_group
    while True:
        hits = yield Search(query, limit, options)
        groups = group(hits, by)[:k]
        if len(groups) == k or len(hits) < limit:
            break
        limit *= _WIDER
    complete = len(hits) < limit
    filled = []
    for found in groups:
        if len(found.hits) < per_group and not complete:
            found = Group(found.value, (yield Search(query, per_group, _within(options, by, found.value))))
        filled.append(Group(found.value, found.hits[:per_group]))
    return filled


def group(hits: list[Hit], by: str) -> list[Group]:
    """Hits by the value of a field, the groups in the order of their first hit; `by` names nested fields by dots."""
    groups: dict[str, Group] = {}
    for hit in hits:
        value = _field(hit.metadata, by)
        if value is not None:
            groups.setdefault(repr(value), Group(value, [])).hits.append(hit)
    return list(groups.values())


def _field(metadata: Any, path: str) -> Any:
    for name in path.split("."):
        metadata = metadata.get(name) if isinstance(metadata, Mapping) else None
    return metadata


def _within(options: Mapping[str, Any], by: str, value: Any) -> dict[str, Any]:
    """Options that keep to one group, whatever filter there is already."""
    own, given = {by: {"$eq": value}}, options.get("filter")
    if given and not isinstance(given, Mapping):
        raise InputError("per_group above 1 needs a filter in qvec's own language, or none")
    return {**options, "filter": {"$and": [given, own]} if given else own}
