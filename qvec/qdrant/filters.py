"""Filters as Qdrant's: conditions on the payload, which is {"document": …, "metadata": {…}, "id": …}.

Qdrant's own rules are the language's: a condition on an array holds where it does for an element, and negation is of
the whole. What it has no condition for is refused, never approximated. It reads stored fractions of 17 digits to within
one unit of the last: let filters leave some room around such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from qdrant_client import models

from qvec.errors import InputError
from qvec.filters import And, Exists, Filter, Like, Not, OneOf, Or, Range, patterns
from qvec.filters.nodes import Field, Scalar

_EXACT = 2**53
"""Qdrant compares numbers as float64, which tells whole numbers apart up to here."""
_INTEGERS = range(-(2**63), 2**63)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


def compile(parsed: Filter) -> models.Filter:  # noqa: A001 - as re.compile
    """The filter as Qdrant's. InputError for what Qdrant cannot express; it says what to do instead."""
    condition = _condition(parsed)
    return condition if isinstance(condition, models.Filter) else models.Filter(must=[condition])


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


def _condition(node: Filter) -> models.Condition:
    if isinstance(node, And):
        return models.Filter(must=[_condition(part) for part in node.parts] or None)
    if isinstance(node, Or):
        return _any_of(_condition(part) for part in node.parts)
    if isinstance(node, Not):
        return models.Filter(must_not=[_condition(node.part)])
    key = payload_key(node.field)
    if isinstance(node, Exists):
        return models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=key))])
    if isinstance(node, Like):
        return models.FieldCondition(key=key, match=_like(node))
    if isinstance(node, Range):
        return models.FieldCondition(key=key, range=_range(node))
    return _one_of(node, key)


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


def _range(node: Range) -> models.Range | models.DatetimeRange:
    bounds: dict[str, Any] = {"lt": node.lt, "lte": node.lte, "gt": node.gt, "gte": node.gte}
    if node.kind == "instant":
        return models.DatetimeRange(**bounds)
    if node.kind == "string":
        raise InputError(
            f"field {'.'.join(node.field)!r}: Qdrant cannot order strings; "
            "compare numbers or dates (datetime, or '2024-01-31' as ISO 8601 writes it), or use $in"
        )
    for bound in bounds.values():
        if bound is not None and abs(bound) >= _EXACT:
            raise _too_large(node.field, bound)
    return models.Range(**bounds)


def _too_large(field: Field, value: Scalar) -> InputError:
    return InputError(
        f"field {'.'.join(field)!r}: {value} found, but Qdrant compares numbers as float64, exact below 2^53 "
        "(of larger ones, only $eq and $in of 64-bit integers); store such numbers as strings"
    )


def _like(node: Like) -> Any:
    """Qdrant finds a beginning, a middle and a whole."""
    operator = "$ilike" if node.ignore_case else "$like"
    parts = patterns.parts(node.pattern)
    texts = [part for part in parts if isinstance(part, str)]
    shape = ["text" if isinstance(part, str) else part for part in parts]
    if not node.ignore_case:
        if shape in ([], ["text"]):
            return models.MatchValue(value="".join(texts))
        if shape == ["text", patterns.Wild.MANY]:
            return _newer_match("MatchPrefix", prefix=texts[0])
        if shape == [patterns.Wild.MANY, "text", patterns.Wild.MANY]:
            return _newer_match("MatchSubstring", substring=texts[0])
    raise InputError(
        f"field {'.'.join(node.field)!r}: {operator} {node.pattern!r}: Qdrant has only $like 'beginning%' "
        "and '%middle%'; use these, or a native models.Filter with MatchText on a field with a text index"
    )


def _newer_match(name: str, **text: str) -> Any:
    kind = getattr(models, name, None)
    if kind is None:
        raise InputError(
            f"$like needs qdrant-client 1.20 or newer; this one has no {name}: pip install -U qdrant-client"
        )
    return kind(**text)
