"""The contract of all stores: scores, recall and filters of searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import realistic, unit
from databases import Store, ids
from numpy.typing import NDArray

from qvec import Calibration, InputError, RowError
from qvec.client import Collection
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.metadata_index import MetadataIndex

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def filled(store: Store, vectors: Vectors, calibration: Calibration) -> Collection:
    """An indexed collection of the thousand vectors in float16, with metadata. Tests only read it."""
    docs = store.create(calibration, rescore="float16")
    docs.upsert(range(1000), vectors, [f"text {row}" for row in range(1000)], [metadata(row) for row in range(1000)])  # type: ignore[arg-type]
    docs.build_index()
    return docs


def metadata(row: int) -> dict[str, Any]:
    return {"row": row, "tenth": row % 10, "color": ["red", "green", "100% blue"][row % 3], "tags": [f"t{row % 7}"]}


def test_info_describes_a_collection(filled: Collection, calibration: Calibration) -> None:
    info = filled.info()
    assert (info.name, info.rows, info.dimensions, info.metric, info.id_type) == (
        filled.name,
        1000,
        64,
        "cosine",
        "bigint",
    )
    assert (info.rescore, info.oversampling, info.model, info.calibration) == (
        "float16",
        DEFAULT_OVERSAMPLING,
        None,
        calibration.id,
    )
    assert info.index == "built"
    assert filled.has_index()
    if info.table_bytes is not None:
        assert info.table_bytes > 1000 * 64 * 2


# Searches


@pytest.mark.parametrize("rescore", ["float32", "float16", "binary"])
def test_scores_agree_with_the_specification(
    store: Store, vectors: Vectors, queries: Vectors, calibration: Calibration, rescore: str
) -> None:
    docs = store.create(calibration, rescore=rescore)
    docs.upsert(np.arange(200), vectors[:200])
    expected = store.scores(unit(queries[:9]), unit(vectors[:200]), calibration, rescore)
    for options in ({"exact": True}, {"oversampling": 20}):
        for line, hits in zip(expected, docs.search(queries[:9], k=10, **options), strict=True):  # type: ignore[arg-type]
            found = [hit.score for hit in hits]
            np.testing.assert_allclose(found, line[ids(hits)], atol=2e-6)
            np.testing.assert_allclose(found, np.sort(line)[::-1][:10], atol=2e-6)


def test_scores_equal_the_metric_to_float16(filled: Collection, vectors: Vectors, queries: Vectors) -> None:
    """Each store is within float16 rounding of the cosine, so two stores differ by at most twice that."""
    true = unit(queries) @ unit(vectors).T
    for line, hits in zip(true, filled.search(3.7 * queries, k=10), strict=True):
        assert np.abs(line[ids(hits)] - [hit.score for hit in hits]).max() < 5e-4
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert len(set(ids(hits))) == 10


def test_inner_products_of_vectors_of_different_lengths(store: Store) -> None:
    vectors = realistic(300, 40) * np.linspace(0.1, 3, 300, dtype=np.float32)[:, None]
    docs = store.create(Calibration.fit(vectors, metric="ip"), rescore="float16")
    docs.upsert(np.arange(300), vectors)
    query = realistic(1, 40, seed=1)[0]
    true = vectors @ query
    size = np.linalg.norm(query) * np.linalg.norm(vectors, axis=1).max()
    for options in ({"exact": True}, {"oversampling": 5}):
        hits = docs.search(query, k=20, **options)  # type: ignore[arg-type]
        assert np.abs(true[ids(hits)] - [hit.score for hit in hits]).max() < 1e-3 * size
    assert len(set(ids(docs.search(query, k=20, exact=True))) & set(np.argsort(-true)[:20].tolist())) >= 19
    assert [hit.score for hit in docs.search(np.zeros(40), k=3)] == [0, 0, 0]


@pytest.mark.parametrize("exponent", [-40, -1, 2, 40])
def test_length_of_a_query_only_scales_scores(store: Store, exponent: int) -> None:
    vectors = realistic(300) * np.random.default_rng(2).lognormal(0, 0.1, (300, 1)).astype(np.float32)
    docs = store.create(Calibration.fit(vectors, metric="ip"))
    docs.upsert(np.arange(300), vectors)
    docs.build_index()
    queries = realistic(20, seed=3)
    for hits, others in zip(docs.search(queries), docs.search(np.ldexp(queries, exponent)), strict=True):
        assert ids(others) == ids(hits)
        scores = np.ldexp([hit.score for hit in others], -exponent)
        np.testing.assert_allclose(scores, [hit.score for hit in hits], rtol=1e-5, atol=1e-6)


def test_matryoshka_calibration_accepts_full_and_cut_vectors(store: Store, vectors: Vectors) -> None:
    docs = store.create(Calibration.fit(vectors, dimensions=32), rescore="float16")
    docs.upsert(np.arange(100), vectors[:100])
    docs.upsert(np.arange(100, 200), vectors[100:200, :32])
    assert docs.search(vectors[7], k=5) == docs.search(vectors[7, :32], k=5)
    for row in (7, 107):
        (hit,) = docs.search(vectors[row], k=1)
        assert (hit.id, hit.score) == (row, pytest.approx(1, abs=1e-3))
    with pytest.raises(InputError, match=r"^query: 40 dimensions found, 32 or 64 wanted$"):
        docs.search(vectors[0, :40])


def test_recall_grows_with_oversampling(filled: Collection, vectors: Vectors, queries: Vectors) -> None:
    best = np.argsort(-(unit(queries) @ unit(vectors).T), axis=1)[:, :10]

    def recall(**options: Any) -> float:
        found = filled.search(queries, k=10, **options)
        return float(np.mean([np.isin(ids(hits), line).mean() for hits, line in zip(found, best, strict=True)]))

    assert recall(rescore=False) < recall() <= recall(oversampling=20)
    assert recall() > 0.9
    assert recall(oversampling=20) > 0.99
    assert recall(exact=True) > 0.99


def test_hits_without_rescoring_are_ranked_and_have_texts(filled: Collection, vectors: Vectors) -> None:
    hits = filled.search(vectors[5], k=10, rescore=False)
    assert hits[0].id == 5
    assert [hit.document for hit in hits] == [f"text {hit.id}" for hit in hits]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


@pytest.mark.parametrize("count", [0, 1, 2, 41])
def test_searches_of_small_collections_find_every_row(
    store: Store, vectors: Vectors, calibration: Calibration, count: int
) -> None:
    docs = store.create(calibration)
    docs.upsert(np.arange(count), vectors[:count])
    docs.build_index()
    for options in ({}, {"exact": True}, {"rescore": False}):
        hits = docs.search(vectors[:2], k=10, **options)
        assert [len(found) for found in hits] == [min(count, 10)] * 2
        assert all(found[0].id == query for query, found in enumerate(hits) if query < count)
    assert len(docs.search(vectors[0], k=10_000)) == count


def test_single_queries_and_batches_give_the_same_hits(filled: Collection, queries: Vectors) -> None:
    many = filled.search(queries, k=3)
    assert filled.search(queries[7], k=3) == many[7]
    assert filled.search(queries[7].tolist(), k=3) == many[7]
    assert filled.search(queries[7:8], k=3) == [many[7]]
    assert filled.search(queries[:0]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"k": -1}, "k is -1, expected at least 1"),
        ({"k": 2.5}, "k is 2.5, expected a whole number of at least 1"),
        ({"k": "3"}, "k is '3', expected a whole number of at least 1"),
        ({"k": 10**20}, "k is 100000000000000000000, expected at most 2147483647"),
        ({"oversampling": "4"}, "oversampling is '4', expected at least 1"),
        ({"oversampling": 0.5}, "oversampling is 0.5, expected at least 1"),
        ({"oversampling": float("nan")}, "oversampling is nan"),
        ({"oversampling": float("inf")}, "oversampling is inf"),
        ({"filter": "row = 1"}, "filter is a str; expected a dict, or a"),
        ({"filter": []}, "filter is a list; expected a dict, or a"),
        ({"filter": ""}, "filter is a str; expected a dict, or a"),
        ({"filter": 0}, "filter is a int; expected a dict, or a"),
        ({"filter": False}, "filter is a bool; expected a dict, or a"),
        ({"filter": {"row": {"$near": 1}}}, "$near"),
    ],
)
def test_invalid_searches_are_refused(
    filled: Collection, queries: Vectors, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        filled.search(queries[0], **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("options", [{"k": 2**31 - 1}, {"k": np.int64(2000)}, {"oversampling": 1e300}])
def test_searches_for_more_rows_than_exist(filled: Collection, queries: Vectors, options: dict[str, Any]) -> None:
    expected = filled.search(queries[0], 2000, exact=True)
    assert ids(filled.search(queries[0], **{"k": 2000, **options})) == ids(expected)


def test_invalid_queries_are_refused(filled: Collection, queries: Vectors) -> None:
    with pytest.raises(InputError, match=r"^query: 63 dimensions found, 64 wanted$"):
        filled.search(queries[:, :63])
    with pytest.raises(RowError, match=r"^query: row 0: zero vector"):
        filled.search(np.zeros(64))
    bad = queries.copy()
    bad[3, 1] = np.nan
    with pytest.raises(RowError, match=r"^query: row 3: NaN at dimension 1$"):
        filled.search(bad)


# Filters


@pytest.mark.parametrize(
    ("filter", "matches"),
    [
        ({"color": "red"}, lambda row: row["color"] == "red"),
        ({"color": "100% blue"}, lambda row: row["color"] == "100% blue"),
        ({"row": {"$gte": 990}}, lambda row: row["row"] >= 990),
        ({"row": {"$between": [5, 8]}, "color": {"$ne": "red"}}, lambda row: 5 <= row["row"] <= 8 and row["row"] % 3),
        ({"tags": {"$contains": "t3"}}, lambda row: row["tags"] == ["t3"]),
        ({"color": {"$like": "100%"}}, lambda row: row["color"] == "100% blue"),
        ({"$or": [{"row": 1}, {"tenth": 7}]}, lambda row: row["row"] == 1 or row["tenth"] == 7),
        ({"row": {"$in": []}}, lambda _: False),
        ({"missing": {"$exists": False}}, lambda _: True),
    ],
)
def test_filtered_searches_find_only_matching_rows(
    filled: Collection, vectors: Vectors, queries: Vectors, filter: dict[str, Any], matches: Callable[[Any], bool]
) -> None:
    matching_rows = [row for row in range(1000) if matches(metadata(row))]
    scores = unit(queries[:3]) @ unit(vectors).T
    for line, hits in zip(scores, filled.search(queries[:3], k=5, filter=filter, exact=True), strict=True):
        best = sorted(matching_rows, key=lambda row: -line[row])[:5]
        np.testing.assert_allclose(line[ids(hits)], line[best], atol=1e-3)
        assert set(ids(hits)) <= set(matching_rows)
    for options in ({}, {"rescore": False}, {"texts": False}):
        for hits in filled.search(queries[:3], k=5, filter=filter, **options):
            assert set(ids(hits)) <= set(matching_rows)
            assert len(hits) == min(5, len(matching_rows))
    assert len(filled.search(queries[0], k=2000, filter=filter)) == len(matching_rows)


@pytest.mark.parametrize("color", ["green", "100% blue"])
def test_native_filter_equals_a_dict_filter(store: Store, filled: Collection, queries: Vectors, color: str) -> None:
    native = store.native_filter("color", color)
    for options in ({}, {"exact": True}, {"rescore": False}):
        assert filled.search(queries[0], k=5, filter=native, **options) == filled.search(
            queries[0], k=5, filter={"color": color}, **options
        )
    assert len(filled.search(queries[0], k=1000, filter=native)) == 333


def test_metadata_indexes_do_not_change_hits(filled: Collection, queries: Vectors) -> None:
    filters: list[dict[str, Any]] = [{"tenth": 3}, {"color": "green"}, {"row": {"$lt": 20}}]
    before = [filled.search(queries[0], k=50, filter=filter, exact=True) for filter in filters]
    filled.index_metadata([MetadataIndex.parse(text) for text in ("tenth:integer", "color:keyword", "row:float")])
    assert [filled.search(queries[0], k=50, filter=filter, exact=True) for filter in filters] == before
