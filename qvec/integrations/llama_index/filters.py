"""LlamaIndex's metadata filters in the syntax of `qvec.filters`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from qvec.errors import InputError


def convert_filters(filters: MetadataFilters | None) -> dict[str, Any]:
    """Return the filters in the syntax of `qvec.filters`, empty for None. Dots in a key lead into nested metadata.

    `!=` and `nin` also match rows without the field, `is_empty` matches null and the empty list, and `==` and `in`
    match a list if any element does. `text_match_insensitive` ignores the case of A-Z only. Raise InputError for a
    value that its operator does not take.
    """
    if filters is None or not filters.filters:
        return {}
    parts = [
        convert_filters(part) if isinstance(part, MetadataFilters) else _condition(part) for part in filters.filters
    ]
    if filters.condition is FilterCondition.OR:
        return {"$or": parts}
    if filters.condition is FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return all_of(*parts)


def all_of(*filters: dict[str, Any]) -> dict[str, Any]:
    """Combine filters by AND, omitting empty ones."""
    parts = [filter for filter in filters if filter]
    return parts[0] if len(parts) == 1 else {"$and": parts} if parts else {}


def _condition(filter: MetadataFilter) -> dict[str, Any]:
    if filter.operator is FilterOperator.IS_EMPTY:
        return {filter.key: {"$exists": False}}
    operator, operand = _OPERATORS[filter.operator]
    return {filter.key: {operator: operand(filter)}}


def _value(filter: MetadataFilter) -> Any:
    return filter.value


def _list(filter: MetadataFilter) -> Any:
    return _checked(filter, list, "a list of scalars")


def _substring_pattern(filter: MetadataFilter) -> str:
    return "%" + re.sub(r"([%_\\])", r"\\\1", _checked(filter, str, "a text")) + "%"


def _checked(filter: MetadataFilter, wanted: type, name: str) -> Any:
    if not isinstance(filter.value, wanted):
        raise InputError(f"field {filter.key!r}: {filter.operator.value}: {filter.value!r} found, {name} wanted")
    return filter.value


_OPERATORS: dict[FilterOperator, tuple[str, Callable[[MetadataFilter], Any]]] = {
    FilterOperator.EQ: ("$eq", _value),
    FilterOperator.NE: ("$ne", _value),
    FilterOperator.GT: ("$gt", _value),
    FilterOperator.GTE: ("$gte", _value),
    FilterOperator.LT: ("$lt", _value),
    FilterOperator.LTE: ("$lte", _value),
    FilterOperator.IN: ("$in", _list),
    FilterOperator.NIN: ("$nin", _list),
    FilterOperator.ANY: ("$in", _list),
    FilterOperator.ALL: ("$contains", _list),
    FilterOperator.CONTAINS: ("$contains", _value),
    FilterOperator.TEXT_MATCH: ("$like", _substring_pattern),
    FilterOperator.TEXT_MATCH_INSENSITIVE: ("$ilike", _substring_pattern),
}
