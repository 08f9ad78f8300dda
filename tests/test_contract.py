"""What every store does alike: one body of tests, run over each database that is here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import realistic, unit
from numpy.typing import NDArray
from stores import STORES, VARIABLES, Store, opened

import qvec
from qvec import Calibration, CollectionError, Hit, InputError, QvecError, RowError
from qvec.metadata_index import MetadataIndex
from qvec.stores import Collection

Vectors = NDArray[np.float32]

UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
ODD_IDS = ["", UUID, UUID.upper(), "doc:1", "1", "007", "-5", " 1", "ü/'\"\\", "zażółć 名前 🎉", "x" * 1000]


@pytest.fixture(scope="module", params=STORES)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_database: Callable[..., str]
) -> Iterator[Store]:
    with opened(request.param, tmp_path_factory.mktemp("store"), new_database) as found:
        yield found


@pytest.mark.parametrize("kind", VARIABLES)
def test_servers_take_part_when_they_are_named(kind: str, tmp_path: Path, new_database: Callable[..., str]) -> None:
    with opened(kind, tmp_path, new_database) as server:
        assert kind in STORES
        assert server.database.kind.lower() in kind


@pytest.fixture
def docs(store: Store, calibration: Calibration) -> Collection:
    return store.create(calibration)


@pytest.fixture
def texts(store: Store, calibration: Calibration) -> Collection:
    """A collection whose ids are text."""
    return store.create(calibration, id_type="text")


@pytest.fixture(scope="module")
def filled(store: Store, vectors: Vectors, calibration: Calibration) -> Collection:
    """The thousand vectors in float16, with metadata to filter by, and their index. Only read."""
    docs = store.create(calibration, rescore="float16")
    docs.upsert(range(1000), vectors, [f"text {row}" for row in range(1000)], [metadata(row) for row in range(1000)])  # type: ignore[arg-type]
    docs.build_index()
    return docs


def metadata(row: int) -> dict[str, Any]:
    return {"row": row, "tenth": row % 10, "color": ["red", "green", "100% blue"][row % 3], "tags": [f"t{row % 7}"]}


def ids(hits: list[Hit]) -> list[int | str]:
    return [hit.id for hit in hits]


# Collections


def test_a_collection_is_created_found_and_dropped(store: Store, calibration: Calibration, vectors: Vectors) -> None:
    name = store.new_name()
    db = store.database
    assert not db.has_collection(name)
    made = db.create_collection(name, calibration=calibration, id_type="text", oversampling=2.5, model="m")
    assert db.has_collection(name)
    for docs in (made, db.collection(name), *(found for found in db.collections() if found.name == name)):
        assert (docs.name, docs.id_type, docs.oversampling, docs.model) == (name, "text", 2.5, "m")
        assert docs.calibration == calibration
    made.upsert(["old"], vectors[:1])
    with pytest.raises(CollectionError, match=rf"^collection '{name}' exists already$"):
        db.create_collection(name, calibration=calibration)
    db.drop_collection(name)
    assert not db.has_collection(name)
    assert name not in [found.name for found in db.collections()]
    with pytest.raises(QvecError, match=name):
        made.count()
    again = db.create_collection(name, calibration=Calibration.fit(vectors, dimensions=32))
    assert (again.count(), again.id_type) == (0, "bigint")
    again.upsert([1], vectors[:1])
    assert ids(again.search(vectors[0])) == [1]


def test_missing_collections_are_named_beside_those_there_are(store: Store, docs: Collection) -> None:
    for attempt in (store.database.collection, store.database.drop_collection):
        with pytest.raises(CollectionError, match=rf"^no collection 'missing' in .*; there are: .*{docs.name}"):
            attempt("missing")


@pytest.mark.parametrize("odd", ["with space", 'quo"ted', "it's", "ÜNÏ ćode 名", ".hidden", "a.b-c_d", "qvec.lock"])
def test_names_of_many_kinds(store: Store, calibration: Calibration, vectors: Vectors, odd: str) -> None:
    if store.kind == "qdrant-server":
        pytest.skip("a collection of this name may be there")
    store.created.add(odd)
    docs = store.database.create_collection(odd, calibration=calibration)
    docs.upsert([1], vectors[:1])
    assert store.database.collection(odd).count() == 1
    assert odd in [found.name for found in store.database.collections()]
    store.database.drop_collection(odd)


@pytest.mark.parametrize("bad", ["", "x" * 64, "ä" * 32, "nul\0", "\ud800", "line\nbreak", "50%"])
def test_names_that_no_database_has(store: Store, calibration: Calibration, bad: str) -> None:
    with pytest.raises(CollectionError, match=r"^collection name .* (has \d+ bytes|holds % or a character)"):
        store.database.create_collection(bad, calibration=calibration)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rescore": "int2"}, "rescore is 'int2', expected one of: "),
        ({"prefilter": "none"}, "prefilter is 'none', expected one of: "),
        ({"id_type": "uuid"}, "id_type is 'uuid', expected one of: bigint, text"),
        ({"oversampling": 0.5}, "oversampling is 0.5, expected at least 1"),
        ({"oversampling": float("nan")}, "oversampling is nan, expected at least 1"),
    ],
)
def test_settings_that_make_no_sense(
    store: Store, calibration: Calibration, settings: dict[str, Any], message: str
) -> None:
    name = store.new_name()
    with pytest.raises(InputError) as caught:
        store.database.create_collection(name, calibration=calibration, **settings)
    assert str(caught.value).startswith(message)
    assert not store.database.has_collection(name)


def test_info_tells_what_a_collection_is(filled: Collection, calibration: Calibration) -> None:
    info = filled.info()
    assert (info.name, info.rows, info.dimensions, info.metric, info.id_type) == (
        filled.name,
        1000,
        64,
        "cosine",
        "bigint",
    )
    assert (info.rescore, info.oversampling, info.model, info.calibration) == ("float16", 4, None, calibration.id)
    assert info.index == "built"
    assert filled.has_index()
    if info.table_bytes is not None:
        assert info.table_bytes > 1000 * 64 * 2


# Rows


def rows(docs: Collection, wanted: list[Any]) -> list[tuple[Any, ...] | None]:
    """Id, document and metadata of each; None for each that is missing."""
    found = docs.get(wanted)
    assert all(math.isnan(hit.score) for hit in found if hit)
    return [hit and (hit.id, hit.document, hit.metadata) for hit in found]


def test_upsert_replaces_rows_and_adds_new_ones(docs: Collection, vectors: Vectors) -> None:
    assert docs.upsert([1, 2, 3], vectors[:3], ["a", "b", "c"], [{"n": 1}, None, {"n": 3}]) == 3
    assert docs.upsert([3, 4], vectors[10:12], ["C", None], [None, {"new": True}]) == 2
    assert docs.count() == 4
    assert rows(docs, [4, 3, 77, 2, 1, 3]) == [
        (4, None, {"new": True}),
        (3, "C", None),
        None,
        (2, "b", None),
        (1, "a", {"n": 1}),
        (3, "C", None),
    ]
    assert docs.search(vectors[10], k=1)[0].id == 3
    assert docs.search(vectors[2], k=1)[0].score < 0.999


def test_rows_that_are_there_are_skipped_or_refused(docs: Collection, vectors: Vectors) -> None:
    docs.upsert([1, 2], vectors[:2], ["a", "b"])
    assert docs.upsert([2, 3], vectors[2:4], ["B", "C"], on_duplicate="skip") == 1
    with pytest.raises(CollectionError, match=r"3\b.* is there already"):
        docs.upsert([4, 3], vectors[4:6], ["d", "c"], on_duplicate="error")
    assert rows(docs, [1, 2, 3, 4]) == [(1, "a", None), (2, "b", None), (3, "C", None), None]
    assert docs.upsert([4], vectors[4:5], ["d"], on_duplicate="error") == 1
    with pytest.raises(InputError, match=r"^on_duplicate is 'ignore', expected one of: replace, skip, error$"):
        docs.upsert([1], vectors[:1], on_duplicate="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(("on_duplicate", "stays"), [("replace", "last"), ("skip", "first")])
def test_one_id_several_times_in_a_call(docs: Collection, vectors: Vectors, on_duplicate: Any, stays: str) -> None:
    documents = ["first", "x", "middle", "last", "y"]
    assert docs.upsert([7, 8, 7, 7, 9], vectors[:5], documents, on_duplicate=on_duplicate) == 3
    assert rows(docs, [7, 8, 9]) == [(7, stays, None), (8, "x", None), (9, "y", None)]
    nearest = docs.search(vectors[{"last": 3, "first": 0}[stays]], k=1)[0]
    assert (nearest.id, nearest.score) == (7, pytest.approx(1, abs=0.02))
    with pytest.raises(CollectionError, match=r"20\b.* is there already"):
        docs.upsert([20, 21, 20], vectors[:3], on_duplicate="error")
    assert docs.count() == 3


def test_delete_counts_what_was_there(docs: Collection, vectors: Vectors) -> None:
    docs.upsert(range(10), vectors[:10])  # type: ignore[arg-type]
    assert docs.delete([3, 4, 4, 99]) == 2
    assert docs.delete([3]) == 0
    assert docs.delete([]) == 0
    assert docs.count() == 8
    assert sorted(ids(docs.search(vectors[3], k=10))) == [0, 1, 2, 5, 6, 7, 8, 9]  # type: ignore[type-var]
    docs.delete(range(10))  # type: ignore[arg-type]
    assert docs.count() == 0
    assert docs.search(vectors[3]) == []


def test_no_rows_are_written_and_read(docs: Collection) -> None:
    assert docs.upsert([], np.empty((0, 64), np.float32), [], []) == 0
    assert docs.get([]) == []
    assert docs.count() == 0
    assert not [hits for hits in docs.search(np.ones((2, 64), np.float32)) if hits]


def test_text_ids_come_back_everywhere(texts: Collection, vectors: Vectors) -> None:
    count = len(ODD_IDS)
    assert texts.upsert(ODD_IDS, vectors[:count], ODD_IDS) == count
    texts.build_index()
    assert rows(texts, ODD_IDS) == [(id, id, None) for id in ODD_IDS]
    assert [texts.search(vectors[row], k=1)[0].id for row in range(count)] == ODD_IDS
    assert set(ids(texts.search(vectors[0], k=50, texts=False))) == set(ODD_IDS)
    assert texts.upsert(np.array(["1", "new"]), vectors[6:8]) == 2
    assert texts.upsert([UUID], vectors[8:9], ["again"]) == 1
    assert rows(texts, [UUID, UUID.upper()]) == [(UUID, "again", None), (UUID.upper(), UUID.upper(), None)]
    assert texts.delete(["", "none", UUID]) == 2
    assert texts.count() == count - 1


def test_integers_of_64_bits_are_ids(docs: Collection, vectors: Vectors) -> None:
    numbers = [0, 1, -1, -5, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
    assert docs.upsert(numbers, vectors[:8]) == 8
    assert rows(docs, numbers) == [(number, None, None) for number in numbers]
    assert [docs.search(vectors[row], k=1)[0].id for row in range(8)] == numbers
    assert set(ids(docs.search(vectors[0], k=50, texts=False))) == set(numbers)
    assert docs.upsert(np.array([-5, 3], np.int16), vectors[8:10]) == 2
    assert docs.delete([-5, -(2**63), 5]) == 2
    assert docs.count() == 7


@pytest.mark.parametrize("bad", [[1.5], ["1"], [True], [None], [2**63], [-(2**63) - 1], [2**70], [1, 2], [[1]]])
def test_what_is_no_integer_is_no_id(docs: Collection, vectors: Vectors, bad: list[Any]) -> None:
    with pytest.raises(InputError, match=r"\bids?\b"):
        docs.upsert(bad, vectors[:1])
    assert docs.count() == 0


@pytest.mark.parametrize("bad", [[1], [None], ["\ud800"], [b"bytes"], [1.5]])
def test_what_is_no_text_is_no_text_id(texts: Collection, vectors: Vectors, bad: list[Any]) -> None:
    with pytest.raises(InputError):
        texts.upsert(bad, vectors[:1])
    assert texts.count() == 0
    with pytest.raises(InputError):
        texts.get(bad)


def test_documents_and_metadata_come_back_as_they_were(docs: Collection, vectors: Vectors) -> None:
    documents = ["", 'it\'s "quoted" \\ \n\t\r', "zażółć 名前 🎉 \u202e", None, "x" * 1_000_000, "\\x00 %s {} $1"]
    deep: dict[str, Any] = {"end": [1]}
    for _ in range(20):
        deep = {"deeper": deep}
    values: list[dict[str, Any] | None] = [
        {},
        {"a": [1, 2.5, None, True, {"b": "it's"}], "名": "🎉", "": "", "a.b": 1, 'q"': [], "e": {}},
        None,
        {"n": 2**60, "least": -(2**63), "small": 1e-300, "large": 1e22, "tenth": 0.1, "no nul": "\\u0000"},
        {"long": "y" * 100_000},
        deep,
    ]
    docs.upsert(range(6), vectors[:6], documents, values)  # type: ignore[arg-type]
    expected = list(zip(range(6), documents, values, strict=True))
    assert rows(docs, list(range(6))) == expected
    hits = sorted(docs.search(vectors[0], k=6), key=lambda hit: hit.id)  # type: ignore[arg-type,return-value]
    assert [(hit.id, hit.document, hit.metadata) for hit in hits] == expected
    bare = docs.search(vectors[0], k=6, texts=False)
    assert {(hit.document, hit.metadata) for hit in bare} == {(None, None)}


def test_nul_in_texts(store: Store, docs: Collection, vectors: Vectors) -> None:
    document, value = "a\0b", {"k\0": "\0"}
    if store.holds_nul:
        docs.upsert([1], vectors[:1], [document], [value])
        assert rows(docs, [1]) == [(1, document, value)]
        return
    for refused in ({"documents": ["fine", document]}, {"metadata": [None, value]}):
        with pytest.raises(RowError, match=r"^row 1: "):
            docs.upsert([1, 2], vectors[:2], **refused)  # type: ignore[arg-type]
    assert docs.count() == 0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"documents": ["fine", 5]}, "row 1: document is int, expected text or None"),
        ({"documents": ["fine", "\ud83d"]}, "row 1: document holds half of a surrogate pair"),
        ({"metadata": [None, {"a": float("nan")}]}, "row 1: metadata cannot be stored as JSON"),
        ({"metadata": [None, {"a": object()}]}, "row 1: metadata cannot be stored as JSON"),
        ({"documents": ["one"]}, "there are 1 documents for 2 vectors"),
        ({"metadata": [None] * 3}, "there are 3 metadata for 2 vectors"),
    ],
)
def test_texts_that_cannot_be_stored(
    docs: Collection, vectors: Vectors, columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        docs.upsert([1, 2], vectors[:2], **columns)
    assert str(caught.value).startswith(message)
    assert docs.count() == 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"row 2: NaN at dimension 0$"),
        (np.inf, r"row 2: infinity at dimension 0$"),
        (None, r"row 2: zero vector"),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_written(
    docs: Collection, vectors: Vectors, value: float | None, message: str
) -> None:
    docs.upsert([1], vectors[:1], ["before"])
    bad = vectors[:3].copy()
    bad[2] = np.where(np.arange(64) == 0, value, 1) if value is not None else 0
    with pytest.raises(RowError, match=message):
        docs.upsert([1, 2, 3], bad, ["x", "y", "z"])
    assert rows(docs, [1, 2, 3]) == [(1, "before", None), None, None]
    with pytest.raises(InputError, match=r"^vectors: 63 dimensions found, 64 wanted$"):
        docs.upsert([1], vectors[:1, :63])


# Searches


@pytest.mark.parametrize("rescore", ["float32", "float16", "binary"])
def test_scores_are_those_of_the_specification(
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


def test_scores_of_all_stores_are_the_metric_to_float16(filled: Collection, vectors: Vectors, queries: Vectors) -> None:
    """Each store is within float16's rounding of cosine, so that no two differ by more than twice as much."""
    true = unit(queries) @ unit(vectors).T
    for line, hits in zip(true, filled.search(3.7 * queries, k=10), strict=True):
        assert np.abs(line[ids(hits)] - [hit.score for hit in hits]).max() < 5e-4
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert len(set(ids(hits))) == 10


