"""Indexes on metadata fields: parsing, use by the databases, and equal results with and without an index."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
import qdrant_edge as edge
from psycopg import sql
from qdrant_client import models

from qvec import filters
from qvec.errors import InputError
from qvec.filters import dates
from qvec.metadata_index import IndexType, MetadataIndex
from qvec.postgres import filters as postgres
from qvec.postgres import metadata_indexes as postgres_index
from qvec.postgres.layout import PgVector, Table, TableLayout
from qvec.qdrant import edge_filters
from qvec.qdrant import filters as qdrant
from qvec.qdrant import indexes as qdrant_index

Row = dict[str, Any] | None
Filter = dict[str, Any]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("lang", MetadataIndex("lang", "keyword")),
        ("year:integer", MetadataIndex("year", "integer")),
        ("source.name:text", MetadataIndex("source.name", "text")),
        ("a:b:uuid", MetadataIndex("a:b", "uuid")),
    ],
)
def test_index_is_parsed(text: str, index: MetadataIndex) -> None:
    assert MetadataIndex.parse(text) == index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "year:int",
            "index on metadata field 'year': type 'int' found, one of these wanted: keyword, integer, float, bool, "
            "datetime, text, uuid",
        ),
        (
            ":integer",
            "index on metadata field '': an empty name found, FIELD or FIELD:TYPE wanted, with one dot between "
            "the names of a nested field (source.name:keyword)",
        ),
    ],
)
def test_invalid_index_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        MetadataIndex.parse(text)
    assert str(raised.value) == message


def test_qdrant_indexes_fields_of_the_payload() -> None:
    index = MetadataIndex.parse("source.year:integer")
    assert qdrant_index.metadata_schema(index) == ("metadata.source.year", models.PayloadSchemaType.INTEGER)
    assert qdrant_index.embedded_metadata_schema(index) == ("metadata.source.year", edge.PayloadSchemaType.Integer)


def expected_ids(rows: list[Row], parsed: filters.Filter) -> set[int]:
    return {id for id, row in enumerate(rows) if filters.matches(parsed, row)}


UUIDS = [f"6f9619ff-8b86-d011-b42d-{number:012}" for number in range(20)]
CASES_BY_TYPE: dict[IndexType, tuple[list[Any], list[Filter]]] = {
    "keyword": (
        [f"word{n}" for n in range(500)],
        [{"$eq": "word7"}, {"$in": ["word1", "word2"]}, {"$contains": "word7"}],
    ),
    "uuid": (UUIDS * 25, [{"$eq": UUIDS[3]}, {"$in": UUIDS[:2]}]),
    "bool": ([True] + [False] * 499, [{"$eq": True}]),
    "integer": (list(range(500)), [{"$eq": 7}, {"$in": [1, 2]}, {"$between": [7, 9]}, {"$gt": 495}, {"$lte": 3}]),
    "float": ([n / 4 for n in range(500)], [{"$eq": 7}, {"$in": [1, 0.25]}, {"$between": [7, 8]}, {"$lt": 0.5}]),
    "datetime": (
        [f"{1500 + n}-06-30T23:00:00-02:00" for n in range(500)],
        [{"$gte": "1995-01-01"}, {"$lt": "1502-07-01"}, {"$eq": dates.utc(dates.parse("1700-07-01T01:00:00Z"))}],
    ),
    "text": ([f"{n:03} " + "long" * 2000 for n in range(500)], [{"$like": "007%"}, {"$gte": "498"}, {"$lt": "002"}]),
}


UNUSUAL_VALUES: list[Any] = [
    None,
    True,
    1e300,
    -(2**63),
    "",
    "x" * 9000,
    "2023-02-30",
    [],
    [[]],
    [None, "2024", 3],
    {},
    {"a": 1},
]


@pytest.fixture(scope="module")
def indexed(admin: psycopg.Connection) -> tuple[psycopg.Connection, list[Row]]:
    """5,000 rows with a field for each type of index, some values in arrays, and rows with unusual values."""
    rows: list[Row] = []
    for n in range(5000):
        fields = {name: values[n * 7 % 500] for name, (values, _) in CASES_BY_TYPE.items()}
        rows.append({name: [value] if n % 50 == 0 else value for name, value in fields.items()})
    rows += [dict.fromkeys(CASES_BY_TYPE, value) for value in UNUSUAL_VALUES]
    admin.execute("CREATE TABLE indexed (id bigint PRIMARY KEY, metadata jsonb)")
    with admin.cursor() as cursor, cursor.copy("COPY indexed FROM STDIN") as copy:
        for id, row in enumerate(rows):
            copy.write_row((id, json.dumps(row)))
    table = Table("public", "indexed", TableLayout(8), PgVector("public", (0, 8, 5)))
    for name in CASES_BY_TYPE:
        for statement in postgres_index.create(table, MetadataIndex(name, name)):
            admin.execute(statement)
    admin.execute("VACUUM ANALYZE indexed")
    return admin, rows


@pytest.mark.parametrize("index_type", CASES_BY_TYPE)
def test_postgres_uses_the_index(indexed: tuple[psycopg.Connection, list[Row]], index_type: IndexType) -> None:
    connection, rows = indexed
    for condition in CASES_BY_TYPE[index_type][1]:
        parsed = filters.parse({index_type: condition})
        where, parameters = postgres.compile(parsed)
        query = sql.SQL("SELECT id FROM indexed WHERE {}").format(where)
        plan = "\n".join(line for (line,) in connection.execute(sql.SQL("EXPLAIN {}").format(query), parameters))
        assert "Bitmap Index Scan on indexed_" in plan, (condition, plan)
        assert "Seq Scan" not in plan, (condition, plan)
        assert {id for (id,) in connection.execute(query, parameters)} == expected_ids(rows, parsed), condition


def test_postgres_drops_its_indexes(admin: psycopg.Connection) -> None:
    admin.execute("CREATE TABLE dropped (id bigint PRIMARY KEY, metadata jsonb)")
    table = Table("public", "dropped", TableLayout(8), PgVector("public", (0, 8, 5)))
    count = "SELECT count(*) FROM pg_indexes WHERE tablename = 'dropped'"
    year = MetadataIndex.parse("year:integer")
    for statement in (*postgres_index.create(table, year), *postgres_index.create(table, year)):
        admin.execute(statement)
    assert admin.execute(count).fetchone() == (3,)
    for statement in postgres_index.drop(table, year):
        admin.execute(statement)
    assert admin.execute(count).fetchone() == (1,)


def test_index_names_are_short_and_distinct() -> None:
    long = Table("public", "t" * 63, TableLayout(8), PgVector("public", (0, 8, 5)))
    other = Table("public", "t" * 62 + "u", TableLayout(8), PgVector("public", (0, 8, 5)))
    names = [
        re.search(r'(?:INDEX|STATISTICS) IF NOT EXISTS (?:"public"\.)?"(\w+)"', statement.as_string(None))[1]  # type: ignore[index]
        for table in (long, other)
        for text in ("a:integer", "b:integer", "a:text")
        for statement in postgres_index.create(table, MetadataIndex.parse(text))
    ]
    assert len(set(names)) == 24
    assert max(map(len, names)) <= 63


@pytest.mark.parametrize("index_type", CASES_BY_TYPE)
def test_qdrant_finds_the_same_rows_with_an_index(tmp_path: Path, index_type: IndexType) -> None:
    values, conditions = CASES_BY_TYPE[index_type]
    rows: list[Row] = [{"a": [value] if n % 50 == 0 else value} for n, value in enumerate(values)]
    rows += [{}, {"a": None}, {"a": []}, {"a": [None, values[0]]}]
    vectors = {"": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
    shard = edge.EdgeShard.create(str(tmp_path), edge.EdgeConfig(vectors=vectors))
    points = [edge.Point(id, [1.0], {"metadata": row}) for id, row in enumerate(rows)]
    shard.update(edge.UpdateOperation.upsert_points(points))
    shard.update(
        edge.UpdateOperation.create_field_index(*qdrant_index.embedded_metadata_schema(MetadataIndex("a", index_type)))
    )
    assert shard.info().payload_schema["metadata.a"].points > 0
    for condition in (*conditions, {"$exists": True}, {"$eq": None}, {"$ne": values[0]}):
        parsed = filters.parse({"a": condition})
        native, residual = qdrant.compile(parsed)
        assert native is not None
        records, _ = shard.scroll(edge.ScrollRequest(limit=1000, filter=edge_filters.convert(native)))
        found = {record.id for record in records if residual is None or residual.passes(record.payload)}
        assert found == expected_ids(rows, parsed), condition
    shard.close()
