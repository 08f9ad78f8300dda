"""A parsed filter: a small tree that every store compiles, and its meaning in plain Python (`matches`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from qvec.filters import dates, patterns

Kind = Literal["string", "number", "bool", "null", "instant"]
"""The kind of a scalar. Values of different kinds are never equal and have no order."""

Scalar = str | int | float | bool | datetime | None
Field = tuple[str, ...]
"""The path of a field: the keys of nested objects."""


def kind_of(value: object) -> Kind | None:
    """Return the kind of a scalar, None for any other value. True is a bool, not a number."""
    if value is None:
        return "null"
    for kind, types in _KINDS:
        if isinstance(value, types):
            return kind
    return None


_KINDS: tuple[tuple[Kind, type | tuple[type, ...]], ...] = (
    ("bool", bool),
    ("number", (int, float)),
    ("string", str),
    ("instant", date),
)


@dataclass(frozen=True)
class And:
    """Holds if all of the parts hold; without parts, for every row."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """Holds if any of the parts holds; without parts, for no row."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """Holds if the part does not hold."""

    part: Filter


@dataclass(frozen=True)
class OneOf:
    """Holds if a value of the field equals one of `values`: one or more, all of the same kind."""

    field: Field
    kind: Kind
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """Holds if a value of the field is of this kind (number, string or instant) and within the bounds that are set."""

    field: Field
    kind: Kind
    lt: Scalar = None
    lte: Scalar = None
    gt: Scalar = None
    gte: Scalar = None


@dataclass(frozen=True)
class Like:
    """Holds if a value of the field is a string that matches the pattern (see `patterns`)."""

    field: Field
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True)
class Exists:
    """Holds if the field has a value other than null and an empty array."""

    field: Field


Filter = And | Or | Not | OneOf | Range | Like | Exists

_NOTHING = object()


def matches(parsed: Filter, metadata: Mapping[str, Any] | None) -> bool:
    """Tell whether a row with this metadata (JSON values; None is {}) passes the filter.

    This is the specification that the compiled filters of all databases are tested against.
    """
    if isinstance(parsed, And):
        return all(matches(part, metadata) for part in parsed.parts)
    if isinstance(parsed, Or):
        return any(matches(part, metadata) for part in parsed.parts)
    if isinstance(parsed, Not):
        return not matches(parsed.part, metadata)
    value = _value(metadata, parsed.field)
    if isinstance(parsed, Exists):
        return value is not _NOTHING and value is not None and value != []
    return any(_holds(parsed, element) for element in (value if isinstance(value, list) else [value]))


def _value(metadata: Any, field: Field) -> Any:
    for key in field:
        if not isinstance(metadata, Mapping) or key not in metadata:
            return _NOTHING
        metadata = metadata[key]
    return metadata


def _holds(leaf: OneOf | Range | Like, value: Any) -> bool:
    if isinstance(leaf, Like):
        return isinstance(value, str) and patterns.matches(leaf.pattern, leaf.ignore_case, value)
    value = _of_kind(leaf.kind, value)
    if value is _NOTHING:
        return False
    if isinstance(leaf, OneOf):
        return value in [_of_kind(leaf.kind, wanted) for wanted in leaf.values]
    return _within(leaf, value)


def _of_kind(kind: Kind, value: Any) -> Any:
    """Return the value in a form that compares within its kind; _NOTHING if it is of another kind."""
    if kind == "instant" and isinstance(value, str):
        value = dates.parse(value)
    if kind_of(value) != kind:
        return _NOTHING
    # A number is the decimal that JSON writes, as in Postgres: 1e25 is not the nearest binary fraction.
    return Decimal(repr(value)) if isinstance(value, float) else value


def _within(bounds: Range, value: Any) -> bool:
    lt, lte, gt, gte = (
        bound if bound is None else _of_kind(bounds.kind, bound)
        for bound in (bounds.lt, bounds.lte, bounds.gt, bounds.gte)
    )
    return (
        (lt is None or value < lt)
        and (lte is None or value <= lte)
        and (gt is None or value > gt)
        and (gte is None or value >= gte)
    )
