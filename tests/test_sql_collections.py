"""Collections in SQL: create, write with plain INSERT, share with Python, drop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import realistic
from numpy.typing import NDArray
from psycopg import sql as composing
from sql_helpers import fetch_value, import_calibration, install_schema, vector_text

import qvec
from qvec import Calibration

Connection = psycopg.Connection[Any]
Vectors = NDArray[np.float32]

LAYOUTS = [
    (rescore, prefilter)
    for rescore in ("int10", "int8", "int4", "binary", "float16", "float32")
    for prefilter in ("levels6", "ternary", "binary")
    if rescore != "binary" or prefilter == "binary"
] + [("int8", "levels4"), ("int4", "levels8"), ("float32", "levels5")]


@pytest.fixture(scope="module")
def url(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def sql(url: str) -> Iterator[Connection]:
    with install_schema(url) as connection:
        yield connection


@pytest.fixture(scope="module")
def cosine(sql: Connection, calibration: Calibration) -> str:
    """The id of the stored cosine calibration."""
    return import_calibration(sql, calibration)


def insert_rows(sql: Connection, table: str, vectors: Vectors, first: int = 0) -> None:
    statement = composing.SQL(
        "INSERT INTO {} (id, embedding_in, document, metadata) VALUES (%s, %s::vector, %s, %s::jsonb)"
    ).format(composing.Identifier(table))
    rows = [(first + n, vector_text(v), f"note {first + n}", f'{{"n": {first + n}}}') for n, v in enumerate(vectors)]
    with sql.cursor() as cursor:
        cursor.executemany(statement, rows)


@pytest.mark.parametrize(("rescore", "prefilter"), LAYOUTS)
def test_insert_writes_the_same_rows_as_python(
    sql: Connection,
    url: str,
    cosine: str,
    calibration: Calibration,
    vectors: Vectors,
    name: str,
    rescore: Any,
    prefilter: Any,
) -> None:
    sql.execute("SELECT qvec.create_collection(%s, %s, %s, %s)", [name, cosine, rescore, prefilter])
    insert_rows(sql, name, vectors[:60])
    with qvec.connect(url) as db:
        python_collection = db.create_collection(
            name + "_py", calibration=calibration, rescore=rescore, prefilter=prefilter
        )
        python_collection.upsert(
            range(60), vectors[:60], [f"note {n}" for n in range(60)], [{"n": n} for n in range(60)]
        )
        columns = "id, codes, document, metadata" + (", embedding" if rescore.startswith("float") else "")
        statement = composing.SQL("SELECT count(*) FROM (SELECT {0} FROM {1} EXCEPT SELECT {0} FROM {2}) AS d").format(
            composing.SQL(columns), composing.Identifier(name), composing.Identifier(name + "_py")
        )
        assert sql.execute(statement).fetchone() == (0,)
        sql_collection = db.collection(name)
        sql_collection.build_index()
        for query in vectors[60:65]:
            assert [hit.id for hit in sql_collection.search(query)] == [
                hit.id for hit in python_collection.search(query)
            ]
        # SQL finds the rows that Python writes to a collection created by SQL.
        sql_collection.upsert([1000], vectors[999:], ["from Python"])
    found = sql.execute(
        "SELECT id, document FROM qvec.search(%s, %s::vector, 1)", [name, vector_text(vectors[999])]
    ).fetchall()
    assert found == [("1000", "from Python")]


def test_update_and_upsert(sql: Connection, cosine: str, vectors: Vectors, name: str) -> None:
    sql.execute("SELECT qvec.create_collection(%s, %s)", [name, cosine])
    insert_rows(sql, name, vectors[:1])
    table = composing.Identifier(name)

    def codes() -> str:
        row = sql.execute(
            composing.SQL("SELECT codes::text FROM {} WHERE embedding_in IS NULL").format(table)
        ).fetchall()
        assert len(row) == 1
        return str(row[0][0])

    first = codes()
    sql.execute(composing.SQL("UPDATE {} SET document = 'changed'").format(table))
    assert codes() == first
    sql.execute(composing.SQL("UPDATE {} SET embedding_in = %s::vector").format(table), [vector_text(vectors[1])])
    assert codes() != first
    sql.execute(
        composing.SQL(
            "INSERT INTO {} (id, embedding_in) VALUES (0, %s::vector)"
            " ON CONFLICT (id) DO UPDATE SET codes = excluded.codes"
        ).format(table),
        [vector_text(vectors[0])],
    )
    assert codes() == first


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ("[1,2,3]", "the vector has 3 dimensions, expected 64"),
        ("[" + ",".join(["0"] * 64) + "]", "zero vector, which has no direction under cosine"),
        ("[" + ",".join(["NaN"] * 64) + "]", "NaN not allowed in vector"),
        (None, 'null value in column "codes" of relation'),
    ],
)
def test_invalid_vectors_are_errors(sql: Connection, cosine: str, name: str, vector: str | None, message: str) -> None:
    sql.execute("SELECT qvec.create_collection(%s, %s)", [name, cosine])
    with pytest.raises(psycopg.Error) as caught:
        sql.execute(
            composing.SQL("INSERT INTO {} (id, embedding_in) VALUES (1, %s::vector)").format(
                composing.Identifier(name)
            ),
            [vector],
        )
    assert str(caught.value.diag.message_primary).startswith(message)


def test_accept_vectors_allows_insert_into_a_python_collection(
    sql: Connection, url: str, calibration: Calibration, vectors: Vectors, name: str
) -> None:
    with qvec.connect(url) as db:
        docs = db.create_collection(name, calibration=calibration, id_type="text")
        docs.upsert(["a", "b"], vectors[:2])
        sql.execute("SELECT qvec.accept_vectors(%s)", [name])
        sql.execute("SELECT qvec.accept_vectors(%s)", [name])
        sql.execute(
            composing.SQL("INSERT INTO {} (id, embedding_in) VALUES ('c', %s::vector)").format(
                composing.Identifier(name)
            ),
            [vector_text(vectors[2])],
        )
        docs.upsert(["d"], vectors[3:4])
        assert [docs.search(v, k=1)[0].id for v in vectors[:4]] == list("abcd")


def test_collections_view(sql: Connection, url: str, cosine: str, vectors: Vectors, name: str) -> None:
    sql.execute("SELECT qvec.create_collection(%s, %s, oversampling => 3, model => 'm')", [name, cosine])
    insert_rows(sql, name, vectors[:50])
    columns = "dimensions, rescore, prefilter, oversampling, model, calibration, attached, has_index"
    statement = f"SELECT {columns} FROM qvec.collections WHERE name = %s".encode()
    assert sql.execute(statement, [name]).fetchone() == (64, "int8", "levels6", 3.0, "m", cosine, False, False)
    sql.execute("SELECT qvec.build_index(%s)", [name])
    sql.execute(composing.SQL("ANALYZE {}").format(composing.Identifier(name)))
    rows, table, index, has_index = sql.execute(
        "SELECT rows_estimated, table_bytes, index_bytes, has_index FROM qvec.collections WHERE name = %s", [name]
    ).fetchone()  # type: ignore[misc]
    assert (rows, has_index) == (50, True)
    assert table > 0 < index
    with qvec.connect(url) as db:
        assert db.collection(name).has_index()


def test_long_names_have_the_same_index_name_as_in_python(sql: Connection, url: str, cosine: str) -> None:
    with qvec.connect(url) as db:
        for long in ("x" * 63, "é" * 31, "b" + "é" * 31, "ab" + "\U0001f600" * 15):
            sql.execute("SELECT qvec.create_collection(%s, %s)", [long, cosine])
            sql.execute("SELECT qvec.build_index(%s)", [long])
            assert db.collection(long).has_index()


def test_table_schema_follows_search_path_or_argument(
    sql: Connection, cosine: str, vectors: Vectors, name: str
) -> None:
    sql.execute('CREATE SCHEMA "My Schema"')
    sql.execute('SET search_path = "My Schema", public')
    sql.execute("SELECT qvec.create_collection(%s, %s)", [name, cosine])
    sql.execute("RESET search_path")
    sql.execute("SELECT qvec.create_collection(%s, %s, in_schema => 'My Schema')", [name + "_2", cosine])
    tables = sql.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'My Schema' ORDER BY 1").fetchall()
    assert tables == [(name,), (name + "_2",)]
    sql.execute(
        composing.SQL("INSERT INTO {} (id, embedding_in) VALUES (1, %s::vector)").format(
            composing.Identifier("My Schema", name)
        ),
        [vector_text(vectors[0])],
    )
    assert fetch_value(sql, "SELECT id FROM qvec.search(%s, %s::vector)", name, vector_text(vectors[0])) == "1"
    sql.execute("SELECT qvec.drop_collection(name) FROM qvec.collections WHERE name LIKE %s", [name + "%"])
    assert fetch_value(sql, "SELECT count(*) FROM pg_tables WHERE schemaname = 'My Schema'") == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("qvec.create_collection('', %(id)s)", "collection name '' is not 1 to 63 printable bytes without %"),
        ("qvec.create_collection('a%%b', %(id)s)", "collection name 'a%b' is not 1 to 63 printable bytes without %"),
        ("qvec.create_collection('c', 'none')", "no calibration 'none'"),
        (
            "qvec.create_collection('c', %(id)s, 'int2')",
            "rescore is 'int2', expected int10, int8, int4, binary, float16 or float32",
        ),
        (
            "qvec.create_collection('c', %(id)s, prefilter => 'x')",
            "prefilter is 'x', expected one of: binary, ternary, levels4, levels5, levels6, levels8, learned",
        ),
        (
            "qvec.create_collection('c', %(id)s, 'binary', 'ternary')",
            "prefilter is 'ternary', but rescore 'binary' keeps one bit: expected binary",
        ),
        ("qvec.create_collection('c', %(id)s, id_type => 'uuid')", "id_type is 'uuid', expected bigint or text"),
        ("qvec.create_collection('c', %(id)s, oversampling => 0.5)", "oversampling is 0.5, expected at least 1"),
        (
            "qvec.create_collection('c', %(id)s, in_schema => 'pg_catalog')",
            'permission denied to create "pg_catalog.c"',
        ),
        ("qvec.drop_collection('none')", "no collection 'none'"),
        ("qvec.build_index('none')", "no collection 'none'"),
        ("qvec.accept_vectors('none')", "no collection 'none'"),
        ("qvec.detach('here')", "collection 'here' is not an attached table; drop it with qvec.drop_collection"),
    ],
)
def test_invalid_arguments_are_errors(sql: Connection, cosine: str, call: str, message: str) -> None:
    if "here" in call:
        sql.execute("SELECT qvec.create_collection('here', %s)", [cosine])
    with pytest.raises(psycopg.Error) as caught:
        sql.execute(f"SELECT {call}".encode(), {"id": cosine})
    assert caught.value.diag.message_primary == message


def test_existing_collection_name_is_an_error(sql: Connection, cosine: str, name: str) -> None:
    sql.execute("SELECT qvec.create_collection(%s, %s)", [name, cosine])
    with pytest.raises(psycopg.Error, match=f"collection '{name}' exists already"):
        sql.execute("SELECT qvec.create_collection(%s, %s)", [name, cosine])


def test_drift_of_codes_and_of_floats(sql: Connection, name: str) -> None:
    vectors = realistic(400, 16)
    calibration = Calibration.fit(vectors, metric="ip")
    calibration_id = import_calibration(sql, calibration)
    drifted_vectors = realistic(200, 16, seed=3) + np.float32(2)
    expected = calibration.drift(drifted_vectors)
    for rescore in ("int10", "int8", "int4", "float32", "binary"):
        table = f"{name}_{rescore}"
        sql.execute("SELECT qvec.create_collection(%s, %s, %s)", [table, calibration_id, rescore])
        insert_rows(sql, table, vectors[:100])
        insert_rows(sql, table, drifted_vectors, 100)
        rows, shift, spread, balance, clipped, most_clipped = sql.execute(
            "SELECT * FROM qvec.drift(%s, 200)", [table]
        ).fetchone()  # type: ignore[misc]
        assert rows == 200
        summary = expected.summary()
        assert float(balance) == pytest.approx(summary["mean_bit_balance"], abs=1e-6)
        if rescore == "binary":
            assert clipped is None
        elif rescore == "float32":
            assert shift == pytest.approx(summary["largest_mean_shift"], rel=1e-4)
            assert spread == pytest.approx(summary["median_spread_ratio"], rel=1e-4)
            assert float(clipped) == pytest.approx(summary["mean_clip_rate"], abs=1e-6)
            assert float(most_clipped) == pytest.approx(summary["largest_clip_rate"], abs=1e-6)
        else:  # the outermost codes begin slightly within the radius
            assert summary["mean_clip_rate"] <= float(clipped) <= summary["mean_clip_rate"] + 0.05
            assert shift is None


def test_inserts_are_fast(sql: Connection, name: str) -> None:
    """pgvector's vector operations quantize 1,024 dimensions in well under a millisecond."""
    vectors = realistic(1, 1024)
    calibration_id = import_calibration(sql, Calibration.fit(realistic(20, 1024)))
    sql.execute("SELECT qvec.create_collection(%s, %s)", [name, calibration_id])
    statement = composing.SQL(
        "INSERT INTO {} (id, embedding_in) SELECT g, l2_normalize(%s::vector) FROM generate_series(%s::int, %s) g"
    )
    statement = statement.format(composing.Identifier(name))
    sql.execute(statement, [vector_text(vectors[0]), 1, 10])
    started = time.perf_counter()
    sql.execute(statement, [vector_text(vectors[0]), 11, 210])
    assert time.perf_counter() - started < 0.4
