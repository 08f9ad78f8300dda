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
from hypothesis import HealthCheck, given
from property_tests import examples
from sql_helpers import fetch_value, install_schema

from qvec import filters
from qvec.errors import InputError

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def sql(new_database: Callable[..., str]) -> Iterator[Connection]:
    with install_schema(new_database()) as connection:
        connection.execute("CREATE TABLE filtered (id bigint PRIMARY KEY, metadata jsonb)")
        yield connection


def filter_as_json(condition: language.Filter) -> str:
    """Return a filter as SQL expects it: with dates as strings, which ordering operators read as dates."""
    return json.dumps(condition, default=lambda date: date.isoformat())


def matching_ids(sql: Connection, condition: str) -> set[int]:
    where = fetch_value(sql, "SELECT qvec.filter_sql(%s::jsonb)", condition)
    return {id for (id,) in sql.execute(f"SELECT id FROM filtered WHERE {where}".encode())}


@examples(150, suppress_health_check=list(HealthCheck))
@given(language.cases(language.FLOATS))
def test_filters_select_the_specified_rows(
    sql: Connection, case: tuple[list[language.Row], list[language.Filter]]
) -> None:
    rows, conditions = case
    language.fill_postgres(sql, rows)
    for condition in map(filter_as_json, conditions):
        expected = language.expected(rows, filters.parse(json.loads(condition)))
        assert matching_ids(sql, condition) == expected, condition
        matching = "SELECT id FROM filtered WHERE qvec.matches(metadata, %s::jsonb)"
        assert {id for (id,) in sql.execute(matching.encode(), [condition])} == expected, condition


def test_every_operator_with_every_operand(sql: Connection) -> None:
    language.fill_postgres(sql, language.EVERY_VALUE)
    for operand in language.OPERANDS:
        if isinstance(operand, datetime):
            continue
        for condition in language.every_condition(operand):
            field_filter = {"a": condition}
            expected = language.expected(language.EVERY_VALUE, filters.parse(field_filter))
            assert matching_ids(sql, filter_as_json(field_filter)) == expected, field_filter


@pytest.mark.parametrize("setting", ["DateStyle = 'SQL, DMY'", "TimeZone = 'Asia/Tokyo'", "search_path = pg_temp"])
def test_session_settings_have_no_effect(sql: Connection, setting: str) -> None:
    language.fill_postgres(sql, language.EVERY_VALUE)
    for operand in ("2024-01-31T00:00", "2024-01-30T20:00:00-0400", "a"):
        field_filter = {"a": {"$lte": operand}}
        where = fetch_value(sql, "SELECT qvec.filter_sql(%s::jsonb)", filter_as_json(field_filter))
        with sql.transaction():
            sql.execute(f"SET LOCAL {setting}".encode())
            rows = {id for (id,) in sql.execute(f"SELECT id FROM public.filtered WHERE {where}".encode())}
        assert rows == language.expected(language.EVERY_VALUE, filters.parse(field_filter))


def test_custom_metadata_column(sql: Connection) -> None:
    where = fetch_value(sql, """SELECT qvec.filter_sql('{"a": true}', 'my "data"')""")
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
def test_filters_rejected_by_python_are_errors(sql: Connection, condition: Any) -> None:
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


def test_filter_language_examples(sql: Connection) -> None:
    language.fill_postgres(sql, [json.loads(json.dumps(test_filters.ROW))])
    for condition in test_filters.MATCHING:
        try:
            filter_text = json.dumps(condition)
        except TypeError:
            continue  # Python date objects
        assert matching_ids(sql, filter_text) == {0}, condition
