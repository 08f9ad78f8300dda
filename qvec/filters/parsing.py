"""Parse the filter language into a tree, and check every operand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any

from qvec.errors import InputError
from qvec.filters import dates, patterns
from qvec.filters.nodes import And, Exists, Field, Filter, Kind, Like, Not, OneOf, Or, Range, Scalar, kind_of

Operator = Callable[[Field, object, str], Filter]
"""Parses the operand of a field; the string names both in errors."""

_MAX_DEPTH = 50
"""Limit of nested filters, because databases have small stacks."""


def parse(conditions: Mapping[str, Any]) -> Filter:
    """Return the tree of a filter in the language that `qvec.filters` describes.

    Raise InputError for an invalid filter. It names the operator or field, the value found and the value wanted.
    """
    return _all(_filters(conditions, "the filter", 0))


def _all(parts: Iterable[Filter]) -> Filter:
    parts = tuple(parts)
    return parts[0] if len(parts) == 1 else And(parts)


def _any(parts: Iterable[Filter]) -> Filter:
    parts = tuple(parts)
    return parts[0] if len(parts) == 1 else Or(parts)


def _filters(conditions: object, name: str, depth: int) -> Iterable[Filter]:
    if not isinstance(conditions, Mapping):
        raise InputError(f"{name}: {_shown(conditions)} found, a mapping of fields and operators wanted")
    _check_depth(depth)
    return [_entry(key, value, depth + 1) for key, value in conditions.items()]


def _entry(key: object, value: object, depth: int) -> Filter:
    if key in ("$and", "$or"):
        parts = [_all(_filters(part, f"{key}: one of its filters", depth)) for part in _filter_list(str(key), value)]
        return _all(parts) if key == "$and" else _any(parts)
    if key == "$not":
        return Not(_all(_filters(value, "$not", depth)))
    if isinstance(key, str) and key.startswith("$"):
        raise InputError(
            f"{key!r} is not an operator of a whole filter; those are: $and, $or, $not"
            + (f"; write it under a field, {{'field': {{{key!r}: …}}}}" if key in _OPERATORS else "")
        )
    return _condition(_field(key), value, depth)


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InputError(f"the filter is nested more than {_MAX_DEPTH} deep; write it flatter")


def _filter_list(key: str, value: object) -> list[object]:
    if not isinstance(value, (list, tuple)) or not value:
        raise InputError(f"{key}: {_shown(value)} found, a list of one filter or more wanted")
    return list(value)


def _field(key: object) -> Field:
    if not isinstance(key, str):
        raise InputError(f"field {_shown(key)}: its name is of type {type(key).__name__}, a string wanted")
    _check_text(key, f"field {key!r}")
    field = tuple(key.split("."))
    if not all(field):
        raise InputError(f"field {key!r}: an empty name found, names with one dot between them wanted (source.name)")
    return field


def _condition(field: Field, value: object, depth: int) -> Filter:
    """Parse what is under a field: operators, or a scalar that it equals."""
    name = _name(field)
    if isinstance(value, (list, tuple, set)):
        raise InputError(
            f"{name}: a list found, a scalar or operators wanted; "
            "{'$in': […]} matches any of it, {'$contains': […]} all"
        )
    if not isinstance(value, Mapping):
        return _equals(field, value, name)
    if not value:
        raise InputError(f"{name}: no operator found, one or more wanted, such as {{'$eq': …}}")
    return _all(_operator(field, operator, operand, depth) for operator, operand in value.items())


def _operator(field: Field, operator: object, operand: object, depth: int) -> Filter:
    name = _name(field)
    if operator == "$not":
        _check_depth(depth)
        if not isinstance(operand, Mapping):
            raise InputError(f"{name}: $not: {_shown(operand)} found, operators wanted ($ne takes a scalar)")
        return Not(_condition(field, operand, depth + 1))
    if operator not in _OPERATORS:
        hint = "" if str(operator).startswith("$") else f"; write a nested field as {name[6:-1]}.{operator}'"
        raise InputError(f"{name}: {operator!r} is not an operator; those are: {', '.join(_OPERATORS)}, $not{hint}")
    return _OPERATORS[str(operator)](field, operand, f"{name}: {operator}")


def _equals(field: Field, operand: object, name: str) -> Filter:
    kind, value = _scalar(operand, name)
    return OneOf(field, kind, (value,))


def _one_of(field: Field, operand: object, name: str) -> Filter:
    if not isinstance(operand, (list, tuple, set, frozenset)):
        raise InputError(f"{name}: {_shown(operand)} found, a list of scalars wanted")
    by_kind: dict[Kind, list[Scalar]] = {}
    for item in operand:
        kind, value = _scalar(item, name)
        by_kind.setdefault(kind, []).append(value)
    return _any(OneOf(field, kind, tuple(values)) for kind, values in by_kind.items())


def _contains(field: Field, operand: object, name: str) -> Filter:
    if not isinstance(operand, (list, tuple, set, frozenset)):
        return _equals(field, operand, name)
    if not operand:
        raise InputError(f"{name}: an empty list found, one scalar or more wanted")
    return _all(_equals(field, item, name) for item in operand)


def _bound(side: str) -> Operator:
    def bounded(field: Field, operand: object, name: str) -> Filter:
        kind, value = _ordered(operand, name)
        return Range(field, kind, **{side: value})

    return bounded


def _between(field: Field, operand: object, name: str) -> Filter:
    if not isinstance(operand, (list, tuple)) or len(operand) != 2:
        raise InputError(f"{name}: {_shown(operand)} found, a list of two wanted: [low, high]")
    (kind, low), (other, high) = (_ordered(end, name) for end in operand)
    if kind != other:
        raise InputError(f"{name}: a {kind} and a {other} found ({_shown(operand)}), two of one kind wanted")
    return Range(field, kind, gte=low, lte=high)


def _like(ignore_case: bool) -> Operator:
    def like(field: Field, operand: object, name: str) -> Filter:
        if not isinstance(operand, str):
            raise InputError(f"{name}: {_shown(operand)} found, a pattern wanted, such as 'intro%'")
        _check_text(operand, name)
        try:
            patterns.parts(operand)
        except ValueError as error:
            raise InputError(f"{name}: pattern {operand!r}: {error}; write \\\\ for a backslash") from None
        return Like(field, operand, ignore_case)

    return like


def _exists(field: Field, operand: object, name: str) -> Filter:
    if not isinstance(operand, bool):
        raise InputError(f"{name}: {_shown(operand)} found, true or false wanted")
    return Exists(field) if operand else Not(Exists(field))


def _scalar(operand: object, name: str) -> tuple[Kind, Any]:
    """Return the kind of an operand and its value, dates in UTC."""
    kind = kind_of(operand)
    if kind is None:
        raise InputError(f"{name}: {_shown(operand)} found, a string, number, true, false, null or date wanted")
    if isinstance(operand, str):
        _check_text(operand, name)
        return kind, str.__str__(operand)
    if isinstance(operand, (int, float)) and kind == "number":
        return kind, _finite(operand, name)
    if isinstance(operand, date):
        return kind, _utc(operand, name)
    return kind, operand


def _ordered(operand: object, name: str) -> tuple[Kind, Any]:
    """Return the kind and value of an operand that has an order; strings that are dates become instants."""
    kind, value = _scalar(operand, name)
    if kind in ("bool", "null"):
        raise InputError(f"{name}: {_shown(operand)} found, a number, string or date wanted")
    instant = dates.parse(value) if isinstance(value, str) else None
    return (kind, value) if instant is None else ("instant", _utc(instant, name))


def _utc(value: date, name: str) -> Any:
    try:
        return dates.utc(value)
    except OverflowError:
        raise InputError(f"{name}: {value} in UTC is outside the years 1 to 9999; use a date within them") from None


def _finite(value: int | float, name: str) -> int | float:
    """Return the number in Python's own type: subclasses such as numpy's print themselves in other ways."""
    try:
        if math.isfinite(value):
            return float(value) if isinstance(value, float) else int(value)
    except OverflowError:
        pass
    raise InputError(f"{name}: a number that JSON cannot hold found, a finite one wanted")


def _check_text(text: str, name: str) -> None:
    """Raise InputError for text that no database can store."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{name}: a NUL character or half of a surrogate pair found, valid Unicode text wanted")


def _name(field: Field) -> str:
    return f"field {'.'.join(field)!r}"


def _shown(value: object) -> str:
    text = (
        {True: "true", False: "false"}[value] if isinstance(value, bool) else "null" if value is None else repr(value)
    )
    return text if len(text) <= 60 else text[:60] + "…"


def _negated(positive: Operator) -> Operator:
    return lambda field, operand, name: Not(positive(field, operand, name))


_OPERATORS: dict[str, Operator] = {
    "$eq": _equals,
    "$ne": _negated(_equals),
    "$lt": _bound("lt"),
    "$lte": _bound("lte"),
    "$gt": _bound("gt"),
    "$gte": _bound("gte"),
    "$in": _one_of,
    "$nin": _negated(_one_of),
    "$between": _between,
    "$exists": _exists,
    "$like": _like(ignore_case=False),
    "$ilike": _like(ignore_case=True),
    "$contains": _contains,
}
