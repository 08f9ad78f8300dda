"""Filters as Qdrant's: conditions on the payload, which is {"document": …, "metadata": {…}, "id": …}.

Qdrant's own rules are the language's: a condition on an array holds where it does for an element, and negation is of
the whole. What it has no condition for is never approximated: there it lets more rows pass, and `finishing` tests what
they hold. It reads stored fractions of 17 digits to within one unit of the last: let filters leave some room around
such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from qdrant_client import models

from qvec.errors import InputError
from qvec.filters import (
    And,
    CombinedFilter,
    Exists,
    Filter,
    FilterLike,
    Like,
    Not,
    OneOf,
    Or,
    Range,
    is_none,
    parse,
    patterns,
)
from qvec.filters.nodes import Field, Scalar
from qvec.filters.patterns import Wildcard

_EXACT = 2**53
"""Qdrant compares numbers as float64, which tells whole numbers apart up to here."""
_INTEGERS = range(-(2**63), 2**63)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Rest:
    """A filter of which Qdrant has no condition for some parts, which are named as messages name them."""

    parsed: Filter
    unknown: tuple[str, ...]


class Compiled(NamedTuple):
    """A filter as Qdrant's, None for every row. Where there is a rest it lets more rows pass than the filter."""

    native: models.Filter | None
    rest: Rest | None = None


class _Condition(NamedTuple):
    """A condition, and what is unknown to Qdrant of what it stands for: then it holds for more."""

    native: models.Condition
    unknown: tuple[str, ...] = ()


def asked(filter: FilterLike | CombinedFilter | None) -> Compiled:
    """What a search takes, in the language or as Qdrant's own. Raises InputError for a filter of neither kind."""
    if is_none(filter):
        return Compiled(None)
    if isinstance(filter, CombinedFilter):
        native, (other, rest) = asked(filter.native).native, asked(filter.conditions)
        return Compiled(models.Filter(must=[part for part in (native, other) if part]), rest)
    if isinstance(filter, models.Filter):
        return Compiled(filter)
    if isinstance(filter, Mapping):
        return compile(parse(filter))
    raise InputError(f"filter is a {type(filter).__name__}; expected a dict, or a Filter of qdrant_client.models")


def compile(parsed: Filter) -> Compiled:  # noqa: A001 - as re.compile
    """The filter as Qdrant's. InputError for numbers and fields that Qdrant cannot tell apart; it says what to do
    instead."""
    native, unknown = _condition(parsed)
    return Compiled(
        native if isinstance(native, models.Filter) else models.Filter(must=[native]),
        Rest(parsed, tuple(dict.fromkeys(unknown))) if unknown else None,
    )


def payload_key(field: Field) -> str:
    """The field's path in the payload. InputError for a key that Qdrant's paths cannot hold."""
    return ".".join(["metadata", *map(_quoted, field)])


def _quoted(key: str) -> str:
    if _PLAIN_KEY.fullmatch(key):
        return key
    if '"' in key or "\\" in key:
        raise InputError(
            f"metadata field {key!r}: Qdrant's paths cannot hold a double quote or a backslash; rename the field"
        )
    return f'"{key}"'


def _condition(node: Filter) -> _Condition:
    if isinstance(node, (And, Or)):
        parts = [_condition(part) for part in node.parts]
        natives = [part.native for part in parts]
        both = models.Filter(must=natives or None) if isinstance(node, And) else _any_of(natives)
        return _Condition(both, tuple(name for part in parts for name in part.unknown))
    if isinstance(node, Not):
        part = _condition(node.part)
        # Where more rows pass than should, the others are too few to keep to.
        return _Condition(models.Filter() if part.unknown else models.Filter(must_not=[part.native]), part.unknown)
    key = payload_key(node.field)
    if isinstance(node, Exists):
        return _Condition(_exists(key))
    if isinstance(node, Like):
        return _like(node, key)
    if isinstance(node, Range):
        return _range(node, key)
    return _Condition(_one_of(node, key))


def _exists(key: str) -> models.Filter:
    return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])


def _any_of(conditions: Iterable[models.Condition]) -> models.Condition:
    conditions = list(conditions)
    if not conditions:
        return models.HasIdCondition(has_id=[])
    return conditions[0] if len(conditions) == 1 else models.Filter(should=conditions)


def _one_of(node: OneOf, key: str) -> models.Condition:
    if node.kind == "null":
        return models.IsNullCondition(is_null=models.PayloadField(key=key))
    if node.kind == "string" and len(node.values) > 1:
        return models.FieldCondition(key=key, match=models.MatchAny(any=[str(value) for value in node.values]))
    return _any_of(_equals(node, key, value) for value in node.values)


def _equals(node: OneOf, key: str, value: Any) -> models.FieldCondition:
    """Numbers are matched by a range, since a match finds only what was stored as an integer: 2020 and not 2020.0."""
    if node.kind == "instant":
        return models.FieldCondition(key=key, range=models.DatetimeRange(gte=value, lte=value))
    if node.kind == "number" and abs(value) < _EXACT:
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    if node.kind == "number" and not (isinstance(value, int) and value in _INTEGERS):
        raise _too_large(node.field, value)
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _range(node: Range, key: str) -> _Condition:
    """Qdrant orders numbers and instants."""
    bounds: dict[str, Any] = {"lt": node.lt, "lte": node.lte, "gt": node.gt, "gte": node.gte}
    if node.kind == "string":
        return _Condition(_exists(key), (f"the order of strings in field {'.'.join(node.field)!r}",))
    if node.kind == "instant":
        return _Condition(models.FieldCondition(key=key, range=models.DatetimeRange(**bounds)))
    for bound in bounds.values():
        if bound is not None and abs(bound) >= _EXACT:
            raise _too_large(node.field, bound)
    return _Condition(models.FieldCondition(key=key, range=models.Range(**bounds)))


def _too_large(field: Field, value: Scalar) -> InputError:
    return InputError(
        f"field {'.'.join(field)!r}: {value} found, but Qdrant compares numbers as float64, exact below 2^53 "
        "(of larger ones, only $eq and $in of 64-bit integers); store such numbers as strings"
    )


def _like(node: Like, key: str) -> _Condition:
    """Qdrant finds a whole, a beginning and a middle; of another pattern its beginning narrows what is tested."""
    unknown = (f"{'$ilike' if node.ignore_case else '$like'} {node.pattern!r} in field {'.'.join(node.field)!r}",)
    finds_parts = hasattr(models, "MatchPrefix")  # qdrant-client 1.20 or newer
    match [node.ignore_case, *patterns.parts(node.pattern)]:
        case [False]:
            return _Condition(_matched(key, models.MatchValue(value="")))
        case [False, str(text)]:
            return _Condition(_matched(key, models.MatchValue(value=text)))
        case [False, str(text), Wildcard.MANY] if finds_parts:
            return _Condition(_matched(key, models.MatchPrefix(prefix=text)))
        case [False, Wildcard.MANY, str(text), Wildcard.MANY] if finds_parts:
            return _Condition(_matched(key, models.MatchSubstring(substring=text)))
        case [False, str(text), *_] if finds_parts:
            return _Condition(_matched(key, models.MatchPrefix(prefix=text)), unknown)
    return _Condition(_exists(key), unknown)


def _matched(key: str, match: models.Match) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=match)
