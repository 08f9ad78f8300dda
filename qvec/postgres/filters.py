"""Filters as SQL conditions on the column `metadata jsonb`.

No row makes a statement fail: values are tested before they are cast. An index of `qvec.postgres.metadata_indexes` can
serve every condition.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from psycopg.sql import SQL, Composable, Composed, Literal, Placeholder

from qvec.filters import And, Exists, Filter, Like, Not, OneOf, Or, Range, dates, patterns
from qvec.filters.nodes import Field

if TYPE_CHECKING:
    from typing_extensions import LiteralString

HEAD = 64
"""Characters of a string that an index holds: index rows are limited to a third of a page."""

_WIDEST_OFFSET = timedelta(hours=16)
_OPERATORS: dict[str, LiteralString] = {"lt": "<", "lte": "<=", "gt": ">", "gte": ">="}

Test = Callable[[Composable], Composable]
"""A condition on one jsonb value, given as an expression."""


def compile(parsed: Filter) -> tuple[Composed, dict[str, Any]]:  # noqa: A001 - as re.compile
    """Return the condition for a WHERE clause, and the values of its named parameters (`filter_0`, …).

    Field names are part of the statement, so that indexes match; values are parameters, so that filters of one shape
    share a statement. Its only percent signs are those of parameters, whatever the names of the fields.
    """
    parameters: dict[str, Any] = {}
    return SQL("{}").format(_condition(parsed, parameters)), parameters


def value_of(field: Field) -> Composed:
    """Return the field's value; NULL where it is missing. The operator takes keys of objects, not positions in
    arrays."""
    return SQL("(metadata -> {})").format(SQL(" -> ").join(map(_quoted, field)))


def head_of(value: Composable) -> Composed:
    """Return the beginning of a string, ordered by code points."""
    return SQL("""left({} #>> '{{}}', {}) COLLATE "C" """).format(value, Literal(HEAD))


def is_type(value: Composable, type: LiteralString) -> Composed:  # noqa: A002 - jsonb's word
    return SQL("jsonb_typeof({}) = {}").format(value, Literal(type))


def _quoted(key: str) -> Composable:
    if "%" not in key:
        return Literal(key)
    escaped = key.replace("\\", "\\\\").replace("'", "''").replace("%", "\\x25")
    return SQL(f"E'{escaped}'")


def _condition(node: Filter, parameters: dict[str, Any]) -> Composable:
    if isinstance(node, And):
        return _joined(" AND ", [_condition(part, parameters) for part in node.parts], "true")
    if isinstance(node, Or):
        return _joined(" OR ", [_condition(part, parameters) for part in node.parts], "false")
    if isinstance(node, Not):
        return SQL("({} IS NOT TRUE)").format(_condition(node.part, parameters))
    value = value_of(node.field)
    if isinstance(node, Exists):
        return SQL("({} NOT IN ('null', '[]'))").format(value)
    if isinstance(node, Like):
        return _any_value(value, "string", _like(node, parameters))
    if isinstance(node, Range):
        return _any_value(value, "number" if node.kind == "number" else "string", _range(node, parameters))
    return _one_of(node, value, parameters)


def _joined(word: LiteralString, parts: list[Composable], empty: LiteralString) -> Composable:
    return SQL("({})").format(SQL(word).join(parts)) if parts else SQL(empty)


def _parameter(parameters: dict[str, Any], value: Any, type: LiteralString) -> Composed:  # noqa: A002 - SQL's word
    name = f"filter_{len(parameters)}"
    parameters[name] = value
    return SQL("{}::{}").format(Placeholder(name), SQL(type))


def _any_value(value: Composable, type: LiteralString, test: Test) -> Composed:  # noqa: A002 - jsonb's word
    """Test the value itself or, in an array, any element: two conditions, each with an index. jsonb_array_elements
    fails on other values, and never receives one in whatever order Postgres evaluates the conditions.
    """
    element = SQL("element.value")
    return SQL(
        "(({is_type} AND {test}) OR ({is_array} AND EXISTS (SELECT FROM jsonb_array_elements("
        "CASE WHEN {is_array} THEN {value} END) AS element(value) WHERE {is_element} AND {test_element})))"
    ).format(
        is_type=is_type(value, type),
        test=test(value),
        is_array=is_type(value, "array"),
        value=value,
        is_element=is_type(element, type),
        test_element=test(element),
    )


def _one_of(node: OneOf, value: Composable, parameters: dict[str, Any]) -> Composable:
    if node.kind == "instant":
        days = [Range(node.field, "instant", gte=instant, lte=instant) for instant in node.values]
        return _joined(" OR ", [_condition(day, parameters) for day in days], "false")
    values = [json.dumps(wanted) for wanted in node.values]
    if len(values) == 1:
        wanted: Composable = _parameter(parameters, values[0], "jsonb")
    else:
        wanted = SQL("ANY ({})").format(_parameter(parameters, values, "text[]::jsonb[]"))
    if node.kind != "number":
        # Between scalars, @> is equality; between an array and a scalar, membership.
        return SQL("({} @> {})").format(value, wanted)
    return SQL("(({is_number} AND {value} = {wanted}) OR ({is_array} AND {value} @> {wanted}))").format(
        is_number=is_type(value, "number"), is_array=is_type(value, "array"), value=value, wanted=wanted
    )


def _range(node: Range, parameters: dict[str, Any]) -> Test:
    sides = {side: getattr(node, side) for side in _OPERATORS if getattr(node, side) is not None}
    if node.kind == "number":
        return _all_of([_number(side, bound, parameters) for side, bound in sides.items()])
    if node.kind == "string":
        return _all_of([_string(side, bound, parameters) for side, bound in sides.items()])
    return _all_of([_instant(side, bound, parameters) for side, bound in sides.items()])


def _all_of(tests: list[Test]) -> Test:
    return lambda value: SQL(" AND ").join([test(value) for test in tests])


def _number(side: str, bound: float, parameters: dict[str, Any]) -> Test:
    wanted = _parameter(parameters, json.dumps(bound), "jsonb")
    return lambda value: SQL("{} {} {}").format(value, SQL(_OPERATORS[side]), wanted)


def _string(side: str, bound: str, parameters: dict[str, Any]) -> Test:
    head = _head(side, bound[:HEAD], parameters)
    wanted = _parameter(parameters, bound, "text")
    return lambda value: SQL("""{} AND {} #>> '{{}}' {} {} COLLATE "C" """).format(
        head(value), value, SQL(_OPERATORS[side]), wanted
    )


def _head(side: str, bound: str, parameters: dict[str, Any]) -> Test:
    """Test the part that the index can decide: beginnings have the order of their strings, but may be equal."""
    wanted = _parameter(parameters, bound, "text")
    return lambda value: SQL("{} {} {}").format(head_of(value), SQL("<=" if side in ("lt", "lte") else ">="), wanted)


def _instant(side: str, bound: datetime, parameters: dict[str, Any]) -> Test:
    """Test first what the index can decide: the date as written is within a day of the instant's."""
    tests = []
    try:
        day = bound + (_WIDEST_OFFSET + timedelta(days=1) if side in ("lt", "lte") else -_WIDEST_OFFSET)
        tests.append(_head(side, day.date().isoformat(), parameters))
    except OverflowError:
        pass  # a bound at the end of the calendar: any date is on its side
    wanted = _parameter(parameters, bound, "timestamptz")
    tests.append(lambda value: SQL("{} {} {}").format(_timestamp(value), SQL(_OPERATORS[side]), wanted))
    return _all_of(tests)


def _timestamp(value: Composable) -> Composed:
    """Return the instant of a string that is a date, otherwise NULL. Postgres would round digits below a
    microsecond."""
    return SQL(
        "CASE WHEN {text} ~ {iso} THEN (regexp_replace({text}, {fraction}, {kept})"
        " || CASE WHEN {text} ~ {zone} THEN '' ELSE 'Z' END)::timestamptz END"
    ).format(
        text=SQL("({} #>> '{{}}')").format(value),
        iso=Literal(f"^(?:{dates.ISO})$"),
        fraction=Literal(r"(\.[0-9]{6})[0-9]+"),
        kept=Literal(r"\1"),
        zone=Literal(r":[0-9.]+(Z|[+-][0-9:]+)$"),
    )


def _like(node: Like, parameters: dict[str, Any]) -> Test:
    pattern = _parameter(parameters, node.pattern, "text")
    operator = SQL("ILIKE" if node.ignore_case else "LIKE")

    def like(value: Composable) -> Composed:
        return SQL("""({} #>> '{{}}') COLLATE "C" {} {}""").format(value, operator, pattern)

    prefix = "" if node.ignore_case else patterns.literal_prefix(node.pattern)[:HEAD]
    if not prefix:
        return like
    after = patterns.after_prefix(prefix)
    heads = [_head("gte", prefix, parameters)] + ([_head("lte", after, parameters)] if after else [])
    return _all_of([*heads, like])
