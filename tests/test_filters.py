"""The filter language: filters that match a row or do not, parsing, errors for invalid filters, Qdrant conditions."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from qvec import filters
from qvec.errors import InputError
from qvec.filters import And, Exists, Like, Not, OneOf, Or, Range, dates, patterns
from qvec.postgres import filters as postgres
from qvec.qdrant import filters as qdrant
from qvec.qdrant.engine_version import EngineVersion

ROW = {
    "lang": "en",
    "year": 2020,
    "price": 9.5,
    "open": True,
    "nothing": None,
    "tags": ["news", "sport", 7],
    "none": [],
    "holes": [None, "a"],
    "nested": [["news"]],
    "source": {"name": "wiki", "dates": {"read": "2024-01-31T12:00:00+01:00"}},
    "path": "50%_a\\b",
    "lines": "one\ntwo",
    "word": "É",
    "a.b": "dotted",
}

MATCHING: list[dict[str, Any]] = [
    {},
    {"lang": "en", "year": {"$gte": 2020}, "$or": [{"price": 1}, {"open": True}]},
    {"lang": {"$eq": "en"}},
    {"lang": {"$ne": "de"}},
    {"missing": {"$ne": "de"}},
    {"missing": {"$nin": ["de"]}},
    {"missing": {"$not": {"$lt": 5}}},
    {"$not": {"missing": 1}},
    {"year": 2020.0},
    {"year": {"$in": [1, 2020]}},
    {"year": {"$nin": []}},
    {"year": {"$gt": 2019.5, "$lt": 2021}},
    {"year": {"$between": [2020, 2020]}},
    {"open": True},
    {"open": {"$ne": 1}},
    {"nothing": None},
    {"missing": {"$ne": None}},
    {"holes": None},
    {"holes": {"$exists": True}},
    {"lang": {"$exists": True}},
    {"missing": {"$exists": False}},
    {"nothing": {"$exists": False}},
    {"none": {"$exists": False}},
    {"tags": "news"},
    {"tags": {"$in": ["x", "sport"]}},
    {"tags": {"$contains": "sport"}},
    {"tags": {"$contains": ["sport", 7]}},
    {"tags": {"$gt": 6}},
    {"tags": {"$like": "sp%"}},
    {"lang": {"$contains": "en"}},
    {"source.name": "wiki"},
    {"source.dates.read": {"$eq": datetime(2024, 1, 31, 11)}},
    {"source.dates.read": {"$gte": date(2024, 1, 31)}},
    {"source.dates.read": {"$lt": "2024-01-31T11:00:01"}},
    {"source.dates.read": {"$between": ["2024-01-31", datetime(2024, 1, 31, 11, tzinfo=timezone.utc)]}},
    {"lang": {"$gte": "e", "$lt": "eo"}},
    {"word": {"$gt": "z"}},
    {"path": {"$like": "50\\%\\_a\\\\b"}},
    {"path": {"$like": "%a_b"}},
    {"lang": {"$like": "__"}},
    {"lang": {"$ilike": "E%"}},
    {"lines": {"$like": "one%two"}},
    {"$and": [{"lang": "en"}, {"lang": {"$ne": "de"}}]},
]

NOT_MATCHING: list[dict[str, Any]] = [
    {"$not": {}},
    {"lang": "de"},
    {"lang": "EN"},
    {"lang": {"$ne": "en"}},
    {"year": "2020"},
    {"year": {"$gt": 2020}},
    {"year": {"$in": []}},
    {"year": {"$gte": "2020-01-01"}},
    {"lang": {"$gt": 1}},
    {"open": 1},
    {"open": {"$gte": 0}},
    {"year": {"$like": "2020"}},
    {"missing": None},
    {"none": None},
    {"missing": {"$lt": 5}},
    {"nothing": {"$exists": True}},
    {"none": {"$exists": True}},
    {"tags": {"$ne": "news"}},
    {"tags": {"$nin": ["x", 7]}},
    {"tags": {"$contains": ["sport", "x"]}},
    {"tags": {"$between": [8, 9]}},
    {"nested": "news"},
    {"source": "wiki"},
    {"source.name.more": "wiki"},
    {"nested.0": "news"},
    {"a.b": "dotted"},
    {"source.dates.read": datetime(2024, 1, 31, 12)},
    {"source.dates.read": "2024-01-31T11:00:00Z"},
    {"lang": {"$gte": "2020-01-01"}},
    {"lang": {"$like": "e"}},
    {"lang": {"$like": "E%"}},
    {"word": {"$ilike": "é"}},
]


@pytest.mark.parametrize("condition", MATCHING, ids=str)
def test_filter_matches(condition: dict[str, Any]) -> None:
    assert filters.matches(filters.parse(condition), ROW)


@pytest.mark.parametrize("condition", NOT_MATCHING, ids=str)
def test_filter_does_not_match(condition: dict[str, Any]) -> None:
    assert not filters.matches(filters.parse(condition), ROW)


@pytest.mark.parametrize("condition", [*MATCHING, *NOT_MATCHING], ids=str)
def test_row_without_metadata_is_treated_as_empty_metadata(condition: dict[str, Any]) -> None:
    parsed = filters.parse(condition)
    assert filters.matches(parsed, None) == filters.matches(parsed, {})


def test_parsed_tree() -> None:
    parsed = filters.parse(
        {
            "a": {"$gt": 1, "$lte": 2.5},
            "$or": [{"b.c": {"$nin": ["x", 1, "y"]}}, {"d": {"$exists": False}}],
            "e": {"$ilike": "z%"},
            "f": {"$contains": [True, None]},
        }
    )
    assert parsed == And(
        (
            And((Range(("a",), "number", gt=1), Range(("a",), "number", lte=2.5))),
            Or(
                (
                    Not(Or((OneOf(("b", "c"), "string", ("x", "y")), OneOf(("b", "c"), "number", (1,))))),
                    Not(Exists(("d",))),
                )
            ),
            Like(("e",), "z%", ignore_case=True),
            And((OneOf(("f",), "bool", (True,)), OneOf(("f",), "null", (None,)))),
        )
    )
    assert hash(parsed) == hash(parsed)


def test_true_and_1_give_different_trees() -> None:
    assert filters.parse({"a": True}) != filters.parse({"a": 1})


def test_numpy_numbers_become_python_numbers() -> None:
    parsed = filters.parse({"a": {"$gt": np.float64(1.5)}})
    assert type(parsed.gt) is float
    assert postgres.compile(parsed)[1] == {"filter_0": "1.5"}


INVALID: list[tuple[Any, str]] = [
    (["a"], "the filter: ['a'] found, a mapping of fields and operators wanted"),
    ({"$near": 1}, "'$near' is not an operator of a whole filter; those are: $and, $or, $not"),
    (
        {"$gt": 1},
        "'$gt' is not an operator of a whole filter; those are: $and, $or, $not; "
        "write it under a field, {'field': {'$gt': …}}",
    ),
    (
        {"year": {"$near": 1}},
        "field 'year': '$near' is not an operator; those are: $eq, $ne, $lt, $lte, $gt, $gte, $in, $nin, $between, "
        "$exists, $like, $ilike, $contains, $not",
    ),
    (
        {"a.source": {"name": "wiki"}},
        "field 'a.source': 'name' is not an operator; those are: $eq, $ne, $lt, $lte, $gt, $gte, $in, $nin, $between, "
        "$exists, $like, $ilike, $contains, $not; write a nested field as 'a.source.name'",
    ),
    ({"year": {}}, "field 'year': no operator found, one or more wanted, such as {'$eq': …}"),
    (
        {"tags": ["a", "b"]},
        "field 'tags': a list found, a scalar or operators wanted; "
        "{'$in': […]} matches any of it, {'$contains': […]} all",
    ),
    ({"": 1}, "field '': an empty name found, names with one dot between them wanted (source.name)"),
    ({"a..b": 1}, "field 'a..b': an empty name found, names with one dot between them wanted (source.name)"),
    ({1: 1}, "field 1: its name is of type int, a string wanted"),
    ({"$and": []}, "$and: [] found, a list of one filter or more wanted"),
    ({"$or": {"a": 1}}, "$or: {'a': 1} found, a list of one filter or more wanted"),
    ({"$or": [1]}, "$or: one of its filters: 1 found, a mapping of fields and operators wanted"),
    ({"$not": True}, "$not: true found, a mapping of fields and operators wanted"),
    ({"a": {"$not": 1}}, "field 'a': $not: 1 found, operators wanted ($ne takes a scalar)"),
    ({"a": {"$gt": True}}, "field 'a': $gt: true found, a number, string or date wanted"),
    ({"a": {"$lt": None}}, "field 'a': $lt: null found, a number, string or date wanted"),
    ({"a": {"$lt": [1]}}, "field 'a': $lt: [1] found, a string, number, true, false, null or date wanted"),
    ({"a": {"$eq": b"x"}}, "field 'a': $eq: b'x' found, a string, number, true, false, null or date wanted"),
    ({"a": {"$in": "ab"}}, "field 'a': $in: 'ab' found, a list of scalars wanted"),
    ({"a": {"$in": [[1]]}}, "field 'a': $in: [1] found, a string, number, true, false, null or date wanted"),
    ({"a": {"$between": [1]}}, "field 'a': $between: [1] found, a list of two wanted: [low, high]"),
    (
        {"a": {"$between": [1, "x"]}},
        "field 'a': $between: a number and a string found ([1, 'x']), two of one kind wanted",
    ),
    ({"a": {"$exists": 1}}, "field 'a': $exists: 1 found, true or false wanted"),
    ({"a": {"$like": 1}}, "field 'a': $like: 1 found, a pattern wanted, such as 'intro%'"),
    (
        {"a": {"$like": "x\\"}},
        "field 'a': $like: pattern 'x\\\\': its last backslash escapes nothing; write \\\\ for a backslash",
    ),
    ({"a": {"$contains": []}}, "field 'a': $contains: an empty list found, one scalar or more wanted"),
    ({"a": float("nan")}, "field 'a': a number that JSON cannot hold found, a finite one wanted"),
    ({"a": 10**400}, "field 'a': a number that JSON cannot hold found, a finite one wanted"),
    ({"a": "x\0"}, "field 'a': a NUL character or half of a surrogate pair found, valid Unicode text wanted"),
    ({"a": "\ud800"}, "field 'a': a NUL character or half of a surrogate pair found, valid Unicode text wanted"),
    (
        {"a": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1)))},
        "field 'a': 0001-01-01 00:00:00+01:00 in UTC is outside the years 1 to 9999; use a date within them",
    ),
]


@pytest.mark.parametrize(("condition", "message"), INVALID, ids=lambda value: repr(value)[:40])
def test_invalid_filters_are_refused(condition: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        filters.parse(condition)
    assert str(raised.value) == message


@pytest.mark.parametrize("in_field", [False, True])
def test_filters_nested_too_deep_are_refused(in_field: bool) -> None:
    condition: dict[str, Any] = {"$gt": 1} if in_field else {"a": 1}
    for _ in range(1000):
        condition = {"$not": condition}
    with pytest.raises(InputError, match=r"^the filter is nested more than 50 deep; write it flatter$"):
        filters.parse({"a": condition} if in_field else condition)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-02-29", datetime(2024, 2, 29)),
        ("2024-02-29T01:02", datetime(2024, 2, 29, 1, 2)),
        ("2024-02-29 01:02:03.1234567", datetime(2024, 2, 29, 1, 2, 3, 123456)),
        ("2024-02-29T01:02:03.5Z", datetime(2024, 2, 29, 1, 2, 3, 500000)),
        ("2024-02-29T01:02:03+02", datetime(2024, 2, 28, 23, 2, 3)),
        ("2024-02-29T01:02:03-0230", datetime(2024, 2, 29, 3, 32, 3)),
        ("2000-02-29T00:00:00-00:00", datetime(2000, 2, 29)),
    ],
)
def test_dates_are_parsed(text: str, instant: datetime) -> None:
    assert dates.parse(text) == instant.replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "text",
    [
        "2023-02-29",
        "1900-02-29",
        "2024-04-31",
        "2024-13-01",
        "0000-01-01",
        "2024-1-1",
        "20240101",
        "2024-01",
        "2024-01-01T24:00",
        "2024-01-01T10",
        "2024-01-01T10:00Z",
        "2024-01-01Z",
        "2024-01-01T10:00:60",
        "2024-01-01T10:00:00.",
        "2024-01-01T10:00:00+16:00",
        "2024-01-01T10:00:00 +02:00",
        "٢٠٢٤-01-01",
        " 2024-01-01",
        "2024-01-01\n",
        "",
    ],
)
def test_invalid_dates_are_not_parsed(text: str) -> None:
    assert dates.parse(text) is None


def test_every_day_is_parsed() -> None:
    day = date(1896, 1, 1)
    while day < date(1905, 1, 1):
        assert dates.parse(day.isoformat()) == datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
        day += timedelta(days=1)


@pytest.mark.parametrize(
    ("prefix", "after"),
    [("ab", "ac"), ("a\U0010ffff", "b"), ("\ud7ff", "\ue000"), ("\U0010ffff", None)],
)
def test_first_string_after_a_prefix(prefix: str, after: str | None) -> None:
    assert patterns.after_prefix(prefix) == after


# Conversion to Qdrant conditions

HAS_PREFIX = models.FieldCondition(key="metadata.a", match=models.MatchPrefix(prefix="x"))
EXISTS = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key="metadata.a"))])


@pytest.mark.parametrize(
    ("condition", "native", "inexpressible"),
    [
        ({"a": {"$gt": "x"}}, EXISTS, "the order of strings in field 'a'"),
        ({"a": {"$between": ["x", "y"]}}, EXISTS, "the order of strings in field 'a'"),
        ({"a": {"$like": "%x"}}, EXISTS, "$like '%x' in field 'a'"),
        ({"a": {"$like": "%"}}, EXISTS, "$like '%' in field 'a'"),
        ({"a": {"$ilike": "x"}}, EXISTS, "$ilike 'x' in field 'a'"),
        ({"a": {"$like": "x_"}}, models.Filter(must=[HAS_PREFIX]), "$like 'x_' in field 'a'"),
        ({"a": {"$like": "x%y"}}, models.Filter(must=[HAS_PREFIX]), "$like 'x%y' in field 'a'"),
        ({"$not": {"a": {"$ilike": "x"}}}, models.Filter(), "$ilike 'x' in field 'a'"),
        (
            {"a": {"$ilike": "x", "$exists": True}},
            models.Filter(must=[EXISTS, EXISTS]),
            "$ilike 'x' in field 'a'",
        ),
        (
            {"$or": [{"a": {"$ilike": "x"}}, {"a": {"$like": "x%"}}]},
            models.Filter(should=[EXISTS, HAS_PREFIX]),
            "$ilike 'x' in field 'a'",
        ),
    ],
    ids=str,
)
def test_filters_without_a_qdrant_condition_become_wider_with_a_residual_filter(
    condition: dict[str, Any], native: models.Filter, inexpressible: str
) -> None:
    parsed = filters.parse(condition)
    assert qdrant.compile(parsed) == (native, qdrant.ResidualFilter(parsed, (inexpressible,)))


@pytest.mark.parametrize("condition", [{"a": {"$like": like}} for like in ("", "x", "x%", "%x%")], ids=str)
def test_qdrant_has_conditions_for_equality_prefixes_and_substrings(condition: dict[str, Any]) -> None:
    assert qdrant.compile(filters.parse(condition)).residual is None


@pytest.mark.parametrize(
    ("condition", "shown"),
    [({"$gt": 2**53}, "9007199254740992"), (2**63, "9223372036854775808"), (1e16, "1e+16")],
)
def test_qdrant_refuses_numbers_beyond_float64_precision(condition: Any, shown: str) -> None:
    with pytest.raises(InputError) as raised:
        qdrant.compile(filters.parse({"a": condition}))
    assert str(raised.value) == (
        f"field 'a': {shown} found, but Qdrant compares numbers as float64, exact below 2^53 (of larger ones, only $eq "
        "and $in of 64-bit integers); store such numbers as strings"
    )


@pytest.mark.parametrize(
    ("pattern", "since"), [("x", (1, 16)), ("x%", (1, 19)), ("%x%", (1, 20))], ids=["whole", "prefix", "substring"]
)
@pytest.mark.parametrize("minor", [16, 18, 19, 20, 21])
def test_conditions_of_patterns_are_those_of_the_servers_version(
    pattern: str, since: tuple[int, int], minor: int
) -> None:
    parsed = filters.parse({"a": {"$like": pattern}})
    found = qdrant.compile(parsed, EngineVersion(1, minor))
    if (1, minor) >= since:
        assert found.residual is None
    else:
        assert found == (EXISTS, qdrant.ResidualFilter(parsed, (f"$like {pattern!r} in field 'a'",)))


def test_qdrant_conditions_use_metadata_in_the_payload() -> None:
    assert qdrant.compile(filters.parse({"source.two words": "x", "year": {"$ne": 7}})).native == models.Filter(
        must=[
            models.FieldCondition(key='metadata.source."two words"', match=models.MatchValue(value="x")),
            models.Filter(must_not=[models.FieldCondition(key="metadata.year", range=models.Range(gte=7, lte=7))]),
        ]
    )


def test_filter_modules_import_no_database_library() -> None:
    program = "import qvec.filters, qvec.metadata_index, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert not {"numpy", "psycopg", "qdrant_client", "qdrant_edge"} & set(json.loads(done.stdout))
