"""Postgres and the embedded Qdrant engine find the rows that `filters.matches` specifies, for every filter."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
import qdrant_edge as edge
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from property_tests import examples
from psycopg import sql

from qvec import filters
from qvec.errors import InputError
from qvec.filters import dates
from qvec.postgres import filters as postgres
from qvec.qdrant import filters as qdrant
from qvec.qdrant._sync.embedded import EdgeEngine
from qvec.qdrant._sync.view import resolved
from qvec.qdrant.edge import EdgeShard
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import Points
from qvec.qdrant.vector_layout import VectorLayout

Row = dict[str, Any] | None
Filter = dict[str, Any]

# Few fields and few values, so that filters find rows.
DATES = [
    "2024-01-31",
    "2024-01-31T00:00",
    "2024-01-31 00:00:00.000001",
    "2024-01-31T01:00:00+01:00",
    "2024-01-30T20:00:00-0400",
    "2024-01-30 23:59:59.9999999Z",
    "2024-01-31T13:45:00+14",
    "2024-02-29T12:00:00Z",
    "1900-02-28T00:00:00-15:59",
    "0001-01-01T00:00:00+05:00",
    "9999-12-31T23:59:59-05:00",
    "2023-02-29",
    "2024-01-31T24:00:00",
    "2024-01",
    "2024-01-31T10",
    "2024-01-31T10:00Z",
]
STRINGS = [
    "",
    "a",
    "A",
    "ab",
    "a%b",
    "a_b",
    "a\\b",
    "é",
    "É",
    "\ud7ff",
    "\ue000",
    "\U0001f600",
    "b\n",
    "null",
    "1",
    "x" * 70,
]
NUMBERS = [0, -0.0, 1, 1.0, -1, 2, 2.5, 0.1, 1e-300, 5e-324, 1e300, 2**53 - 1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1]
EDGE_VALUES = [*STRINGS, *DATES, *NUMBERS, True, False, None]
SCALARS = st.one_of(
    st.sampled_from(EDGE_VALUES),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
    st.integers(-(2**63), 2**63 - 1),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SHORT_FLOATS = st.floats(-1e6, 1e6).map(lambda number: round(number, 6))
"""Floats that Qdrant stores exactly; it rounds numbers of 17 digits or extreme exponents by one unit."""
PATTERNS = st.sampled_from(
    ["%", "a%", "%a%", "_", "a\\%b", "a", "%b", "%%", "a_b%", "É", "\ud7ff%", "%\\\\%", "x%", ""]
)
KEYS = st.sampled_from(["a", "b"])
FIELDS = st.sampled_from(["a", "b", "a.b", "b.a"])


def values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw values of a field: scalars, arrays, objects and nested ones."""
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=3
    )


def kind(operand: Any) -> str | None:
    """Return the type that ordering operators compare an operand as, or None if they refuse it."""
    try:
        return filters.parse({"a": {"$gte": operand}}).kind
    except InputError:
        return None


def operators(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    """Draw any operator with an operand of these scalars."""
    ordered = scalars.filter(kind) | st.datetimes()
    ends = st.tuples(ordered, ordered).filter(lambda pair: kind(pair[0]) == kind(pair[1])).map(list)
    return st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), scalars),
        st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=4)),
        st.tuples(st.just("$contains"), st.lists(scalars, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), ordered),
        st.tuples(st.just("$between"), ends),
        st.tuples(st.just("$exists"), st.booleans()),
        st.tuples(st.sampled_from(["$like", "$ilike"]), PATTERNS),
    ).map(lambda pair: {pair[0]: pair[1]})


def conditions(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    """Draw filters and nested filters."""
    condition = scalars | operators(scalars) | st.fixed_dictionaries({"$not": operators(scalars)})
    return st.recursive(
        st.builds(lambda field, under: {field: under}, FIELDS, condition) | st.just({}),
        lambda inner: st.one_of(
            st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$not": inner}),
        ),
        max_leaves=3,
    )


@st.composite
def cases(draw: st.DrawFn, floats: st.SearchStrategy[float]) -> tuple[list[Row], list[Filter]]:
    """Draw rows and filters of the same few scalars, so that filters match some rows but not all."""
    few = st.sampled_from(draw(st.lists(SCALARS | floats, min_size=2, max_size=5)))
    row = st.none() | st.dictionaries(KEYS, values(few), min_size=1, max_size=2)
    return draw(st.lists(row, min_size=5, max_size=10)), draw(st.lists(conditions(few), min_size=3, max_size=6))


@pytest.fixture(scope="module")
def table(admin: psycopg.Connection) -> psycopg.Connection:
    admin.execute("CREATE TABLE filtered (id bigint PRIMARY KEY, metadata jsonb)")
    return admin


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EdgeEngine]:
    shard = EdgeShard(tmp_path_factory.mktemp("engine"), VectorLayout(1))
    yield EdgeEngine(shard)
    shard.close()


