"""The contract of all stores: collections and rows. Every test runs on each available database."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import STORES, VARIABLES, Store, ids, open_store
from numpy.typing import NDArray

import qvec
from qvec import Calibration, CollectionError, InputError, RowError
from qvec.client import Collection

Vectors = NDArray[np.float32]

UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
UNUSUAL_IDS = ["", UUID, UUID.upper(), "doc:1", "1", "007", "-5", " 1", "ü/'\"\\", "zażółć 名前 🎉", "x" * 1000]


@pytest.mark.parametrize("kind", VARIABLES)
def test_servers_named_in_the_environment_are_tested(
    kind: str, tmp_path: Path, new_database: Callable[..., str]
) -> None:
    with open_store(kind, tmp_path, new_database) as server:
        assert kind in STORES
        assert server.database.kind.lower() in kind


@pytest.fixture
def docs(store: Store, calibration: Calibration) -> Collection:
    return store.create(calibration)


@pytest.fixture
def texts(store: Store, calibration: Calibration) -> Collection:
    """A collection with text ids."""
    return store.create(calibration, id_type="text")


# Collections


def test_collection_is_created_opened_and_dropped(store: Store, calibration: Calibration, vectors: Vectors) -> None:
    name = store.new_name()
    db = store.database
    assert not db.has_collection(name)
    created = db.create_collection(name, calibration=calibration, id_type="text", oversampling=2.5, model="m")
    assert db.has_collection(name)
    for docs in (created, db.collection(name), *(found for found in db.collections() if found.name == name)):
        assert (docs.name, docs.id_type, docs.oversampling, docs.model) == (name, "text", 2.5, "m")
        assert docs.calibration == calibration
    created.upsert(["old"], vectors[:1])
    with pytest.raises(CollectionError, match=rf"^collection '{name}' exists already$"):
        db.create_collection(name, calibration=calibration)
    db.drop_collection(name)
    assert not db.has_collection(name)
    assert name not in [found.name for found in db.collections()]
    for use in (created.count, created.info, created.scroll, lambda: created.delete(["1"]), lambda: created.get(["1"])):
        with pytest.raises(CollectionError, match=f"^collection '{name}' was dropped since it was opened; open it ag"):
            use()
    again = db.create_collection(name, calibration=Calibration.fit(vectors, dimensions=32))
    assert (again.count(), again.id_type) == (0, "bigint")
    again.upsert([1], vectors[:1])
    assert ids(again.search(vectors[0])) == [1]


def test_handle_to_a_recreated_collection_writes_nothing(
    store: Store, calibration: Calibration, vectors: Vectors
) -> None:
    name, db = store.new_name(), store.database
    old = db.create_collection(name, calibration=calibration)
    db.drop_collection(name)
    with pytest.raises(CollectionError, match=f"^collection '{name}' was dropped since it was opened; open it again"):
        old.upsert([1], vectors[:1])
    new = db.create_collection(name, calibration=Calibration.fit(vectors, threshold=0))
    with pytest.raises(CollectionError, match="was dropped and created again since it was opened; open it again"):
        old.upsert([1], vectors[:1])
    assert new.count() == 0
    assert new.upsert([1], vectors[:1]) == 1


def test_handle_to_a_recreated_collection_reads_nothing(
    store: Store, calibration: Calibration, vectors: Vectors
) -> None:
    """The new collection has the same ids, but another calibration."""
    name, db = store.new_name(), store.database
    old: Any = db.create_collection(name, calibration=calibration)
    old.upsert(range(50), vectors[:50])
    assert len(old.search(vectors[0], 5)) == 5
    db.drop_collection(name)
    new = db.create_collection(name, calibration=Calibration.fit(vectors, threshold=0))
    new.upsert(range(50), vectors[:50])
    for read in (
        lambda: old.search(vectors[0], 5),
        lambda: old.search(vectors[:2], 5, exact=True),
        lambda: old.vectors([1]),
        lambda: next(old.iter_rows(0, 10)),
        lambda: old.explain(vectors[0]),
    ):
        with pytest.raises(CollectionError, match="was dropped and created again since it was opened; open it again"):
            read()
    assert ids(db.collection(name).search(vectors[3], 1)) == [3]


@pytest.mark.parametrize("is_recreated", [False, True])
def test_async_handle_to_a_dropped_or_recreated_collection_reads_nothing(
    store: Store, calibration: Calibration, vectors: Vectors, is_recreated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if another client dropped or created it: a handle checks the active version every few seconds."""
    monkeypatch.setattr("qvec.qdrant.version_record.LOOK_SECONDS", 0.0)
    name, db = store.new_name(), store.database
    db.create_collection(name, calibration=calibration).upsert(range(50), vectors[:50])

    async def read() -> None:
        async with await qvec.connect_async(store.url) as other:
            old = await other.collection(name)
            assert len(await old.search(vectors[0], 5)) == 5
            db.drop_collection(name)
            if is_recreated:
                other_calibration = Calibration.fit(vectors, threshold=0)
                db.create_collection(name, calibration=other_calibration).upsert(range(50), vectors[:50])
            for _ in range(2):
                with pytest.raises(
                    CollectionError, match="dropped and created again" if is_recreated else "was dropped"
                ):
                    await old.search(vectors[0], 5)

    asyncio.run(read())


