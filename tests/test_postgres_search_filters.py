"""Searches in Postgres: with filters, without rescoring, and with one stored bit per dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import specification
from conftest import realistic, unit
from numpy.typing import NDArray
from psycopg import sql

from qvec import Calibration, CalibrationError, CollectionError, InputError, codes, quantize
from qvec.client import Collection, Database

Vectors = NDArray[np.float32]

LAYOUTS = [("int8", "ternary"), ("int8", "binary"), ("binary", "binary"), ("float16", "ternary"), ("float32", "binary")]
MARKS = ["100% sure", "it's 50%s", 'a "quote"', "%(bits)s", "{} \\ ?"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"exact": True},
    {"rescore": False},
    {"rescore_in": "sql"},
    {"texts": False},
    {"oversampling": 1},
]


def metadata(row: int) -> dict[str, Any]:
    return {"row": row, "mark": MARKS[row % len(MARKS)], "rare": row % 200 == 7}


@pytest.fixture(scope="module", params=LAYOUTS, ids="-".join)
def docs(request: pytest.FixtureRequest, db: Database, vectors: Vectors, calibration: Calibration) -> Collection:
    rescore, prefilter = request.param
    docs = db.create_collection(
        f"filtered_{rescore}_{prefilter}", calibration=calibration, rescore=rescore, prefilter=prefilter
    )
    docs.upsert(np.arange(1000), vectors, [str(row) for row in range(1000)], [metadata(row) for row in range(1000)])
    docs.build_index()
    return docs


# Filters


@pytest.mark.sampled(4)
@pytest.mark.parametrize("mark", MARKS)
def test_special_characters_in_filter_values(docs: Collection, queries: Vectors, mark: str) -> None:
    composed = sql.SQL("metadata->>'mark' = {}").format(sql.Literal(mark))
    rows = set(range(MARKS.index(mark), 1000, len(MARKS)))
    for options in OPTIONS:
        hits = docs.search(queries[0], k=10, filter={"mark": mark}, **options)
        assert {hit.id for hit in hits} <= rows
        assert len(hits) == 10
        assert docs.search(queries[0], k=10, filter=composed, **options) == hits
    assert {hit.id for hit in docs.search(queries[0], k=1000, filter={"mark": mark})} == rows


def test_native_condition_is_parenthesized(docs: Collection, queries: Vectors) -> None:
    either = sql.SQL("id = 3 OR id % 500 = 4 -- 100%\n")
    for options in OPTIONS:
        assert {hit.id for hit in docs.search(queries[0], k=10, filter=either, **options)} == {3, 4, 504}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("filter", "rows"),
    [({"rare": True}, 5), ({"row": {"$lt": 30}}, 30), ({"row": 7}, 1), ({"row": -1}, 0), ({"row": {"$in": []}}, 0)],
)
def test_few_matching_rows_are_ranked_completely(
    docs: Collection, queries: Vectors, filter: dict[str, Any], rows: int
) -> None:
    """If the index scan ends before it finds them, all matching rows are ranked."""
    expected = docs.search(queries[:10], k=12, filter=filter, exact=True)
    for options in ({}, {"rescore_in": "sql"}):
        found = docs.search(queries[:10], k=12, filter=filter, **options)  # type: ignore[call-overload]
        for hits, expected_hits in zip(found, expected, strict=True):
            assert len(hits) == min(12, rows)
            np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in expected_hits], atol=2e-4)
    for hits in docs.search(queries[:10], k=12, filter=filter, rescore=False):
        assert len(hits) == min(12, rows)


def test_filter_does_not_lower_recall(docs: Collection, queries: Vectors) -> None:
    half = {"row": {"$gte": 500}}
    found = docs.search(queries, k=10, filter=half, oversampling=8)
    exact = docs.search(queries, k=10, filter=half, exact=True)
    same = [len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(found, exact, strict=True)]
    assert np.mean(same) > 0.95


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
@pytest.mark.parametrize("exact", [False, True])
def test_explain_shows_the_filter(docs: Collection, queries: Vectors, exact: bool, rescore_in: Any) -> None:
    filters: list[Any] = [{"mark": MARKS[0]}, sql.SQL("metadata->>'mark' = {}").format(sql.Literal(MARKS[0]))]
    for filter in filters:
        explanation = docs.explain(queries[0], k=5, filter=filter, exact=exact, rescore_in=rescore_in)
        assert explanation.hits == docs.search(queries[0], k=5, filter=filter, exact=exact, rescore_in=rescore_in)
        assert explanation.candidates == (None if exact else 20)
        assert "metadata" in explanation.statement
        assert any("Filter: " in line and "metadata" in line for line in explanation.plan)


def test_unsupported_filter_types_are_refused(docs: Collection, queries: Vectors) -> None:
    with pytest.raises(InputError, match=r"^filter is a str; expected a dict, or a condition of psycopg\.sql$"):
        docs.search(queries[0], filter="row = 1")  # type: ignore[call-overload]


# Without rescoring


def prefilter_codes(vectors: Vectors, calibration: Calibration, prefilter: str) -> NDArray[np.uint8]:
    """Return the specified codes of the prefilter."""
    whole = specification.codes(vectors, calibration.threshold, calibration.radius, cosine=True)
    return specification.ternary(whole) if prefilter == "ternary" else specification.to_planes(whole, 1)


def test_search_without_rescoring_orders_by_hamming_distance(
    docs: Collection, vectors: Vectors, queries: Vectors, calibration: Calibration
) -> None:
    prefilter = docs.stored.table.layout.prefilter
    distances = specification.hamming(
        prefilter_codes(vectors, calibration, prefilter), prefilter_codes(queries, calibration, prefilter)
    )
    scores = (1 - distances * (2 / docs.stored.table.layout.prefilter_bits)).astype(np.float32)
    for line, hits in zip(scores, docs.search(queries[:10], k=1000, rescore=False), strict=False):
        assert [hit.score for hit in hits] == np.sort(line)[::-1].tolist()
        assert [hit.score for hit in hits] == line[[hit.id for hit in hits]].tolist()
    for line, hits in zip(scores, docs.search(queries[:10], k=10, rescore=False, exact=True), strict=False):
        assert [hit.score for hit in hits] == np.sort(line)[::-1][:10].tolist()
    for line, hits in zip(scores, docs.search(queries[:10], k=10, rescore=False), strict=False):
        assert [hit.score for hit in hits] == line[[hit.id for hit in hits]].tolist()
        assert hits[0].score >= np.sort(line)[-5]


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_binary_scores_equal_one_plane_scores(db: Database, name: str, metric: Any) -> None:
    vectors, queries = realistic(300, 50), realistic(10, 50, seed=1)
    calibration = Calibration.fit(vectors, metric=metric)
    docs = db.create_collection(name, calibration=calibration, rescore="binary")
    docs.upsert(np.arange(300), vectors)
    docs.build_index()
    prepared = calibration.prepared(queries)
    scores = codes.score(quantize(vectors, calibration, 1), prepared, calibration, 1)
    sizes = np.abs(prepared * calibration.deviation).sum(axis=1)
    every_option: list[dict[str, Any]] = [
        {"exact": True},
        {"exact": True, "rescore_in": "sql"},
        {},
        {"rescore_in": "sql"},
    ]
    for options in every_option:
        tolerance = 2.0**-10 if "rescore_in" in options else 0
        for line, hits, size in zip(scores, docs.search(queries, k=10, **options), sizes, strict=True):
            found = line[[hit.id for hit in hits]]
            np.testing.assert_allclose([hit.score for hit in hits], found, rtol=0, atol=tolerance * size)
            if "exact" in options:
                np.testing.assert_allclose(found, np.sort(line)[::-1][:10], atol=2 * tolerance * size + 1e-12)


def test_binary_collection_finds_nearest_neighbours(
    db: Database, vectors: Vectors, queries: Vectors, name: str
) -> None:
    docs = db.create_collection(name, calibration=Calibration.fit(vectors), rescore="binary")
    docs.upsert(np.arange(1000), vectors)
    docs.build_index()
    best = np.argsort(-(unit(queries) @ unit(vectors).T), axis=1)[:, :10]
    found = docs.search(queries, k=10)
    recall = np.mean([np.isin([hit.id for hit in hits], line).mean() for hits, line in zip(found, best, strict=True)])
    assert recall > 0.65


# Damaged calibrations


def overwrite_calibration(db: Database, calibration: Calibration, content: bytes) -> None:
    """Overwrite a stored calibration as a superuser can; for everybody else a trigger refuses this."""
    with db.store.connection() as connection, connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        connection.execute("UPDATE qvec.calibration SET content = %s WHERE id = %s", [content, calibration.id])
    db.store._catalog._calibrations.clear()  # type: ignore[attr-defined]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped bit": lambda content: content[:-2] + bytes([content[-2] ^ 1]) + content[-1:],
    "missing end": lambda content: content[:-4],
    "empty": lambda _: b"",
    "changed header": lambda content: content[:8] + b"x" + content[9:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_tampered_calibration_is_refused(db: Database, vectors: Vectors, name: str, damage: str) -> None:
    calibration = Calibration.fit(vectors, model=name)
    db.create_collection(name, calibration=calibration)
    overwrite_calibration(db, calibration, DAMAGE[damage](calibration.to_bytes()))
    with pytest.raises(CalibrationError, match=f"^the calibration of collection {name!r} is "):
        db.collection(name)
    overwrite_calibration(db, calibration, Calibration.fit(vectors, model="another").to_bytes())
    with pytest.raises(CollectionError, match=f"^collection {name!r} wants calibration {calibration.id}, found "):
        db.collection(name)
    overwrite_calibration(db, calibration, calibration.to_bytes())
    assert db.collection(name).calibration == calibration
    db.drop_collection(name)
