"""What a filter means, in plain Python: the specification that the databases' compiled filters are tested against."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from qvec.filters import dates, patterns
from qvec.filters.nodes import And, Exists, Field, Filter, Kind, Like, Not, OneOf, Or, Range, kind_of

_NOTHING = object()


def matches(parsed: Filter, metadata: Mapping[str, Any] | None) -> bool:
    """Whether a row with this metadata (JSON values; None is {}) passes the filter."""
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
    """The value as its kind compares; nothing where it is of another kind."""
    if kind == "instant" and isinstance(value, str):
        value = dates.parse(value)
    if kind_of(value) != kind:
        return _NOTHING
    # Numbers are what JSON writes, which is what Postgres holds: 1e25 there is not the nearest binary fraction.
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
