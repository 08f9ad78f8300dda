"""Filters in SQL select the rows that the specification of the filter language selects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
import test_filters
import test_filters_stores as language
from hypothesis import HealthCheck, given, settings
from sql_helpers import installed, value

from qvec import filters
from qvec.errors import InputError

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def sql(new_database: Callable[..., str]) -> Iterator[Connection]:
    with installed(new_database()) as connection:
        connection.execute("CREATE TABLE filtered (id bigint PRIMARY KEY, metadata jsonb)")
        yield connection


def in_json(condition: language.Filter) -> str:
    """A filter as SQL takes it: with dates as strings, which ordering operators read as dates."""
    return json.dumps(condition, default=lambda date: date.isoformat())


def found(sql: Connection, condition: str) -> set[int]:
    where = value(sql, "SELECT qvec.filter_sql(%s::jsonb)", condition)
    return {id for (id,) in sql.execute(f"SELECT id FROM filtered WHERE {where}".encode())}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(language.cases(language.FLOATS))
def test_filters_select_the_rows_of_the_specification(
    sql: Connection, case: tuple[list[language.Row], list[language.Filter]]
) -> None:
    rows, conditions = case
    language.fill_postgres(sql, rows)
    for condition in map(in_json, conditions):
        expected = language.expected(rows, filters.parse(json.loads(condition)))
        assert found(sql, condition) == expected, condition
        matching = "SELECT id FROM filtered WHERE qvec.matches(metadata, %s::jsonb)"
        assert {id for (id,) in sql.execute(matching.encode(), [condition])} == expected, condition


def test_every_operator_with_every_operand(sql: Connection) -> None:
    language.fill_postgres(sql, language.EVERY_VALUE)
    for operand in language.OPERANDS:
        if isinstance(operand, datetime):
            continue
        for condition in language.every_condition(operand):
            asked = {"a": condition}
            expected = language.expected(language.EVERY_VALUE, filters.parse(asked))
            assert found(sql, in_json(asked)) == expected, asked


@pytest.mark.parametrize("setting", ["DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Tokyo'", "search_path = pg_temp"])
def test_session_settings_do_not_matter(sql: Connection, setting: str) -> None:
    language.fill_postgres(sql, language.EVERY_VALUE)
    for operand in ("2024-01-31T00:00", "2024-01-30T20:00:00-0400", "a"):
        asked = {"a": {"$lte": operand}}
        where = value(sql, "SELECT qvec.filter_sql(%s::jsonb)", in_json(asked))
        with sql.transaction():
            sql.execute(f"SET LOCAL {setting}".encode())
            rows = {id for (id,) in sql.execute(f"SELECT id FROM public.filtered WHERE {where}".encode())}
        assert rows == language.expected(language.EVERY_VALUE, filters.parse(asked))


def test_a_metadata_column_of_another_name(sql: Connection) -> None:
    where = value(sql, """SELECT qvec.filter_sql('{"a": true}', 'my "data"')""")
    assert where.startswith('((("my ""data""" ->')


@pytest.mark.parametrize(
    "condition",
    [
        [],
        "a",
        {"$eq": 1},
        {"$nor": []},
        {"$and": []},
        {"$or": {}},
        {"$and": [1]},
        {"$not": 1},
        {"a": {}},
        {"a": []},
        {"a": [1]},
        {"a": {"b": 1}},
        {"a": {"$eq": []}},
        {"a": {"$eq": {}}},
        {"a": {"$in": 1}},
        {"a": {"$in": [[]]}},
        {"a": {"$lt": True}},
        {"a": {"$lt": None}},
        {"a": {"$lt": []}},
        {"a": {"$between": 1}},
        {"a": {"$between": [1]}},
        {"a": {"$between": [1, "b"]}},
        {"a": {"$between": ["2024-01-01", "b"]}},
        {"a": {"$exists": 1}},
        {"a": {"$like": 1}},
        {"a": {"$like": "a\\"}},
        {"a": {"$ilike": "\\\\\\"}},
        {"a": {"$like": "\n\\"}},
        {"a": {"$contains": []}},
        {"a": {"$contains": [[]]}},
        {"a": {"$contains": {}}},
        {"a": {"$not": 1}},
        {"a": {"$not": {"$lt": {}}}},
        {"a": {"$lt": "0001-01-01T00:00:00+05:00"}},
        {"a..b": 1},
        {".a": 1},
        {"": 1},
    ],
)
def test_filters_that_the_sdk_rejects_are_errors(sql: Connection, condition: Any) -> None:
    with pytest.raises(InputError):
        filters.parse(condition)
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        sql.execute("SELECT qvec.filter_sql(%s::jsonb)", [json.dumps(condition)])


def test_deep_nesting_is_an_error(sql: Connection) -> None:
    condition: dict[str, Any] = {"a": 1}
    for _ in range(60):
        condition = {"$not": condition}
    with pytest.raises(psycopg.Error, match="the filter is nested more than 50 deep; write it flatter"):
        sql.execute("SELECT qvec.filter_sql(%s::jsonb)", [json.dumps(condition)])


def test_the_examples_of_the_filter_language(sql: Connection) -> None:
    language.fill_postgres(sql, [json.loads(json.dumps(test_filters.ROW))])
    for condition in test_filters.HOLDS:
        try:
            asked = json.dumps(condition)
        except TypeError:
            continue  # Python date objects
        assert found(sql, asked) == {0}, condition
