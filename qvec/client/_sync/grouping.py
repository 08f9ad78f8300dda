# Generated from qvec/client/_async/grouping.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""Searching for groups: search until the hits belong to enough groups, then fill each group."""

from __future__ import annotations

from collections.abc import Callable

from qvec.client.groups import Group, GroupsFound, condition_of, field_of, key_of
from qvec.errors import InputError
from qvec.filters import parse
from qvec.results import Hit
from qvec.store.requests import RowFilter

Search = Callable[[int, RowFilter], list[Hit]]
"""Search for a number of hits among the rows that pass a filter."""

_WIDEN = 4
"""Factor by which the limit grows while the hits belong to too few groups."""


def search_groups(search: Search, filter: RowFilter, group_by: str, k: int, group_size: int) -> list[Group]:
    """Return the k groups with the best rows, each with its `group_size` best rows, best group first.

    Search until there are k groups or no more hits: for hits outside the groups found or, where no filter separates
    them, for more hits. Where a field holds sometimes scalars and sometimes lists, lists that hold a scalar of a group
    found before are left out, since filters count them as rows of that group.
    """
    found = _find_groups(search, filter, group_by, k, 2 * k * group_size)
    best = sorted(found.groups.items(), key=lambda pair: -pair[1].score)[:k]
    filled = []
    for key, group in best:
        hits = group.hits
        if len(hits) < group_size and key not in found.complete:
            hits = _search_group(search, filter, group_by, group.value, group_size)
        filled.append(Group(group.value, hits[:group_size]))
    return filled


def _find_groups(search: Search, filter: RowFilter, group_by: str, k: int, limit: int) -> GroupsFound:
    hits = search(limit, filter)
    found = GroupsFound(hits, group_by, limit)
    while len(found.groups) < k and len(hits) == limit:
        try:
            others = parse({group_by: {"$exists": True, "$nin": found.values}})
            hits = search(limit, filter.narrowed(others))
            separated = found.add(hits, group_by, limit)
        except InputError:  # no filter of this database tests such a value, for example a list
            separated = False
        if not separated:
            limit *= _WIDEN
            hits = search(limit, filter)
            found = GroupsFound(hits, group_by, limit)
    return found


def _search_group(search: Search, filter: RowFilter, group_by: str, value: object, count: int) -> list[Hit]:
    """Return the best rows of one group. The filter lets other rows pass too: lists that hold the value, or every row
    where the database cannot test it."""
    limit, narrowed = count, filter.narrowed(parse({group_by: condition_of(value)}))
    while True:
        try:
            hits = search(limit, narrowed)
        except InputError:
            if narrowed is filter:
                raise
            narrowed = filter
            continue
        rows = [hit for hit in hits if key_of(field_of(hit.metadata, group_by)) == key_of(value)]
        if len(rows) >= count or len(hits) < limit:
            return rows
        limit *= _WIDEN
