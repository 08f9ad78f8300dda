"""qvec.search returns the hits and scores of the Python client: with the index, any settings, filters and batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import realistic, unit
from numpy.typing import NDArray
from psycopg import sql as composing
from sql_helpers import fetch_value, import_calibration, install_schema, pack_bits, vector_text

import qvec
from qvec import Calibration
from qvec.client import Database
from qvec.codes import PLANES
from qvec.defaults import ef_search
from qvec.postgres import sql_script
from qvec.postgres.layout import TableLayout
from qvec.postgres.rows import query_bits

Connection = psycopg.Connection[Any]
Vectors = NDArray[np.float32]

ROWS = 1000
TOLERANCE = 5e-5
"""Relative to |q| |x|, for vectors of few dimensions; vectors of real models differ less."""
LAYOUTS = [
    ("int10", "ternary"),
    ("int10", "levels6"),
    ("int8", "ternary"),
    ("int8", "binary"),
    ("int4", "ternary"),
    ("binary", "binary"),
    ("float16", "ternary"),
    ("float32", "binary"),
    ("int8", "levels6"),
    ("int4", "levels8"),
    ("float16", "levels5"),
]


@pytest.fixture(scope="module")
def url(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def db(url: str, vectors: Vectors, calibration: Calibration) -> Iterator[Database]:
    """A database with one collection per layout, loaded and indexed by Python."""
    with qvec.connect(url) as db:
        for rescore, prefilter in LAYOUTS:
            docs = db.create_collection(
                f"{rescore}_{prefilter}",
                calibration=calibration,
                rescore=rescore,  # type: ignore[arg-type]
                prefilter=prefilter,  # type: ignore[arg-type]
            )
            metadata = [{"n": n, "lang": "en" if n % 10 else "de"} for n in range(ROWS)]
            docs.upsert(range(ROWS), vectors, [f"note {n}" for n in range(ROWS)], metadata)
            docs.build_index()
        yield db


@pytest.fixture(scope="module")
def sql(url: str, db: Database) -> Iterator[Connection]:
    assert db.name
    with install_schema(url) as connection:
        yield connection


def search(sql: Connection, collection: str, query: Vectors, **options: Any) -> list[tuple[Any, ...]]:
    arguments = "".join(f", {name} => %({name})s" for name in options)
    statement = f"SELECT * FROM qvec.search(%(c)s, %(q)s::vector{arguments})"
    return sql.execute(statement.encode(), {"c": collection, "q": vector_text(query), **options}).fetchall()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("rescore", "prefilter"), LAYOUTS)
def test_hits_and_scores_equal_the_client(
    sql: Connection, db: Database, queries: Vectors, rescore: str, prefilter: str
) -> None:
    docs = db.collection(f"{rescore}_{prefilter}")
    for query in queries:
        expected = docs.search(query, k=10)
        found = search(sql, docs.name, query)
        assert [row[1] for row in found] == sorted([row[1] for row in found], reverse=True)
        assert [row[1] for row in found] == pytest.approx([hit.score for hit in expected], abs=TOLERANCE)
        scores = {str(hit.id): hit for hit in expected}
        assert len(scores.keys() & {row[0] for row in found}) >= 9  # rows of equal score may swap at the end
        for id, score, document, metadata in found:
            if id in scores:
                assert score == pytest.approx(scores[id].score, abs=TOLERANCE)
                assert (document, metadata) == (scores[id].document, scores[id].metadata)


@pytest.mark.parametrize(("rescore", "prefilter"), LAYOUTS)
def test_exact_search_ranks_every_row(
    sql: Connection, db: Database, queries: Vectors, rescore: str, prefilter: str
) -> None:
    docs = db.collection(f"{rescore}_{prefilter}")
    for query in queries[:5]:
        expected = docs.search(query, k=20, exact=True)
        found = search(sql, docs.name, query, k=20, exact=True)
        assert [row[1] for row in found] == pytest.approx([hit.score for hit in expected], abs=TOLERANCE)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "binary", "float32"])
def test_scores_estimate_the_metric(sql: Connection, db: Database, name: str, metric: Any, rescore: Any) -> None:
    """Compare with the definition of the score at odd dimensions, for long, sparse, tiny and zero queries."""
    vectors = realistic(200, 13)
    calibration = Calibration.fit(vectors, metric=metric)
    docs = db.create_collection(name, calibration=calibration, rescore=rescore, prefilter="binary")
    docs.upsert(range(200), vectors)
    one_hot, zero = np.zeros((2, 13), np.float32)
    one_hot[4] = 1
    queries = [vectors[0], 1000 * vectors[1], 1e-20 * vectors[2], one_hot, *([zero] if metric == "ip" else [])]
    for query in queries:
        prepared = unit(query[None])[0] if metric == "cosine" else query
        if rescore == "float32":
            decoded = unit(vectors) if metric == "cosine" else vectors
        else:
            codes = qvec.quantize(vectors, calibration, PLANES[rescore])
            decoded = qvec.dequantize(codes, calibration)
            if metric == "cosine":
                decoded = unit(decoded)
        expected = decoded.astype(np.float64) @ prepared
        found = search(sql, name, query, k=200)
        assert len(found) == 200
        tolerance = 2 * TOLERANCE * float(np.linalg.norm(prepared) * np.linalg.norm(decoded, axis=1).max())
        for id, score, *_ in found:
            assert score == pytest.approx(expected[int(id)], abs=max(tolerance, 1e-30))


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("prefilter", ["ternary", "binary"])
def test_query_bits_equal_the_client(sql: Connection, metric: Any, prefilter: Any) -> None:
    """Queries may have any length. Under ip, every nonzero length gives the same bits."""
    calibration = Calibration.fit(3 * realistic(200, 13), metric=metric)
    id = import_calibration(sql, calibration)
    for query in realistic(20, 13, seed=4) * np.float32([[0.1], [1], [7], [100]]).repeat(5, axis=0):
        found = set()
        for length in (1, 2**-60, 2**60):
            given = np.float32(length) * query
            bits = fetch_value(
                sql, "SELECT (qvec._query(%s::vector, %s, %s, 8)).bits::text", vector_text(given), id, prefilter
            )
            expected = query_bits(calibration.prepared(given[None]), calibration, TableLayout(13, prefilter=prefilter))
            assert pack_bits(bits).tobytes() == expected.tobytes()
            found.add(bits)
        assert len(found) == 1
    if metric == "ip":
        zero = np.zeros(13, np.float32)
        assert fetch_value(sql, "SELECT (qvec._query(%s::vector, %s, %s, 8)).bits", vector_text(zero), id, prefilter)


def test_rows_that_decode_to_zero_score_zero(sql: Connection, db: Database, name: str) -> None:
    """Under cosine such a row has no length to divide by."""
    ones, zeros = np.ones(20, np.float32), np.zeros(20, np.float32)
    calibration = Calibration(ones / 5, ones, ones / 5, zeros, zeros, "cosine")
    docs = db.create_collection(name, calibration=calibration, rescore="binary")
    docs.upsert([0, 1], np.array([-ones, ones]))
    assert [row[:2] for row in search(sql, name, ones)] == [("1", pytest.approx(1, abs=1e-4)), ("0", 0)]
    codes = "SELECT qvec.score(codes, %s::vector, %s) FROM " + name + " ORDER BY id"
    found = sql.execute(codes.encode(), [vector_text(ones), calibration.id]).fetchall()
    assert found == [(0,), (pytest.approx(1, abs=1e-6),)]


def test_search_uses_the_index(sql: Connection, queries: Vectors) -> None:
    sql.execute("SET enable_seqscan = off")  # a sequential scan of so few rows would be cheaper
    for rescore, prefilter in LAYOUTS:
        collection = f"{rescore}_{prefilter}"
        plan = sql.execute(
            "SELECT * FROM qvec.explain(%s, %s::vector, 2)", [collection, vector_text(queries[0])]
        ).fetchall()
        assert any(f"Index Scan using {collection}_qvec_idx" in line for (line,) in plan), plan
    sql.execute("RESET enable_seqscan")


def test_session_settings_have_no_effect_and_are_restored(sql: Connection, queries: Vectors) -> None:
    expected = search(sql, "int8_ternary", queries[0], k=50)
    with sql.transaction():
        sql.execute("SET LOCAL hnsw.ef_search = 1")
        sql.execute("SET LOCAL hnsw.iterative_scan = off")
        sql.execute(
            "SET LOCAL extra_float_digits = -15; SET LOCAL search_path = pg_temp; SET LOCAL DateStyle = 'SQL, DMY'"
        )
        assert len(search_with_qualified_type(sql, "int8_ternary", queries[0], 50)) == 50
        assert fetch_value(sql, "SHOW hnsw.ef_search") == "1"
        assert fetch_value(sql, "SHOW hnsw.iterative_scan") == "off"
    assert search(sql, "int8_ternary", queries[0], k=50) == expected
    assert fetch_value(sql, "SHOW hnsw.ef_search") == "40"


def search_with_qualified_type(sql: Connection, collection: str, query: Vectors, k: int) -> list[tuple[Any, ...]]:
    statement = b"SELECT * FROM qvec.search(%s, %s::public.vector, %s)"
    return sql.execute(statement, [collection, vector_text(query), k]).fetchall()


def test_number_of_candidates(sql: Connection, queries: Vectors) -> None:
    few = search(sql, "int8_ternary", queries[1], k=5, candidates=5)
    many = search(sql, "int8_ternary", queries[1], k=5, candidates=500)
    every = search(sql, "int8_ternary", queries[1], k=5, exact=True)
    assert many == every
    assert few[0][1] <= many[0][1]
    assert search(sql, "int8_ternary", queries[1], k=5, oversampling=100) == every


@pytest.mark.parametrize(
    ("k", "candidates", "expected"),
    [(1, 4, 40), (3, 10, 40), (5, 10, 26), (10, 20, 25), (10, 40, 50), (1, 200, 250), (20, 20, 25), (10, 800, 1000)],
)
def test_graph_is_searched_as_wide_as_by_the_client(sql: Connection, k: int, candidates: int, expected: int) -> None:
    statement = "SELECT qvec._scan_settings(%s, %s) -> 'hnsw.ef_search'"
    assert fetch_value(sql, statement, k, candidates) == ef_search(k, candidates) == expected


def test_more_candidates_than_the_ef_search_limit(db: Database, sql: Connection, name: str) -> None:
    vectors = realistic(3000, 16)
    docs = db.create_collection(name, calibration=Calibration.fit(vectors))
    docs.upsert(range(3000), vectors)
    docs.build_index()
    assert len(search(sql, name, vectors[0], k=1500, oversampling=1)) == 1500


def test_halfvec_queries(sql: Connection, queries: Vectors) -> None:
    half = queries[0].astype(np.float16)
    found = sql.execute("SELECT id FROM qvec.search('int8_ternary', %s::halfvec)", [vector_text(half)]).fetchall()
    assert found == [row[:1] for row in search(sql, "int8_ternary", half.astype(np.float32))]


@pytest.mark.parametrize("collection", ["int8_ternary", "float16_ternary"])
def test_batch_equals_single_queries(sql: Connection, queries: Vectors, collection: str) -> None:
    rows = sql.execute(
        "SELECT * FROM qvec.search(%s, %s::vector[], 7)", [collection, [vector_text(query) for query in queries[:9]]]
    ).fetchall()
    assert [row[0] for row in rows] == [n for n in range(1, 10) for _ in range(7)]
    for n, query in enumerate(queries[:9], 1):
        assert [row[1:] for row in rows if row[0] == n] == search(sql, collection, query, k=7)


def test_small_collections_are_ranked_completely(db: Database, sql: Connection, vectors: Vectors, name: str) -> None:
    docs = db.create_collection(name, calibration=db.collection("int8_ternary").calibration)
    assert search(sql, name, vectors[0]) == []
    docs.upsert(range(30), vectors[:30])
    for indexed in (False, True):
        if indexed:
            docs.build_index()
        assert len(search(sql, name, vectors[0], k=100)) == 30
        batch = sql.execute("SELECT * FROM qvec.search(%s, %s::vector[], 100)", [name, [vector_text(vectors[0])] * 3])
        assert len(batch.fetchall()) == 90


# Filters


@pytest.mark.parametrize("collection", ["int8_ternary", "float16_ternary"])
@pytest.mark.parametrize(
    "condition",
    [{"lang": "de"}, {"n": {"$lt": 500}}, {"n": {"$in": [3, 5, 8]}}, {"lang": "fr"}, {"$not": {"lang": "en"}}, {}],
)
def test_filtered_search_equals_the_client(
    sql: Connection, db: Database, queries: Vectors, collection: str, condition: dict[str, Any]
) -> None:
    """Every matching row is found, even if only few match."""
    docs = db.collection(collection)
    found = search(sql, collection, queries[2], filter=json.dumps(condition), candidates=200)
    expected = docs.search(queries[2], k=10, exact=True, filter=condition)
    assert [row[1] for row in found] == pytest.approx([hit.score for hit in expected], abs=TOLERANCE)


def test_filtered_batch(sql: Connection, queries: Vectors) -> None:
    batch = [vector_text(query) for query in queries[:3]]
    rows = sql.execute(
        "SELECT query, metadata FROM qvec.search('int8_ternary', %s::vector[], 20, filter => '{\"lang\": \"de\"}')",
        [batch],
    ).fetchall()
    assert [row[0] for row in rows] == [1] * 20 + [2] * 20 + [3] * 20
    assert {row[1]["lang"] for row in rows} == {"de"}


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"k": None}, "k is NULL, expected at least 1"),
        ({"oversampling": 0.5}, "oversampling is 0.5, expected at least 1"),
        ({"k": 10, "candidates": 9}, "candidates is 9, expected at least k, which is 10"),
        ({"filter": '{"a": {"$near": 1}}'}, "field 'a': '$near' is not an operator"),
        ({"filter": "[]"}, "the filter: [] found, an object of fields and operators wanted"),
    ],
)
def test_invalid_options_are_errors(sql: Connection, queries: Vectors, options: dict[str, Any], message: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        search(sql, "int8_ternary", queries[0], **options)
    assert caught.value.diag.message_primary == message


@pytest.mark.parametrize("own", ["int10", "int8", "int4"])
def test_search_reads_the_length_digits_of_its_own_planes_only(sql: Connection, queries: Vectors, own: str) -> None:
    expected = search(sql, f"{own}_ternary", queries[0])
    others = [f"length_digits{planes} = NULL" for name, planes in PLANES.items() if name != own]
    with sql.transaction(force_rollback=True):
        sql.execute("ALTER TABLE qvec.calibration DISABLE TRIGGER USER")
        sql.execute(f"UPDATE qvec.calibration SET {', '.join(others)}".encode())
        assert search(sql, f"{own}_ternary", queries[0]) == expected
        sql.execute(f"UPDATE qvec.calibration SET length_digits{PLANES[own]} = NULL".encode())
        assert [score for _, score, *_ in search(sql, f"{own}_ternary", queries[0])] != [row[1] for row in expected]


def test_unknown_planes_are_an_error(sql: Connection) -> None:
    """`_search_sql` must not score an unknown precision as another one."""
    block = """
        DO $$ DECLARE layout record := qvec._layout('int4_ternary');
        BEGIN layout.planes := 2; PERFORM qvec._search_sql(layout, 10, 40, NULL); END $$"""
    with pytest.raises(psycopg.errors.CaseNotFound):
        sql.execute(block)


def test_invalid_queries_are_errors(sql: Connection, queries: Vectors) -> None:
    for query, message in (
        (queries[0, :3], "the vector has 3 dimensions, expected 64"),
        (0 * queries[0], "zero vector"),
    ):
        with pytest.raises(psycopg.Error, match=message):
            search(sql, "int8_ternary", query)
    with pytest.raises(psycopg.Error, match="the query is NULL, a vector wanted"):
        sql.execute("SELECT * FROM qvec.search('int8_ternary', NULL::vector)")
    with pytest.raises(psycopg.Error, match="no collection 'none'") as caught:
        search(sql, "none", queries[0])
    assert "int8_ternary" in str(caught.value.diag.message_hint)


# The search path


def test_hostile_search_path(sql: Connection, queries: Vectors) -> None:
    expected = search(sql, "int8_ternary", queries[0])
    sql.execute("CREATE SCHEMA evil")
    for name, arguments, result in (
        ("bit_count", "bit", "bigint"),
        ("hamming_distance", "bit, bit", "float8"),
        ("binary_quantize", "public.vector", "bit"),
        ("array_fill", "real, integer[]", "real[]"),
        ("set_config", "text, text, boolean", "text"),
    ):
        create = f"CREATE FUNCTION evil.{name}({arguments}) RETURNS {result}"
        sql.execute(f"{create} LANGUAGE sql AS 'SELECT NULL::{result}'".encode())
    sql.execute("CREATE OPERATOR evil.<~> (LEFTARG = bit, RIGHTARG = bit, FUNCTION = evil.hamming_distance)")
    sql.execute("CREATE TABLE evil.int8_ternary (id bigint)")
    sql.execute("CREATE TEMPORARY TABLE int8_ternary (id bigint)")
    try:
        sql.execute("SET search_path = evil, pg_temp, pg_catalog, public")
        assert search(sql, "int8_ternary", queries[0]) == expected
        codes = "SELECT qvec.quantize(%s::vector, calibration)::text FROM qvec.collection LIMIT 1"
        assert len(fetch_value(sql, codes, vector_text(queries[0]))) == 8 * 64
    finally:
        sql.execute("RESET search_path; DROP TABLE pg_temp.int8_ternary; DROP SCHEMA evil CASCADE")


def test_pgvector_in_a_separate_schema(
    new_database: Callable[..., str], vectors: Vectors, calibration: Calibration
) -> None:
    with psycopg.connect(new_database(), autocommit=True) as connection:
        connection.execute("CREATE SCHEMA extensions")
        connection.execute("CREATE EXTENSION vector SCHEMA extensions")
        connection.execute(sql_script.full().encode())
        import_calibration(connection, calibration)
        for rescore in ("int8", "float16"):
            connection.execute("SELECT qvec.create_collection(%s, %s, %s)", [rescore, calibration.id, rescore])
            statement = "INSERT INTO {} (id, embedding_in) VALUES (%s, %s::extensions.vector)"
            for n, vector in enumerate(vectors[:20]):
                connection.execute(
                    composing.SQL(statement).format(composing.Identifier(rescore)), [n, vector_text(vector)]
                )
            connection.execute("SELECT qvec.build_index(%s)", [rescore])
            found = fetch_value(
                connection, "SELECT id FROM qvec.search(%s, %s::extensions.vector)", rescore, vector_text(vectors[3])
            )
            assert found == "3"
