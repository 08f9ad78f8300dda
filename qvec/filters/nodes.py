"""A parsed filter: a small tree that every compiler walks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

Kind = Literal["string", "number", "bool", "null", "instant"]
"""What a scalar is. Values of different kinds are never equal and have no order."""

Scalar = str | int | float | bool | datetime | None
Field = tuple[str, ...]
"""The keys that lead to a field."""


def kind_of(value: object) -> Kind | None:
    """What a scalar is, None for what is no scalar. True is a bool and no number."""
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
    """All of the parts hold; without parts, every row."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Or:
    """Any of the parts holds; without parts, no row."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """The part does not hold."""

    part: Filter


@dataclass(frozen=True)
class OneOf:
    """A value of the field equals one of `values`, which are all of one kind and at least one."""

    field: Field
    kind: Kind
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Range:
    """A value of the field is of this kind (number, string or instant) and within the bounds that are not None."""

    field: Field
    kind: Kind
    lt: Scalar = None
    lte: Scalar = None
    gt: Scalar = None
    gte: Scalar = None


@dataclass(frozen=True)
class Like:
    """A value of the field is a string of the pattern (see `patterns`)."""

    field: Field
    pattern: str
    ignore_case: bool = False


@dataclass(frozen=True)
class Exists:
    """The field has a value: it is there, and neither null nor an empty array."""

    field: Field


Filter = And | Or | Not | OneOf | Range | Like | Exists
