"""One filter gives the same rows by its specification, on Postgres and on the embedded Qdrant engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import qdrant_edge as edge
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from qvec import filters
from qvec.errors import InputError
from qvec.postgres import filters as postgres
from qvec.qdrant import edge_filters
from qvec.qdrant import filters as qdrant

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
STRINGS = ["", "a", "A", "ab", "a%b", "a_b", "a\\b", "é", "É", "\ud7ff", "\ue000", "\U0001f600", "b\n", "null", "1", "x" * 70]
NUMBERS = [0, -0.0, 1, 1.0, -1, 2, 2.5, 0.1, 1e-300, 5e-324, 1e300, 2**53 - 1, 2**53, 2**53 + 1, -(2**63), 2**63 - 1]
SCALARS = st.one_of(
    st.sampled_from([*STRINGS, *DATES, *NUMBERS, True, False, None]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "0"]), inner, max_size=2),
    max_leaves=4,
)
KEYS = st.sampled_from(["a", "b", "0", "a%b", "it's", "two words", "x[]", "ключ"])
ROWS = st.none() | st.dictionaries(KEYS, VALUES, max_size=3)

FIELDS = st.one_of(KEYS, st.builds(".".join, st.tuples(KEYS, st.sampled_from(["a", "b", "0"]))))
PATTERNS = st.sampled_from(["%", "a%", "%a%", "_", "a\\%b", "a", "%b", "%%", "a_b%", "É", "\ud7ff%", "%\\\\%", "x%", ""])
ORDERED = st.one_of(
    st.sampled_from([*STRINGS, *NUMBERS]),
    st.sampled_from([text for text in DATES if filters.dates.parse(text)][:9]),
    st.integers(-(2**54), 2**54),
    st.floats(allow_nan=False, allow_infinity=False),
    st.datetimes(timezones=st.just(filters.dates.timezone.utc)),
)


@st.composite
def between(draw: st.DrawFn) -> list[Any]:
    low = draw(ORDERED)
    same = filters.parse({"a": {"$gte": low}}).kind
    return [low, draw(ORDERED.filter(lambda high: filters.parse({"a": {"$gte": high}}).kind == same))]


OPERATORS = st.one_of(
    st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), SCALARS | st.datetimes()),
    st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(SCALARS, max_size=4)),
    st.tuples(st.just("$contains"), st.lists(SCALARS, min_size=1, max_size=3)),
    st.tuples(st.sampled_from(["$lt", "$lte", "$gt", "$gte"]), ORDERED),
    st.tuples(st.just("$between"), between()),
    st.tuples(st.just("$exists"), st.booleans()),
    st.tuples(st.sampled_from(["$like", "$ilike"]), PATTERNS),
).map(lambda pair: {pair[0]: pair[1]})
CONDITIONS = st.tuples(FIELDS, SCALARS | OPERATORS | st.fixed_dictionaries({"$not": OPERATORS})).map(
    lambda pair: {pair[0]: pair[1]}
)
FILTERS = st.recursive(
    CONDITIONS | st.just({}),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)
CASES = {"rows": st.lists(ROWS, min_size=1, max_size=8), "conditions": st.lists(FILTERS, min_size=1, max_size=5)}


@pytest.fixture(scope="module")
def table(admin: psycopg.Connection) -> psycopg.Connection:
    admin.execute("CREATE TABLE filtered (id bigint PRIMARY KEY, metadata jsonb)")
    return admin


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edge.EdgeShard]:
    vectors = {"": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
    shard = edge.EdgeShard.create(str(tmp_path_factory.mktemp("shard")), edge.EdgeConfig(vectors=vectors))
    yield shard
    shard.close()


def expected(rows: list[Row], parsed: filters.Filter) -> set[int]:
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


def fill_qdrant(shard: edge.EdgeShard, rows: list[Row]) -> None:
    shard.update(edge.UpdateOperation.delete_points_by_filter(edge.Filter()))
    points = [edge.Point(id, [1.0], {"metadata": row or {}, "document": "a"}) for id, row in enumerate(rows)]
    shard.update(edge.UpdateOperation.upsert_points(points))


def on_qdrant(shard: edge.EdgeShard, parsed: filters.Filter) -> set[int]:
    native = edge_filters.convert(qdrant.compile(parsed))
    return {record.id for record in shard.scroll(edge.ScrollRequest(limit=1000, filter=native))[0]}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(**CASES)
def test_postgres_finds_the_rows_of_the_specification(
    table: psycopg.Connection, rows: list[Row], conditions: list[Filter]
) -> None:
    fill_postgres(table, rows)
    for condition in conditions:
        parsed = filters.parse(condition)
        assert on_postgres(table, parsed) == expected(rows, parsed), condition


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(**CASES)
def test_qdrant_finds_the_rows_of_the_specification(
    shard: edge.EdgeShard, rows: list[Row], conditions: list[Filter]
) -> None:
    fill_qdrant(shard, rows)
    for condition in conditions:
        parsed = filters.parse(condition)
        try:
            found = on_qdrant(shard, parsed)
        except InputError:
            continue
        assert found == expected(rows, parsed), condition
