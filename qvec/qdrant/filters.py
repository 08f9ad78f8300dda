"""Filters as Qdrant's: conditions on the payload, which is {"document": …, "metadata": {…}, "id": …}.

Qdrant's own rules are those of qvec's filter language: a condition on an array holds where it does for an element, and
negation denies the whole. A condition that Qdrant does not have is never approximated: the compiled filter lets more
rows pass there, and a residual filter tests in the client what these rows hold. Qdrant reads stored fractions of 17
digits to within one unit of the last: leave filters some room around such numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from qdrant_client import models

from qvec.errors import InputError
from qvec.filters import And, Exists, Filter, Like, Not, OneOf, Or, Range, matches, patterns
from qvec.filters.nodes import Field, Scalar
from qvec.filters.patterns import Wildcard
from qvec.qdrant.engine_version import NEWEST, EngineVersion
from qvec.qdrant.points import METADATA, Payload
from qvec.store.requests import RowFilter

MAX_IDS = 100_000
"""Upper limit for the points that a search names: each takes 8 to 40 bytes of a request, and a server accepts 32 MB."""
_EXACT = 2**53
"""Qdrant compares numbers as float64, which distinguishes whole numbers up to here."""
_INT64 = range(-(2**63), 2**63)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class ResidualFilter:
    """A filter that Qdrant can test in part only; `unknown` names the other parts for messages."""

    tree: Filter
    unknown: tuple[str, ...]

    def passes(self, payload: Payload | None) -> bool:
        """Return whether a row with this payload passes the whole filter."""
        return matches(self.tree, (payload or {}).get(METADATA))

    @property
    def payload_keys(self) -> list[str]:
        """The parts of payloads that the test reads: the outermost keys, since arrays may come below them."""
        return sorted({payload_key(key) for key in _outermost_keys(self.tree)})

    def check_rows(self, passed: int) -> None:
        """Raise InputError where more than `MAX_IDS` rows passed: they are searched by their ids."""
        if passed > MAX_IDS:
            raise InputError(
                f"the filter lets more than {MAX_IDS:,} rows pass, and Qdrant has no condition for "
                f"{', '.join(self.unknown)}; such rows are searched by their ids: add conditions that let fewer pass, "
                "or store what you ask for in a separate field (lower-case text, a number, a date)"
            )


def _outermost_keys(node: Filter) -> Iterator[tuple[str, ...]]:
    if isinstance(node, Not):
        yield from _outermost_keys(node.part)
    elif isinstance(node, (And, Or)):
        for part in node.parts:
            yield from _outermost_keys(part)
    else:
        yield node.field[:1]


class CompiledFilter(NamedTuple):
    """A filter as Qdrant's, None for every row. With a residual filter it lets more rows pass than it should."""

    native: models.Filter | None
    residual: ResidualFilter | None = None


class _Condition(NamedTuple):
    """A condition, and the parts of the filter that Qdrant cannot test: then the condition holds for more rows."""

    native: models.Condition
    unknown: tuple[str, ...] = ()


def compile_row_filter(filter: RowFilter, engine: EngineVersion) -> CompiledFilter:
    """Return both parts of a row filter as one filter of Qdrant's."""
    compiled = CompiledFilter(None) if filter.tree is None else compile(filter.tree, engine)
    if filter.native is None:
        return compiled
    if compiled.native is None:
        return CompiledFilter(filter.native)
    return CompiledFilter(models.Filter(must=[filter.native, compiled.native]), compiled.residual)


def compile(parsed: Filter, engine: EngineVersion = NEWEST) -> CompiledFilter:  # noqa: A001 - as re.compile
    """Return the filter as Qdrant's. Raise InputError for numbers and fields that Qdrant cannot tell apart."""
    native, unknown = _condition(parsed, engine)
    return CompiledFilter(
        native if isinstance(native, models.Filter) else models.Filter(must=[native]),
        ResidualFilter(parsed, tuple(dict.fromkeys(unknown))) if unknown else None,
    )


def payload_key(field: Field) -> str:
    """Return the field's path in the payload. Raise InputError for a key that Qdrant's paths cannot hold."""
    return ".".join(["metadata", *map(_quoted, field)])


def _quoted(key: str) -> str:
    if _PLAIN_KEY.fullmatch(key):
        return key
    if '"' in key or "\\" in key:
        raise InputError(
            f"metadata field {key!r}: Qdrant's paths cannot hold a double quote or a backslash; rename the field"
        )
    return f'"{key}"'


def _condition(node: Filter, engine: EngineVersion) -> _Condition:
    if isinstance(node, (And, Or)):
        parts = [_condition(part, engine) for part in node.parts]
        natives = [part.native for part in parts]
        joined = models.Filter(must=natives or None) if isinstance(node, And) else _any_of(natives)
        return _Condition(joined, tuple(name for part in parts for name in part.unknown))
    if isinstance(node, Not):
        part = _condition(node.part, engine)
        # More rows pass the part than should, so its negation would lose some: every row passes instead.
        return _Condition(models.Filter() if part.unknown else models.Filter(must_not=[part.native]), part.unknown)
    key = payload_key(node.field)
    if isinstance(node, Exists):
        return _Condition(_exists(key))
    if isinstance(node, Like):
        return _like(node, key, engine)
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
    """Compare numbers by a range: a match finds only what was stored as an integer, 2020 and not 2020.0."""
    if node.kind == "instant":
        return models.FieldCondition(key=key, range=models.DatetimeRange(gte=value, lte=value))
    if node.kind == "number" and abs(value) < _EXACT:
        return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
    if node.kind == "number" and not (isinstance(value, int) and value in _INT64):
        raise _too_large(node.field, value)
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def _range(node: Range, key: str) -> _Condition:
    """Compile an order: Qdrant has that of numbers and of instants, and none of strings."""
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


def _like(node: Like, key: str, engine: EngineVersion) -> _Condition:
    """Compile a pattern: Qdrant finds a whole, and from some version on a prefix and a substring; else a prefix narrows
    the rows to test."""
    unknown = (f"{'$ilike' if node.ignore_case else '$like'} {node.pattern!r} in field {'.'.join(node.field)!r}",)
    match [node.ignore_case, *patterns.parts(node.pattern)]:
        case [False]:
            return _Condition(_matched(key, models.MatchValue(value="")))
        case [False, str(text)]:
            return _Condition(_matched(key, models.MatchValue(value=text)))
        case [False, str(text), Wildcard.MANY] if engine.finds_prefixes:
            return _Condition(_matched(key, models.MatchPrefix(prefix=text)))
        case [False, Wildcard.MANY, str(text), Wildcard.MANY] if engine.finds_substrings:
            return _Condition(_matched(key, models.MatchSubstring(substring=text)))
        case [False, str(text), *_] if engine.finds_prefixes:
            return _Condition(_matched(key, models.MatchPrefix(prefix=text)), unknown)
    return _Condition(_exists(key), unknown)


def _matched(key: str, match: models.Match) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=match)
