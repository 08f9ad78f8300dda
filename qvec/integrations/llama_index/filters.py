"""LlamaIndex's metadata filters in the language of `qvec.filters`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from qvec.errors import InputError

Filter = dict[str, Any]


def compiled(filters: MetadataFilters | None) -> Filter:
    """The same filter for a collection; empty for none. Dots in a key lead into nested metadata.

    `!=` and `nin` also hold for rows without the field, `is_empty` for null and for an empty list; a field that holds a
    list passes `==` and `in` by any of its elements. Letter case that `text_match_insensitive` ignores is that of A-Z.
    Raises InputError for a value that its operator cannot have.
    """
    if filters is None or not filters.filters:
        return {}
    parts = [compiled(part) if isinstance(part, MetadataFilters) else _condition(part) for part in filters.filters]
    if filters.condition is FilterCondition.OR:
        return {"$or": parts}
    if filters.condition is FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return both(*parts)


def both(*filters: Filter) -> Filter:
    """What passes all filters, of which some may be empty."""
    parts = [filter for filter in filters if filter]
    return parts[0] if len(parts) == 1 else {"$and": parts} if parts else {}


def _condition(filter: MetadataFilter) -> Filter:
    if filter.operator is FilterOperator.IS_EMPTY:
        return {filter.key: {"$exists": False}}
    if filter.operator in _LISTS and not isinstance(filter.value, list):
        raise InputError(
            f"field {filter.key!r}: {filter.operator.value}: {filter.value!r} found, a list of scalars wanted"
        )
    operator, convert = _OPERATORS[filter.operator]
    return {filter.key: {operator: convert(filter)}}


def _value(filter: MetadataFilter) -> Any:
    return filter.value


def _anywhere(filter: MetadataFilter) -> str:
    """The pattern of what contains the text."""
    if not isinstance(filter.value, str):
        raise InputError(f"field {filter.key!r}: {filter.operator.value}: {filter.value!r} found, a text wanted")
    return "%" + re.sub(r"([%_\\])", r"\\\1", filter.value) + "%"


_LISTS = {FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL}
_OPERATORS: dict[FilterOperator, tuple[str, Callable[[MetadataFilter], Any]]] = {
    FilterOperator.EQ: ("$eq", _value),
    FilterOperator.NE: ("$ne", _value),
    FilterOperator.GT: ("$gt", _value),
    FilterOperator.GTE: ("$gte", _value),
    FilterOperator.LT: ("$lt", _value),
    FilterOperator.LTE: ("$lte", _value),
    FilterOperator.IN: ("$in", _value),
    FilterOperator.NIN: ("$nin", _value),
    FilterOperator.ANY: ("$in", _value),
    FilterOperator.ALL: ("$contains", _value),
    FilterOperator.CONTAINS: ("$contains", _value),
    FilterOperator.TEXT_MATCH: ("$like", _anywhere),
    FilterOperator.TEXT_MATCH_INSENSITIVE: ("$ilike", _anywhere),
}


def of_documents(ids: Sequence[str] | None) -> Filter:
    """The nodes of these source documents; empty for None."""
    return {} if ids is None else {"ref_doc_id": {"$in": list(ids)}}