def test_inner_products_of_vectors_of_any_length(store: Store) -> None:
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


def test_a_cut_calibration_takes_whole_and_cut_vectors(store: Store, vectors: Vectors) -> None:
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
def test_small_collections_are_found_whole(
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


def test_one_query_and_many(filled: Collection, queries: Vectors) -> None:
    many = filled.search(queries, k=3)
    assert filled.search(queries[7], k=3) == many[7]
    assert filled.search(queries[7].tolist(), k=3) == many[7]
    assert filled.search(queries[7:8], k=3) == [many[7]]
    assert filled.search(queries[:0]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"oversampling": 0.5}, "oversampling is 0.5, expected at least 1"),
        ({"oversampling": float("nan")}, "oversampling is nan"),
        ({"oversampling": float("inf")}, "oversampling is inf"),
        ({"filter": "row = 1"}, "filter is a str; expected a dict, or a"),
        ({"filter": {"row": {"$near": 1}}}, "$near"),
    ],
)
def test_searches_that_make_no_sense(
    filled: Collection, queries: Vectors, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        filled.search(queries[0], **options)
    assert message in str(caught.value)


def test_queries_that_cannot_be_compared(filled: Collection, queries: Vectors) -> None:
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
    ("filter", "passes"),
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
def test_a_filter_keeps_to_the_rows_that_pass(
    filled: Collection, vectors: Vectors, queries: Vectors, filter: dict[str, Any], passes: Callable[[Any], bool]
) -> None:
    passing = [row for row in range(1000) if passes(metadata(row))]
    scores = unit(queries[:3]) @ unit(vectors).T
    for line, hits in zip(scores, filled.search(queries[:3], k=5, filter=filter, exact=True), strict=True):
        best = sorted(passing, key=lambda row: -line[row])[:5]
        np.testing.assert_allclose(line[ids(hits)], line[best], atol=1e-3)
        assert set(ids(hits)) <= set(passing)
    for options in ({}, {"rescore": False}, {"texts": False}):
        for hits in filled.search(queries[:3], k=5, filter=filter, **options):
            assert set(ids(hits)) <= set(passing)
            assert len(hits) == min(5, len(passing))
    assert len(filled.search(queries[0], k=2000, filter=filter)) == len(passing)


@pytest.mark.parametrize("color", ["green", "100% blue"])
def test_a_filter_of_the_databases_own_client(store: Store, filled: Collection, queries: Vectors, color: str) -> None:
    native = store.native_filter("color", color)
    for options in ({}, {"exact": True}, {"rescore": False}):
        assert filled.search(queries[0], k=5, filter=native, **options) == filled.search(
            queries[0], k=5, filter={"color": color}, **options
        )
    assert len(filled.search(queries[0], k=1000, filter=native)) == 333


def test_metadata_is_indexed_and_filtered_alike(filled: Collection, queries: Vectors) -> None:
    filters: list[dict[str, Any]] = [{"tenth": 3}, {"color": "green"}, {"row": {"$lt": 20}}]
    before = [filled.search(queries[0], k=50, filter=filter, exact=True) for filter in filters]
    filled.index_metadata([MetadataIndex.parse(text) for text in ("tenth:integer", "color:keyword", "row:float")])
    assert [filled.search(queries[0], k=50, filter=filter, exact=True) for filter in filters] == before


# Many at once


def test_readers_see_whole_rows_while_a_writer_replaces(
    store: Store, vectors: Vectors, calibration: Calibration
) -> None:
    docs = store.create(calibration)
    docs.upsert(np.arange(300), vectors[:300], [f"{row} old" for row in range(300)])
    faults: list[object] = []
    stop = threading.Event()

    def read(thread: int) -> None:
        for turn in range(15):
            wanted = (37 * thread + turn) % 300
            found = docs.search(vectors[wanted], k=5)
            if found[0].id != wanted or len(found) != 5 or found[0].document.split()[0] != str(wanted):
                faults.append((wanted, found))
            if docs.count() != 300 or docs.get([wanted])[0] is None:
                faults.append(("get", wanted))

    def write() -> None:
        start = 0
        while not stop.is_set():
            batch = np.arange(start, start + 50)
            docs.upsert(batch, vectors[batch], [f"{row} new" for row in batch])
            start = (start + 50) % 300

    def guarded(work: Callable[..., None], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            try:
                work(*arguments)
            except Exception as error:
                faults.append(error)

        return run

    writer = threading.Thread(target=guarded(write))
    readers = [threading.Thread(target=guarded(read, thread)) for thread in range(6)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join(60)
    stop.set()
    writer.join(60)
    assert faults == []
    assert docs.count() == 300


# Processes

WRITER = """
import json, os, signal, sys
import numpy as np
import qvec
url, name, end = sys.argv[1:]
vectors = np.load(sys.stdin.buffer)
calibration = qvec.Calibration.fit(vectors)
db = qvec.connect(url)
docs = db.create_collection(name, calibration=calibration, id_type="text", model="m")
ids = [f"doc {row}" for row in range(len(vectors))]
docs.upsert(ids, vectors, ids, [{"row": row} for row in range(len(vectors))])
found = [[hit.id, hit.score, hit.document, hit.metadata] for hit in docs.search(vectors[3], k=5)]
print(json.dumps([calibration.id, found]), flush=True)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "closed":
    db.close()
"""


@pytest.mark.parametrize("end", ["closed", "left open", "killed"])
def test_what_another_process_wrote_is_there_after_it_ended(
    store: Store, vectors: Vectors, tmp_path: Path, end: str
) -> None:
    url, name = store.elsewhere(tmp_path), store.new_name()
    np.save(tmp_path / "vectors.npy", vectors[:200])
    command = [sys.executable, "-c", WRITER, url, name, end]
    with (tmp_path / "vectors.npy").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=60)
    assert done.returncode == (-9 if end == "killed" else 0), done.stderr
    calibration, found = json.loads(done.stdout)
    with qvec.connect(url) as db:
        docs = db.collection(name)
        assert (docs.count(), docs.id_type, docs.model, docs.calibration.id) == (200, "text", "m", calibration)
        hits = docs.search(vectors[3], k=5)
        assert [[hit.id, hit.score, hit.document, hit.metadata] for hit in hits] == found
        assert docs.upsert(["doc 3", "more"], vectors[:2]) == 2
        assert docs.count() == 201
        db.drop_collection(name)


def test_use_after_close(store: Store, calibration: Calibration, vectors: Vectors, tmp_path: Path) -> None:
    db = qvec.connect(store.elsewhere(tmp_path))
    name = store.new_name()
    docs = db.create_collection(name, calibration=calibration)
    docs.upsert([1], vectors[:1])
    db.close()
    db.close()
    if store.opens_again:
        assert docs.count() == 1
        db.close()
    else:
        uses: list[Callable[[], Any]] = [
            docs.count,
            docs.info,
            docs.build_index,
            db.collections,
            lambda: docs.search(vectors[0]),
            lambda: docs.upsert([1], vectors[:1]),
            lambda: docs.get([1]),
            lambda: docs.delete([1]),
            lambda: db.collection(name),
            lambda: db.create_collection("new", calibration=calibration),
        ]
        for use in uses:
            with pytest.raises(InputError, match=r" is closed; connect again$"):
                use()
    with qvec.connect(store.elsewhere(tmp_path) if not store.is_postgres else db._url) as again:  # type: ignore[union-attr]
        assert again.collection(name).count() == 1
        again.drop_collection(name)


# Calibrations


def test_a_collection_is_not_opened_with_another_calibration(store: Store, docs: Collection, vectors: Vectors) -> None:
    if store.is_postgres:
        pytest.skip("Postgres takes no calibration to open a collection: every one of its has its own")
    same = store.database.collection(docs.name, calibration=docs.calibration)  # type: ignore[call-arg]
    assert same.calibration == docs.calibration
    other = Calibration.fit(vectors, threshold=0)
    with pytest.raises(CollectionError, match=rf"^collection '{docs.name}' has calibration {docs.calibration.id}, not"):
        store.database.collection(docs.name, calibration=other)  # type: ignore[call-arg]
