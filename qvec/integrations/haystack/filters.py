"""Haystack's filters in the language of `qvec.filters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from haystack.errors import FilterError

from qvec.errors import InputError
from qvec.filters import dates, parse

Filter = dict[str, Any]


def compiled(filters: Mapping[str, Any] | None) -> Filter:
    """The same filter for a collection; empty for none.

    `meta.` before a field may be left out, dots lead into nested metadata. As in Haystack a missing field is None, None
    has no order, and strings have one only where they are dates in ISO 8601. Raises FilterError for what is no filter.
    """
    if not filters:
        return {}
    found = _compiled(filters)
    try:
        parse(found)
    except InputError as error:
        raise FilterError(str(error)) from error
    return found


def _compiled(filters: Any) -> Filter:
    if not isinstance(filters, Mapping):
        raise FilterError(f"{filters!r} found, a filter wanted: a dict with a field or with conditions")
    return _comparison(filters) if "field" in filters else _logic(filters)


def _logic(filters: Mapping[str, Any]) -> Filter:
    operator, conditions = _required(filters, "operator"), _required(filters, "conditions")
    if operator not in _CONDITIONS or not isinstance(conditions, list):
        raise FilterError(f"operator {operator!r} of conditions found, {', '.join(_CONDITIONS)} of a list wanted")
    return _CONDITIONS[operator]([_compiled(condition) for condition in conditions])


def _comparison(filters: Mapping[str, Any]) -> Filter:
    operator, value = _required(filters, "operator"), _required(filters, "value")
    if operator not in _COMPARISONS:
        raise FilterError(f"operator {operator!r} found, one of these wanted: {', '.join(_COMPARISONS)}")
    return _COMPARISONS[operator](_field(filters["field"]), value)


def _required(filters: Mapping[str, Any], key: str) -> Any:
    if key not in filters:
        raise FilterError(f"the filter {dict(filters)!r} has no {key!r}")
    return filters[key]


def _field(name: Any) -> str:
    if name in _DOCUMENT_FIELDS:
        raise FilterError(f"field {name!r} is not metadata; filters take meta.NAME")
    return name.removeprefix("meta.") if isinstance(name, str) else name


def _equals(field: str, value: Any) -> Filter:
    return {field: {"$exists": False}} if value is None else {field: {"$eq": value}}


def _one_of(field: str, values: Any) -> Filter:
    if not isinstance(values, list):
        raise FilterError(f"field {field!r}: {values!r} found, a list wanted for 'in' and 'not in'")
    listed = {field: {"$in": [value for value in values if value is not None]}}
    return {"$or": [listed, _equals(field, None)]} if None in values else listed


def _ordered(operator: str) -> Callable[[str, Any], Filter]:
    def ordered(field: str, value: Any) -> Filter:
        if value is None:
            return {field: {"$in": []}}
        if isinstance(value, str):
            instant = dates.parse(value)
            if instant is None:
                raise FilterError(f"field {field!r}: {value!r} found, a number or a date in ISO 8601 wanted")
            value = instant
        if not isinstance(value, (int, float, date)):
            raise FilterError(f"field {field!r}: {value!r} found, a number or a date wanted")
        return {field: {operator: value}}

    return ordered


def _denied(positive: Callable[[str, Any], Filter]) -> Callable[[str, Any], Filter]:
    return lambda field, value: {"$not": positive(field, value)}


_DOCUMENT_FIELDS = ("id", "content", "blob", "score", "embedding", "sparse_embedding")
_CONDITIONS: dict[str, Callable[[list[Filter]], Filter]] = {
    "AND": lambda parts: {"$and": parts},
    "OR": lambda parts: {"$or": parts},
    "NOT": lambda parts: {"$not": {"$and": parts}},
}
_COMPARISONS: dict[str, Callable[[str, Any], Filter]] = {
    "==": _equals,
    "!=": _denied(_equals),
    ">": _ordered("$gt"),
    ">=": _ordered("$gte"),
    "<": _ordered("$lt"),
    "<=": _ordered("$lte"),
    "in": _one_of,
    "not in": _denied(_one_of),
}