def expected(rows: list[Row], parsed: filters.Filter) -> set[int]:
    """Return the rows of the specification."""
    return {id for id, row in enumerate(rows) if filters.matches(parsed, row)}


def fill_postgres(connection: psycopg.Connection, rows: list[Row]) -> None:
    connection.execute("TRUNCATE filtered")
    texts = [None if row is None else json.dumps(row) for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO filtered VALUES (%s, %s)", list(enumerate(texts)))


def on_postgres(connection: psycopg.Connection, parsed: filters.Filter) -> set[int]:
    condition, parameters = postgres.compile(parsed)
    query = sql.SQL("SELECT id FROM filtered WHERE {}").format(condition)
    return {id for (id,) in connection.execute(query, parameters)}


def fill_qdrant(engine: EdgeEngine, rows: list[Row]) -> None:
    engine._shard._shard.update(edge.UpdateOperation.delete_points_by_filter(edge.Filter()))
    payloads = [{"document": "a"} if row is None else {"metadata": row, "document": "a"} for row in rows]
    engine.upsert(Points(list(range(len(rows))), np.ones((len(rows), 1), np.float32), payloads))


def on_qdrant(engine: EdgeEngine, parsed: filters.Filter) -> set[int]:
    """Return the rows that a scroll with the resolved filter finds; assert that the residual filter finds the same."""
    native, residual = qdrant.compile(parsed)
    query = resolved(engine, PointQuery(1000, 1, filter=native, residual=residual))
    found = {point.id for point in engine.scroll(0, 1000, vectors=False, filter=query.filter)[0]}
    candidates = engine.scroll(0, 1000, vectors=False, filter=native)[0]
    assert {point.id for point in candidates if residual is None or residual.passes(point.payload)} == found
    return found


def too_large(parsed: filters.Filter) -> bool:
    """Return whether Qdrant refuses a number in the filter."""
    if isinstance(parsed, filters.And | filters.Or):
        return any(map(too_large, parsed.parts))
    if isinstance(parsed, filters.Not):
        return too_large(parsed.part)
    if isinstance(parsed, filters.OneOf) and parsed.kind == "number":
        return any(
            abs(value) >= 2**53 and not (type(value) is int and -(2**63) <= value < 2**63) for value in parsed.values
        )  # type: ignore[arg-type]
    bounds = (parsed.lt, parsed.lte, parsed.gt, parsed.gte) if isinstance(parsed, filters.Range) else ()
    return any(abs(bound) >= 2**53 for bound in bounds if isinstance(bound, (int, float)))


# Every operator with every operand on every value


INSTANTS = [dates.utc(date) for date in map(dates.parse, DATES) if date and 1 < date.year < 9999]
NEAR_INSTANTS = [instant + timedelta(microseconds=n) for instant in INSTANTS for n in (-1, 0, 1)]
OPERANDS = [*EDGE_VALUES, *NEAR_INSTANTS]
EVERY_VALUE: list[Row] = [
    *({"a": value} for value in EDGE_VALUES),
    *({"a": ["zz", value]} for value in EDGE_VALUES),
    *({"a": {"b": value}} for value in EDGE_VALUES),
    *({"a": value} for value in ([], {}, [[]], [[1, "a"]], [{"b": 1}], [None, 1], {"b": [1, None]}, {"b": []})),
    {},
    None,
]


def every_condition(operand: Any) -> Iterator[Filter]:
    for operator in ("$eq", "$ne", "$contains"):
        yield {operator: operand}
    yield {"$in": [operand, "a", 1]}
    yield {"$nin": [operand, True, None]}
    if kind(operand):
        for operator in ("$lt", "$lte", "$gt", "$gte"):
            yield {operator: operand}
        yield {"$between": [operand, operand]}
    if isinstance(operand, str):
        text = operand.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        for pattern in (text, f"{text}%", f"%{text}%", f"%{text}", f"{text}_"):
            yield from ({"$like": pattern}, {"$ilike": pattern})


EVERY_FILTER = [
    filters.parse({field: condition})
    for field in ("a", "a.b")
    for operand in OPERANDS
    for condition in (*every_condition(operand), {"$exists": True}, {"$exists": False})
]


SHARES = 5


@functools.cache
def share_of_filters(share: int) -> list[tuple[filters.Filter, set[int]]]:
    """Return every fifth filter with its rows: every operator and operand, but not every pair of them."""
    return [(parsed, expected(EVERY_VALUE, parsed)) for parsed in EVERY_FILTER[share::SHARES]]


@pytest.mark.sampled(SHARES)
@pytest.mark.parametrize("share", range(SHARES))
def test_postgres_agrees_on_every_operator_and_value(table: psycopg.Connection, share: int) -> None:
    fill_postgres(table, EVERY_VALUE)
    for parsed, rows in share_of_filters(share):
        assert on_postgres(table, parsed) == rows, parsed


@pytest.mark.sampled(SHARES)
@pytest.mark.parametrize("share", range(SHARES))
def test_qdrant_agrees_on_every_operator_and_value(engine: EdgeEngine, share: int) -> None:
    fill_qdrant(engine, EVERY_VALUE)
    for parsed, rows in share_of_filters(share):
        if too_large(parsed):
            with pytest.raises(InputError, match="Qdrant compares numbers as float64, exact below 2"):
                on_qdrant(engine, parsed)
        else:
            assert on_qdrant(engine, parsed) == rows, parsed


@pytest.mark.parametrize("key", ["a%b", "%s", "it's", "two words", "x[]", "ключ", "0", "-1", 'a"b', "back\\slash", "$"])
def test_fields_with_unusual_names(table: psycopg.Connection, engine: EdgeEngine, key: str) -> None:
    rows: list[Row] = [{key: 1}, {key: {key: 1}}, {"a": [1]}, {"a": {key: 2}}, {key: [1]}, {}]
    fill_postgres(table, rows)
    fill_qdrant(engine, rows)
    for field in (f"a.{key}", *([] if key.startswith("$") else [key, f"{key}.{key}"])):
        for condition in (1, {"$exists": True}, {"$gte": 1}):
            parsed = filters.parse({field: condition})
            assert on_postgres(table, parsed) == expected(rows, parsed), parsed
            if '"' in key or "\\" in key:
                with pytest.raises(InputError, match="Qdrant's paths cannot hold a double quote or a backslash"):
                    qdrant.compile(parsed)
            else:
                assert on_qdrant(engine, parsed) == expected(rows, parsed), parsed


def test_condition_without_parameters_runs_with_and_without_a_mapping(table: psycopg.Connection) -> None:
    fill_postgres(table, [{"a%b": 1}, {}])
    condition, parameters = postgres.compile(filters.parse({"a%b": {"$exists": True}}))
    query = sql.SQL("SELECT id FROM filtered WHERE {}").format(condition)
    assert parameters == {}
    assert table.execute(query).fetchall() == table.execute(query, {}).fetchall() == [(0,)]


@pytest.mark.parametrize(
    "setting", ["DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Tokyo'", "standard_conforming_strings = off"]
)
def test_session_settings_do_not_change_the_rows(new_database: Callable[..., str], setting: str) -> None:
    rows: list[Row] = [{"a": value} for value in EDGE_VALUES]
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute("CREATE TABLE filtered (id bigint PRIMARY KEY, metadata jsonb)")
        fill_postgres(connection, rows)
        connection.execute(f"SET {setting}")
        for operand in (*NEAR_INSTANTS, "2024-01-31", "a"):
            parsed = filters.parse({"a": {"$lte": operand}})
            assert on_postgres(connection, parsed) == expected(rows, parsed), parsed


# Random filters


@examples(100, suppress_health_check=list(HealthCheck))
@given(cases(FLOATS))
def test_postgres_agrees_on_random_filters(table: psycopg.Connection, case: tuple[list[Row], list[Filter]]) -> None:
    rows, conditions = case
    fill_postgres(table, rows)
    for condition in conditions:
        parsed = filters.parse(condition)
        assert on_postgres(table, parsed) == expected(rows, parsed), condition


@examples(100, suppress_health_check=list(HealthCheck))
@given(cases(SHORT_FLOATS))
def test_qdrant_agrees_on_random_filters(engine: EdgeEngine, case: tuple[list[Row], list[Filter]]) -> None:
    rows, conditions = case
    fill_qdrant(engine, rows)
    for condition in conditions:
        parsed = filters.parse(condition)
        if not too_large(parsed):
            assert on_qdrant(engine, parsed) == expected(rows, parsed), condition
