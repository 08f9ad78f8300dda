"""SQL statements of searches: expressions equal the specification, plans use the index, every candidate is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
import specification
from conftest import realistic
from numpy.typing import NDArray
from pgvector import Bit
from psycopg import sql

import qvec
from qvec import Calibration
from qvec.client import Collection, Database
from qvec.codes import PLANES
from qvec.metadata_index import MetadataIndex
from qvec.postgres import statements
from qvec.postgres._sync import search_steps
from qvec.postgres._sync.collection import CodedTable
from qvec.postgres.layout import PgVector, Table, TableLayout
from qvec.postgres.search_plan import SearchPlan
from qvec.prefilter_levels import LEVELS
from qvec.store.requests import RescoreIn

Vectors = NDArray[np.float32]

LAYOUTS = [
    ("int10", "ternary"),
    ("int10", "levels5"),
    ("int8", "ternary"),
    ("int8", "binary"),
    ("int4", "ternary"),
    ("int4", "binary"),
    ("float16", "ternary"),
    ("float16", "binary"),
    ("float32", "ternary"),
    ("float32", "binary"),
    ("int8", "levels4"),
    ("int8", "levels6"),
    ("int4", "levels8"),
    ("float16", "levels5"),
]


@pytest.fixture(scope="module")
def connection(db: Database) -> Iterator[psycopg.Connection]:
    db.install()
    with db.store.direct_connection() as connection:
        yield connection


def bit_text(row: NDArray[np.uint8]) -> str:
    """Return the bits of a row of bytes as text."""
    return "".join(map(str, np.unpackbits(row)))


# Expressions


@pytest.mark.sampled(5)
@pytest.mark.parametrize("dimensions", [1, 6, 7, 8, 384, 1000])
@pytest.mark.parametrize("prefilter", LEVELS)
def test_prefilter_expression_equals_specification(
    connection: psycopg.Connection, dimensions: int, prefilter: Any
) -> None:
    thresholds = np.array(specification.THRESHOLDS[LEVELS[prefilter]], np.uint8)[:, None]
    edges = np.concatenate([thresholds, thresholds - 1]).repeat(dimensions, axis=1)
    codes = np.random.default_rng(dimensions).integers(0, 256, (20, dimensions), dtype=np.uint8)
    codes = np.concatenate([codes, edges])
    for rescore, planes in PLANES.items():
        if planes < 4:
            continue
        layout = TableLayout(dimensions, rescore=rescore, prefilter=prefilter)  # type: ignore[arg-type]
        expression = statements.prefilter(Table("public", "t", layout, PgVector("public", (0, 8, 5))))
        statement = sql.SQL("SELECT {}::text FROM (SELECT %s::bit({}) AS codes) AS t").format(
            expression, sql.Literal(layout.code_bits)
        )
        levels = specification.levels(codes, LEVELS[prefilter])
        stored = codes.astype(np.uint16) << 2 if planes > 8 else codes
        for row, expected in zip(specification.to_planes(stored, planes), levels, strict=True):
            assert connection.execute(statement, [bit_text(row)]).fetchone() == (bit_text(expected),)


@pytest.mark.parametrize("dimensions", [1, 7, 64])
@pytest.mark.parametrize("share", [0, 0.5])
def test_top_plane_equals_binary_quantize(connection: psycopg.Connection, dimensions: int, share: float) -> None:
    vectors = realistic(60, dimensions)
    calibration = Calibration.fit(vectors, metric="ip", threshold=share)
    edges = np.stack(
        [
            calibration.threshold,
            np.nextafter(calibration.threshold, np.float32(np.inf)),
            np.nextafter(calibration.threshold, np.float32(-np.inf)),
            calibration.threshold + calibration.radius,
            calibration.threshold - 2 * calibration.radius,
            np.zeros(dimensions, np.float32),
            np.full(dimensions, -0.0, np.float32),
            np.full(dimensions, 1e-45, np.float32),
        ]
    )
    rows = np.concatenate([vectors, edges])
    ours = qvec.quantize(rows, calibration, 1)
    for row, bits in zip(rows - calibration.threshold, ours, strict=True):
        found = connection.execute("SELECT binary_quantize(%s::vector)::text", [str(row.tolist())]).fetchone()
        assert found == (bit_text(bits)[:dimensions],)


@pytest.mark.parametrize("dimensions", [1, 7, 384])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "binary"])
def test_sql_scores_equal_client_scores(db: Database, dimensions: int, metric: str, rescore: str) -> None:
    vectors = realistic(50, dimensions)
    calibration = Calibration.fit(vectors, metric=metric)  # type: ignore[arg-type]
    docs = db.create_collection(
        f"sql_{dimensions}_{metric}_{rescore}",
        calibration=calibration,
        rescore=rescore,  # type: ignore[arg-type]
    )
    docs.upsert(range(50), vectors)  # type: ignore[arg-type]
    query = realistic(1, dimensions, seed=2)[0]
    client = {hit.id: hit.score for hit in docs.search(query, k=50)}
    in_sql = {hit.id: hit.score for hit in docs.search(query, k=50, rescore_in="sql")}
    assert client.keys() == in_sql.keys()
    size = np.linalg.norm(query) * np.linalg.norm(vectors, axis=1).max() if metric == "ip" else 1
    # The query's 13 bits are rounded less finely where few dimensions share the length.
    tolerance = 1e-4 if dimensions >= 384 else 3e-4
    assert max(abs(client[id] - in_sql[id]) for id in client) < tolerance * size


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
def test_rows_that_decode_to_zero_score_zero(db: Database, rescore_in: RescoreIn) -> None:
    """Under cosine such a row is not divided by its length."""
    ones, zeros = np.ones(20, np.float32), np.zeros(20, np.float32)
    calibration = Calibration(ones / 5, ones, ones / 5, zeros, zeros, "cosine")
    docs = db.create_collection(f"nothing_{rescore_in}", calibration=calibration, rescore="binary")
    docs.upsert([0, 1], np.array([-ones, ones]))
    assert [(hit.id, hit.score) for hit in docs.search(ones, k=2, rescore_in=rescore_in)] == [
        (1, pytest.approx(1, abs=1e-4)),
        (0, 0),
    ]


# The index and the candidates that it finds


def create_indexed_collection(db: Database, name: str, vectors: Vectors, rescore: str, prefilter: str) -> Collection:
    docs = db.create_collection(
        name,
        calibration=Calibration.fit(vectors),
        rescore=rescore,  # type: ignore[arg-type]
        prefilter=prefilter,  # type: ignore[arg-type]
    )
    docs.upsert(np.arange(len(vectors)), vectors)
    docs.build_index()
    return docs


@pytest.fixture(scope="module")
def large_collection(db: Database) -> Collection:
    """Five thousand rows in a few clusters, many of them with equal codes."""
    vectors = realistic(5000, 32)
    vectors[4000:] = vectors[:1000]
    return create_indexed_collection(db, "many", vectors, "int8", "ternary")


def prepare_queries(docs: Collection, queries: Vectors) -> Vectors:
    """Return queries (m, d) in the form that a plan takes."""
    return docs.calibration.prepared(np.atleast_2d(queries))


def plan_for(docs: Collection, candidates: int | None, k: int = 10) -> SearchPlan:
    return SearchPlan(docs.stored.table, docs.calibration, k, candidates)


@pytest.mark.parametrize(("rescore", "prefilter"), LAYOUTS)
def test_candidates_come_from_the_index(db: Database, vectors: Vectors, rescore: str, prefilter: str) -> None:
    docs = create_indexed_collection(db, f"planned_{rescore}_{prefilter}", vectors[:100], rescore, prefilter)
    plan = plan_for(docs, 40)
    query = prepare_queries(docs, vectors[0])[0]
    with db.store.direct_connection() as connection:
        connection.execute("SET enable_seqscan = off")  # a hundred short rows are sorted as fast without the index
        lines = connection.execute(b"EXPLAIN " + plan.statement(), plan.parameters(query)).fetchall()
    assert f"Index Scan using {docs.stored.table.index}" in "\n".join(line[0] for line in lines)


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
def test_planner_chooses_the_index(large_collection: Collection, rescore_in: RescoreIn) -> None:
    explanation = large_collection.explain(realistic(5000, 32)[1234], k=10, rescore_in=rescore_in)
    assert f"Index Scan using {large_collection.stored.table.index}" in "\n".join(explanation.plan)
    assert explanation.candidates == 40
    assert explanation.hits[0].id == 1234
    assert all(milliseconds >= 0 for milliseconds in explanation.milliseconds.values())


@pytest.mark.parametrize("ef_search", [1, 40, 1000])
@pytest.mark.parametrize("count", [1, 40, 400, 1000, 1001, 2500])
def test_prefilter_finds_every_candidate(
    db: Database, large_collection: Collection, ef_search: int, count: int
) -> None:
    query = prepare_queries(large_collection, realistic(1, 32, seed=3))[0]
    plan = plan_for(large_collection, count)
    settings = "SELECT current_setting('hnsw.ef_search'), current_setting('hnsw.iterative_scan')"
    with db.store.direct_connection() as connection:
        connection.execute("SELECT '[1]'::vector")  # loads pgvector, which defines the settings
        connection.execute(f"SET hnsw.ef_search = {ef_search}")
        before = connection.execute(settings).fetchone()
        (rows,) = search_steps._fetch_rows(connection, plan, query[None])
        assert len({id for id, _ in rows}) == len(rows) == count
        assert connection.execute(settings).fetchone() == before == (str(ef_search), "off")


@pytest.mark.parametrize("count", [41, 400, 1000])
def test_ef_search_suffices_without_iterative_scan(db: Database, large_collection: Collection, count: int) -> None:
    """An iterative scan would find the candidates that a small ef_search misses."""
    table = replace(
        large_collection.stored.table, vector=PgVector(large_collection.stored.table.vector.schema, (0, 7, 4))
    )
    plan = SearchPlan(table, large_collection.calibration, k=count, candidates=count)
    query = prepare_queries(large_collection, realistic(1, 32, seed=3))[0]
    with db.store.direct_connection() as connection:
        connection.execute("SET enable_seqscan = off")
        assert len(search_steps._fetch_rows(connection, plan, query[None])[0]) == count


def test_prefilter_finds_every_candidate_in_a_new_session(db: Database, large_collection: Collection) -> None:
    with db.store.direct_connection() as connection:
        query = prepare_queries(large_collection, realistic(1, 32, seed=3))[0]
        assert len(search_steps._fetch_rows(connection, plan_for(large_collection, 400), query[None])[0]) == 400


def test_candidates_are_nearest_by_hamming_distance(db: Database, large_collection: Collection) -> None:
    query = prepare_queries(large_collection, realistic(1, 32, seed=4))
    codes = qvec.quantize(
        np.vstack([realistic(5000, 32)[:4000], realistic(5000, 32)[:1000]]), large_collection.calibration
    )
    bits = qvec.ternary(codes, large_collection.calibration)
    distances = qvec.hamming(
        bits, qvec.ternary(qvec.quantize(query, large_collection.calibration), large_collection.calibration)
    )[0]
    with db.store.direct_connection() as connection:
        (rows,) = search_steps._fetch_rows(connection, plan_for(large_collection, 100), query)
    candidate_distances = np.sort(distances[[id for id, _ in rows]])
    # HNSW is approximate: the distances, not the rows (many are equal), are nearly those of an exhaustive search.
    assert (candidate_distances == np.sort(distances)[:100]).mean() > 0.95


def test_prefilter_finds_every_candidate_among_deleted_rows(db: Database) -> None:
    docs = create_indexed_collection(db, "thinned", realistic(3000, 32), "int8", "binary")
    assert docs.delete(range(0, 3000, 2)) == 1500  # type: ignore[arg-type]
    assert len(docs.search(realistic(1, 32, seed=5)[0], k=100)) == 100


@pytest.mark.usefixtures("large_collection")
def test_too_many_candidates_without_iterative_scan_rank_all_rows(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = db.collection("many")
    table = docs.stored.table
    old = replace(table, vector=replace(table.vector, version=(0, 7, 4)))
    monkeypatch.setattr(docs.stored, "_coded", CodedTable(old, docs.calibration))
    query = realistic(1, 32, seed=6)[0]
    assert docs.explain(query, k=400).candidates is None
    assert docs.explain(query, k=100).candidates == 400
    assert [hit.score for hit in docs.search(query, k=400)] == [
        hit.score for hit in docs.search(query, k=400, exact=True)
    ]


def test_query_bits_are_sent_in_binary_format(large_collection: Collection) -> None:
    parameters = plan_for(large_collection, 40).parameters(prepare_queries(large_collection, realistic(1, 32))[0])
    assert isinstance(parameters["bits"], Bit)
    assert b"%(bits)b" in plan_for(large_collection, 40).statement()


@pytest.mark.parametrize(
    ("options", "round_trips"),
    [
        ({}, ["fetch_each", "fetch"]),
        ({"texts": False}, ["fetch_each"]),
        ({"rescore_in": "sql"}, ["fetch_each"]),
        ({"candidates": None}, ["scan", "fetch"]),
    ],
)
def test_query_batch_takes_one_round_trip_plus_one_for_texts(
    db: Database,
    large_collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    round_trips: list[str],
) -> None:
    plan, queries = (
        replace(plan_for(large_collection, 40), **options),
        prepare_queries(large_collection, realistic(5, 32, seed=5)),
    )
    sent: list[str] = []

    def record_calls(name: str, send: Callable[..., Any]) -> Callable[..., Any]:
        def recorded_send(*arguments: Any, **others: Any) -> Any:
            sent.append(name)
            return send(*arguments, **others)

        return recorded_send

    for name in ("fetch", "fetch_each", "scan"):
        monkeypatch.setattr(search_steps, name, record_calls(name, getattr(search_steps, name)))
    with db.store.direct_connection() as connection:
        found = search_steps.search(connection, plan, queries)
        assert sent == round_trips
        assert found == [search_steps.search(connection, plan, query[None])[0] for query in queries]


@pytest.fixture(scope="module")
def numbered(db: Database, large_collection: Collection) -> Collection:
    """The same rows with the metadata field n, from 0 to 1, and its index."""
    docs = db.create_collection("numbered", calibration=large_collection.calibration)
    docs.upsert(range(5000), realistic(5000, 32), metadata=[{"n": n / 5000} for n in range(5000)])
    docs.index_metadata([MetadataIndex("n", "float")])
    docs.build_index()
    return docs


@pytest.mark.parametrize("share", [0.5, 0.01])
def test_plan_depends_on_the_share_of_matching_rows(db: Database, numbered: Collection, share: float) -> None:
    docs, vectors = numbered, realistic(1, 32)
    for _ in range(8):  # Postgres could switch to a generic plan from the sixth execution on
        assert len(docs.search(vectors[0], filter={"n": {"$lt": 0.9}})) == 10
    plan = "\n".join(docs.explain(vectors[0], filter={"n": {"$lt": share}}).plan)
    assert (docs.stored.table.index in plan) == (share == 0.5), plan
    with db.store.connection() as connection:
        prepared_statements = connection.execute(
            "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%0.9%'"
        )
        assert prepared_statements.fetchone() == (0,)
