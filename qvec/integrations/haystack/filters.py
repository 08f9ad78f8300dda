"""Haystack's filters in the syntax of `qvec.filters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from haystack.errors import FilterError

from qvec.errors import InputError
from qvec.filters import dates, parse

Converted = dict[str, Any]


def convert_filters(filters: Mapping[str, Any] | None) -> Converted:
    """Return the filters in the syntax of `qvec.filters`, empty for None.

    A field may omit the prefix `meta.`; dots lead into nested metadata. As in Haystack a missing field equals None,
    None is not ordered, and strings are ordered only if they are dates in ISO 8601. Raise FilterError for invalid
    filters.
    """
    if not filters:
        return {}
    converted = _convert(filters)
    try:
        parse(converted)
    except InputError as error:
        raise FilterError(str(error)) from error
    return converted


def _convert(filters: Any) -> Converted:
    if not isinstance(filters, Mapping):
        raise FilterError(f"{filters!r} found, a filter wanted: a dict with a field or with conditions")
    return _comparison(filters) if "field" in filters else _logic(filters)


def _logic(filters: Mapping[str, Any]) -> Converted:
    operator, conditions = _required(filters, "operator"), _required(filters, "conditions")
    if operator not in _LOGIC or not isinstance(conditions, list):
        raise FilterError(f"operator {operator!r} with conditions found, {', '.join(_LOGIC)} with a list wanted")
    return _LOGIC[operator]([_convert(condition) for condition in conditions])


def _comparison(filters: Mapping[str, Any]) -> Converted:
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


def _equal(field: str, value: Any) -> Converted:
    return {field: {"$exists": False}} if value is None else {field: {"$eq": value}}


def _in(field: str, values: Any) -> Converted:
    if not isinstance(values, list):
        raise FilterError(f"field {field!r}: {values!r} found, a list wanted for 'in' and 'not in'")
    listed = {field: {"$in": [value for value in values if value is not None]}}
    return {"$or": [listed, _equal(field, None)]} if None in values else listed


def _ordered(operator: str) -> Callable[[str, Any], Converted]:
    def compare(field: str, value: Any) -> Converted:
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

    return compare


def _negated(compare: Callable[[str, Any], Converted]) -> Callable[[str, Any], Converted]:
    return lambda field, value: {"$not": compare(field, value)}


_DOCUMENT_FIELDS = ("id", "content", "blob", "score", "embedding", "sparse_embedding")
_LOGIC: dict[str, Callable[[list[Converted]], Converted]] = {
    "AND": lambda parts: {"$and": parts},
    "OR": lambda parts: {"$or": parts},
    "NOT": lambda parts: {"$not": {"$and": parts}},
}
_COMPARISONS: dict[str, Callable[[str, Any], Converted]] = {
    "==": _equal,
    "!=": _negated(_equal),
    ">": _ordered("$gt"),
    ">=": _ordered("$gte"),
    "<": _ordered("$lt"),
    "<=": _ordered("$lte"),
    "in": _in,
    "not in": _negated(_in),
}