def test_error_for_a_missing_collection_lists_the_existing_ones(store: Store, docs: Collection) -> None:
    for attempt in (store.database.collection, store.database.drop_collection):
        with pytest.raises(CollectionError, match=rf"^no collection 'missing' in .*; there are: .*{docs.name}"):
            attempt("missing")


@pytest.mark.parametrize("name", ["with space", 'quo"ted', "it's", "ÜNÏ ćode 名", ".hidden", "a.b-c_d", "qvec.lock"])
def test_unusual_collection_names(store: Store, calibration: Calibration, vectors: Vectors, name: str) -> None:
    if not store.accepts_quotes and '"' in name:
        pytest.skip("a Qdrant server refuses the name")
    store.fixed_name(name)
    docs = store.database.create_collection(name, calibration=calibration)
    docs.upsert([1], vectors[:1])
    assert store.database.collection(name).count() == 1
    assert name in [found.name for found in store.database.collections()]
    store.database.drop_collection(name)


@pytest.mark.parametrize("bad", ["", "x" * 64, "ä" * 32, "nul\0", "\ud800", "line\nbreak", "50%"])
def test_invalid_collection_names_are_refused(store: Store, calibration: Calibration, bad: str) -> None:
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
def test_invalid_settings_are_refused(
    store: Store, calibration: Calibration, settings: dict[str, Any], message: str
) -> None:
    name = store.new_name()
    with pytest.raises(InputError) as caught:
        store.database.create_collection(name, calibration=calibration, **settings)
    assert str(caught.value).startswith(message)
    assert not store.database.has_collection(name)


# Rows


def rows(docs: Collection, row_ids: list[Any]) -> list[tuple[Any, ...] | None]:
    """Return id, document and metadata of each row; None for a missing one."""
    found = docs.get(row_ids)
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


def test_existing_rows_are_skipped_or_refused(docs: Collection, vectors: Vectors) -> None:
    docs.upsert([1, 2], vectors[:2], ["a", "b"])
    assert docs.upsert([2, 3], vectors[2:4], ["B", "C"], on_duplicate="skip") == 1
    with pytest.raises(CollectionError, match=r"3\b.* exists already"):
        docs.upsert([4, 3], vectors[4:6], ["d", "c"], on_duplicate="error")
    assert rows(docs, [1, 2, 3, 4]) == [(1, "a", None), (2, "b", None), (3, "C", None), None]
    assert docs.upsert([4], vectors[4:5], ["d"], on_duplicate="error") == 1
    with pytest.raises(InputError, match=r"^on_duplicate is 'ignore', expected one of: replace, skip, error$"):
        docs.upsert([1], vectors[:1], on_duplicate="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(("on_duplicate", "stays"), [("replace", "last"), ("skip", "first")])
def test_repeated_ids_in_one_call(docs: Collection, vectors: Vectors, on_duplicate: Any, stays: str) -> None:
    documents = ["first", "x", "middle", "last", "y"]
    assert docs.upsert([7, 8, 7, 7, 9], vectors[:5], documents, on_duplicate=on_duplicate) == 3
    assert rows(docs, [7, 8, 9]) == [(7, stays, None), (8, "x", None), (9, "y", None)]
    nearest = docs.search(vectors[{"last": 3, "first": 0}[stays]], k=1)[0]
    assert (nearest.id, nearest.score) == (7, pytest.approx(1, abs=0.02))
    with pytest.raises(CollectionError, match=r"20\b.* exists already"):
        docs.upsert([20, 21, 20], vectors[:3], on_duplicate="error")
    assert docs.count() == 3


def test_delete_returns_the_number_of_deleted_rows(docs: Collection, vectors: Vectors) -> None:
    docs.upsert(range(10), vectors[:10])  # type: ignore[arg-type]
    assert docs.delete([3, 4, 4, 99]) == 2
    assert docs.delete([3]) == 0
    assert docs.delete([]) == 0
    assert docs.count() == 8
    assert sorted(ids(docs.search(vectors[3], k=10))) == [0, 1, 2, 5, 6, 7, 8, 9]  # type: ignore[type-var]
    docs.delete(range(10))  # type: ignore[arg-type]
    assert docs.count() == 0
    assert docs.search(vectors[3]) == []


@pytest.mark.parametrize(
    ("chosen", "where", "deleted"),
    [
        (None, {"lang": "en"}, [0, 2, 4, 6, 8]),
        (None, {"name": {"$ilike": "%ROW_1%"}}, [1]),
        ([0, 1, 2, 99], {"lang": "en"}, [0, 2]),
        ([0, 1, 2], {"name": {"$ilike": "%ROW_1%"}}, [1]),
        ([], {"lang": "en"}, []),
        ([1, 2], {}, [1, 2]),
        (None, {"lang": "fr"}, []),
    ],
)
def test_delete_rows_that_pass_a_filter(
    docs: Collection, vectors: Vectors, chosen: list[int | str] | None, where: dict[str, Any], deleted: list[int]
) -> None:
    metadata = [{"lang": ["en", "de"][row % 2], "name": f"row_{row}"} for row in range(10)]
    docs.upsert(range(10), vectors[:10], metadata=metadata)  # type: ignore[arg-type]
    assert docs.delete(chosen, filter=where) == len(deleted)
    assert ids(docs.scroll()) == [row for row in range(10) if row not in deleted]


def test_delete_without_a_choice_is_refused(docs: Collection, vectors: Vectors) -> None:
    docs.upsert(range(3), vectors[:3])  # type: ignore[arg-type]
    for where in (None, {}):
        with pytest.raises(InputError, match="delete was given neither ids nor a filter with a condition"):
            docs.delete(filter=where)
    assert docs.count() == 3


def test_calls_with_no_rows(docs: Collection) -> None:
    assert docs.upsert([], np.empty((0, 64), np.float32), [], []) == 0
    assert docs.get([]) == []
    assert docs.count() == 0
    assert not [hits for hits in docs.search(np.ones((2, 64), np.float32)) if hits]


def test_text_ids_are_returned_unchanged(texts: Collection, vectors: Vectors) -> None:
    count = len(UNUSUAL_IDS)
    assert texts.upsert(UNUSUAL_IDS, vectors[:count], UNUSUAL_IDS) == count
    texts.build_index()
    assert rows(texts, UNUSUAL_IDS) == [(id, id, None) for id in UNUSUAL_IDS]
    assert [texts.search(vectors[row], k=1)[0].id for row in range(count)] == UNUSUAL_IDS
    assert set(ids(texts.search(vectors[0], k=50, texts=False))) == set(UNUSUAL_IDS)
    assert texts.upsert(np.array(["1", "new"]), vectors[6:8]) == 2
    assert texts.upsert([UUID], vectors[8:9], ["again"]) == 1
    assert rows(texts, [UUID, UUID.upper()]) == [(UUID, "again", None), (UUID.upper(), UUID.upper(), None)]
    assert texts.delete(["", "none", UUID]) == 2
    assert texts.count() == count - 1


def test_64_bit_integer_ids(docs: Collection, vectors: Vectors) -> None:
    numbers = [0, 1, -1, -5, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
    assert docs.upsert(numbers, vectors[:8]) == 8
    assert rows(docs, numbers) == [(number, None, None) for number in numbers]
    assert [docs.search(vectors[row], k=1)[0].id for row in range(8)] == numbers
    assert set(ids(docs.search(vectors[0], k=50, texts=False))) == set(numbers)
    assert docs.upsert(np.array([-5, 3], np.int16), vectors[8:10]) == 2
    assert docs.delete([-5, -(2**63), 5]) == 2
    assert docs.count() == 7


@pytest.mark.parametrize("bad", [[1.5], ["1"], [True], [None], [2**63], [-(2**63) - 1], [2**70], [1, 2], [[1]]])
def test_invalid_integer_ids_are_refused(docs: Collection, vectors: Vectors, bad: list[Any]) -> None:
    with pytest.raises(InputError, match=r"\bids?\b"):
        docs.upsert(bad, vectors[:1])
    assert docs.count() == 0


@pytest.mark.parametrize("bad", [[1], [None], ["\ud800"], [b"bytes"], [1.5]])
def test_invalid_text_ids_are_refused(texts: Collection, vectors: Vectors, bad: list[Any]) -> None:
    with pytest.raises(InputError):
        texts.upsert(bad, vectors[:1])
    assert texts.count() == 0
    with pytest.raises(InputError):
        texts.get(bad)


def test_documents_and_metadata_are_returned_unchanged(docs: Collection, vectors: Vectors) -> None:
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


def test_nul_characters_in_texts(store: Store, docs: Collection, vectors: Vectors) -> None:
    document, value = "a\0b", {"k\0": "\0"}
    if store.accepts_nul:
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
def test_texts_that_cannot_be_stored_are_refused(
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
def test_invalid_row_is_named_and_no_row_is_written(
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
