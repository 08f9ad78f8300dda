"""The Haystack store and retrievers on every database: Haystack's own tests and further ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anyio import create_task_group
from circle import direction
from databases import Store

from qvec import Calibration, CollectionError, InputError

pytest.importorskip("haystack", reason="needs qvec[haystack]")

from haystack import Pipeline
from haystack.dataclasses import ByteStream, Document, SparseEmbedding
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    DeleteAllTest,
    DeleteByFilterTest,
    DocumentStoreBaseTests,
)
from haystack.testing.document_store_async import (
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    WriteDocumentsAsyncTest,
)
from haystack.utils import Secret
from haystack.utils.filters import document_matches_filter
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from qvec.filters import matches, parse
from qvec.integrations.haystack import QvecDocumentStore, QvecEmbeddingRetriever, QvecHybridRetriever
from qvec.integrations.haystack.filters import convert_filters


def by_id(documents: list[Document]) -> list[Document]:
    return sorted(documents, key=lambda document: document.id)


class StoreMixin:
    """Provides the store; compares documents in any order, and embeddings at the precision of int8 or float16."""

    @pytest.fixture
    def document_store(self, empty_store: QvecDocumentStore) -> QvecDocumentStore:
        return empty_store

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        assert len(received) == len(expected)
        for found, wanted in zip(by_id(received), by_id(expected), strict=True):
            assert (found.id, found.content, found.meta) == (wanted.id, wanted.content, wanted.meta)
            assert (found.embedding is None) == (wanted.embedding is None)
            if found.embedding is not None and wanted.embedding is not None:
                a, b = np.array(found.embedding), np.array(wanted.embedding)
                assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.999


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """A calibration for the vectors in Haystack's tests."""
    return Calibration.fit(np.random.default_rng(0).uniform(size=(500, 768)))


@pytest.fixture
def empty_store(store: Store, calibration: Calibration) -> QvecDocumentStore:
    name = store.create(calibration, id_type="text").name
    return QvecDocumentStore(store.database, name, return_embedding=True)


class TestStandard(StoreMixin, DocumentStoreBaseTests, DeleteAllTest, DeleteByFilterTest, CountDocumentsByFilterTest):
    """Haystack's tests of document stores, and of the optional methods that this store has."""

    # The store has no option to recreate the index, because the collection would lose its calibration.
    test_delete_all_documents_with_recreate_index = test_delete_all_documents_without_recreate_index = None

    def test_write_documents(self, document_store: QvecDocumentStore) -> None:  # type: ignore[override]
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError, match=document.id):
            document_store.write_documents([document])


@pytest.mark.anyio
@pytest.mark.usefixtures("anyio_backend")  # anyio overlooks static methods
class TestStandardAsync(
    StoreMixin,
    CountDocumentsAsyncTest,
    WriteDocumentsAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    CountDocumentsByFilterAsyncTest,
):
    """The same tests of the async methods."""

    test_delete_all_documents_with_recreate_index_async = None
    test_delete_all_documents_without_recreate_index_async = None

    async def test_write_documents_async(self, document_store: QvecDocumentStore) -> None:
        assert await document_store.write_documents_async([Document(content="test doc")]) == 1


# Documents


def test_documents_round_trip(empty_store: QvecDocumentStore) -> None:
    written = [
        Document(content="text", meta={"a": {"b": [1, None, "ü"]}}),
        Document(blob=ByteStream(b"\x00\xff", meta={"from": "x"}, mime_type="image/png"), meta={"a": 1}),
        Document(content="both", sparse_embedding=SparseEmbedding([1, 5], [0.5, 0.25])),
    ]
    empty_store.write_documents(written)
    assert by_id(empty_store.filter_documents()) == by_id(written)


def test_repeated_id_in_one_call(empty_store: QvecDocumentStore) -> None:
    duplicates = [Document(id="1", content="a"), Document(id="1", content="b")]
    with pytest.raises(DuplicateDocumentError, match="exists already"):
        empty_store.write_documents(duplicates)
    assert empty_store.count_documents() == 0
    empty_store.write_documents(duplicates, DuplicatePolicy.OVERWRITE)
    assert [document.content for document in empty_store.filter_documents()] == ["b"]


def test_other_errors_are_not_duplicates(store: Store, empty_store: QvecDocumentStore) -> None:
    empty_store.count_documents()
    store.database.drop_collection(empty_store.collection)
    with pytest.raises(Exception, match=r"dropped|does not exist") as caught:
        empty_store.write_documents([Document(content="late")])
    assert not isinstance(caught.value, DuplicateDocumentError)


def test_delete_by_filter_requires_filter(empty_store: QvecDocumentStore) -> None:
    with pytest.raises(InputError, match=r"^delete_by_filter takes a filter"):
        empty_store.delete_by_filter({})


# Retrieval


@pytest.fixture(scope="module")
def circle(store: Store) -> QvecDocumentStore:
    """A store with documents every 10 degrees, and as many without embeddings."""
    calibration = Calibration.fit([direction(angle) for angle in range(360)])
    name = store.create(calibration, id_type="text").name
    found = QvecDocumentStore(store.database, name)
    angles = range(0, 360, 10)
    found.write_documents([Document(content=f"{a}", embedding=direction(a), meta={"quarter": a // 90}) for a in angles])
    found.write_documents([Document(content=f"no {a}", meta={"quarter": a // 90}) for a in angles])
    return found


def in_quarter(quarter: int) -> dict[str, Any]:
    return {"field": "meta.quarter", "operator": "==", "value": quarter}


def contents(documents: list[Document]) -> list[str | None]:
    return [document.content for document in documents]


def test_embedding_retrieval(circle: QvecDocumentStore) -> None:
    found = circle.embedding_retrieval(direction(41), top_k=2)
    assert contents(found) == ["40", "50"]
    assert [document.score for document in found] == pytest.approx([0.9998, 0.988], abs=0.01)
    assert found[0].embedding is None
    (found,) = circle.embedding_retrieval(direction(221), top_k=1, filters=in_quarter(0), scale_score=True)
    assert found.content == "0"
    assert found.score == pytest.approx((1 + np.cos(np.radians(139))) / 2, abs=0.01)


def test_retrieval_skips_documents_without_embedding(circle: QvecDocumentStore) -> None:
    found = circle.embedding_retrieval(direction(41), top_k=72, return_embedding=True)
    assert len(found) == 36
    assert all(document.embedding is not None for document in found)
    assert len(circle.embedding_retrieval(direction(41), top_k=72, filters=in_quarter(2))) == 9
    assert circle.count_documents() == 72


def test_retriever_in_pipeline(circle: QvecDocumentStore) -> None:
    retriever = QvecEmbeddingRetriever(document_store=circle, top_k=3, filters=in_quarter(1))
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    ran = pipeline.run({"retriever": {"query_embedding": direction(41), "top_k": 2}})
    assert contents(ran["retriever"]["documents"]) == ["90", "100"]
    assert contents(retriever.run(direction(41), filters=in_quarter(0))["documents"]) == ["40", "50", "30"]
    combined = {"operator": "AND", "conditions": [in_quarter(1), {"field": "other", "operator": "==", "value": None}]}
    merged = QvecEmbeddingRetriever(document_store=circle, filters=combined, filter_policy="merge")
    assert contents(merged.run(direction(41), top_k=1)["documents"]) == ["90"]
    missing = {"field": "meta.other", "operator": "!=", "value": None}
    assert merged.run(direction(41), filters={"operator": "AND", "conditions": [missing]}) == {"documents": []}
    with pytest.raises(ValueError, match=r"^document_store is str, expected QvecDocumentStore$"):
        QvecEmbeddingRetriever(document_store="store")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_async_retriever(circle: QvecDocumentStore) -> None:
    retriever = QvecEmbeddingRetriever(document_store=circle, top_k=1, scale_score=True)
    found = (await retriever.run_async(direction(41)))["documents"]
    assert contents(found) == ["40"]
    assert found[0].score == pytest.approx(1, abs=0.01)


def test_inner_product_scores_are_scaled(store: Store) -> None:
    name = store.create(Calibration.fit(np.eye(8) * 30, metric="ip"), id_type="text").name
    found = QvecDocumentStore(store.database, name)
    found.write_documents([Document(content="x", embedding=[20.0] * 8)])
    (document,) = found.embedding_retrieval([1.0] * 8, scale_score=True)
    assert document.score == pytest.approx(1 / (1 + np.exp(-1.6)), abs=0.02)


# Full-text search


@pytest.fixture(scope="module")
def text_indexed(store: Store, circle: QvecDocumentStore) -> QvecDocumentStore:
    """A store with a full-text index: documents every 10 degrees, and one without an embedding."""
    store.need_ranking()
    assert circle.client is not None
    collection = store.create(circle.client.calibration, id_type="text")
    collection.index_texts()
    found = QvecDocumentStore(store.database, collection.name)
    angles = range(0, 360, 10)
    found.write_documents([Document(content=f"{a}", embedding=direction(a), meta={"quarter": a // 90}) for a in angles])
    found.write_documents([Document(content="cosine")])
    return found


@pytest.mark.anyio
async def test_hybrid_retriever(text_indexed: QvecDocumentStore) -> None:
    retriever = QvecHybridRetriever(document_store=text_indexed, top_k=2)
    assert contents(retriever.run("200", direction(41))["documents"]) == ["200", "40"]
    assert contents(retriever.run("200", direction(41), alpha=1)["documents"]) == ["40", "50"]
    assert contents(retriever.run("200", direction(41), top_k=1, alpha=0)["documents"]) == ["200"]
    assert contents(retriever.run("200", direction(41), filters=in_quarter(0))["documents"]) == ["40", "50"]
    assert contents(retriever.run("cosine", direction(41))["documents"]) == ["40", "cosine"], "it has no embedding"
    assert contents((await retriever.run_async("200", direction(41)))["documents"]) == ["200", "40"]
    (best,) = await text_indexed.hybrid_retrieval_async("200", direction(200), top_k=1, return_embedding=True)
    assert best.score == pytest.approx(1 / 61)
    assert best.embedding == pytest.approx(direction(200), abs=0.01)


def test_hybrid_retrieval_errors(text_indexed: QvecDocumentStore, circle: QvecDocumentStore, url: str) -> None:
    with pytest.raises(InputError, match="index_texts"):
        circle.hybrid_retrieval("200", direction(0))
    with pytest.raises(InputError, match=r"^alpha is 2, expected 0 \(full-text search only\) to 1 \(embedding only\)$"):
        text_indexed.hybrid_retrieval("200", direction(0), alpha=2)
    missing = QvecDocumentStore(url, "not there")
    assert missing.client is None
    assert missing.hybrid_retrieval("200", direction(0)) == []
    missing.close()


def test_hybrid_retriever_serialization(url: str) -> None:
    pipeline = Pipeline()
    written = QvecHybridRetriever(document_store=QvecDocumentStore(url, "x"), top_k=3, filters=in_quarter(1), alpha=0.3)
    pipeline.add_component("retriever", written)
    reopened = Pipeline.loads(pipeline.dumps(), allowed_modules=["qvec"]).get_component("retriever")
    assert reopened.to_dict() == written.to_dict()
    assert (reopened.top_k, reopened.filters, reopened.alpha, reopened.filter_policy.value) == (
        3,
        in_quarter(1),
        0.3,
        "replace",
    )


# Filters

OPERATORS = ["==", "!=", ">", ">=", "<", "<=", "in", "not in"]
NUMBERS = st.none() | st.integers(-2, 2)
DATES = st.none() | st.sampled_from(["2020-01-01", "2020-01-01T12:00:00", "2021-06-30T00:00:00"])


@st.composite
def comparisons(draw: st.DrawFn) -> dict[str, Any]:
    field, values = draw(st.sampled_from([("number", NUMBERS), ("date", DATES)]))
    operator = draw(st.sampled_from(OPERATORS))
    value = draw(st.lists(values, max_size=3) if operator.endswith("in") else values)
    prefix = draw(st.sampled_from(["meta.", ""]))
    return {"field": prefix + field, "operator": operator, "value": value}


FILTERS = st.recursive(
    comparisons(),
    lambda parts: st.fixed_dictionaries(
        {"operator": st.sampled_from(["AND", "OR", "NOT"]), "conditions": st.lists(parts, min_size=1, max_size=3)}
    ),
    max_leaves=6,
)
META = st.fixed_dictionaries({}, optional={"number": NUMBERS, "date": DATES})


def matches_in_haystack(filters: dict[str, Any], document: Document) -> bool:
    """Evaluate a filter as Haystack's in-memory store does, and nested filters too."""
    if "field" in filters:
        return document_matches_filter(filters, document)
    parts = [matches_in_haystack(part, document) for part in filters["conditions"]]
    return {"AND": all(parts), "OR": any(parts), "NOT": not all(parts)}[filters["operator"]]


@examples(400)
@given(FILTERS, META)
def test_filters_agree_with_haystack(filters: dict[str, Any], meta: dict[str, Any]) -> None:
    assert matches(parse(convert_filters(filters)), meta) == matches_in_haystack(
        filters, Document(content="x", meta=meta)
    )


def test_empty_filters() -> None:
    assert convert_filters(None) == convert_filters({}) == {}


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"field": "content", "operator": "==", "value": "x"}, "field 'content' is not metadata; filters take meta"),
        ({"field": "meta.a", "operator": "like", "value": "x"}, "operator 'like' found, one of these wanted: ==, !="),
        ({"field": "meta.a", "operator": "==", "value": object()}, "field 'a': "),
        ({"field": 5, "operator": "==", "value": 1}, "field 5: its name is of type int, a string wanted"),
        (
            {"operator": "XOR", "conditions": []},
            "operator 'XOR' with conditions found, AND, OR, NOT with a list wanted",
        ),
        ({"operator": "AND", "conditions": "x"}, "operator 'AND' with conditions found"),
        ({"operator": "AND", "conditions": ["x"]}, "'x' found, a filter wanted"),
        ({"field": "meta.a", "operator": ">", "value": {"b": 1}}, "field 'a': {'b': 1} found, a number or a date"),
    ],
)
def test_invalid_filters(circle: QvecDocumentStore, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(FilterError) as caught:
        circle.filter_documents(filters)
    assert str(caught.value).startswith(message)


# Creation and serialization


@pytest.fixture
def url(store: Store, tmp_path: Path) -> str:
    return store.new_url(tmp_path)


@pytest.fixture
def new_store(store: Store, url: str) -> Iterator[QvecDocumentStore]:
    found = QvecDocumentStore(url, store.new_name(), oversampling=7)
    yield found
    found.close()


def test_first_documents_create_collection(new_store: QvecDocumentStore, url: str) -> None:
    name = new_store.collection
    new_store.delete_all_documents()
    new_store.delete_documents(["x"])
    assert new_store.delete_by_filter(in_quarter(0)) == new_store.count_documents_by_filter(in_quarter(0)) == 0
    assert new_store.embedding_retrieval(direction(0)) == []
    assert new_store.write_documents([]) == 0
    with pytest.raises(InputError, match=rf"^collection '{name}' cannot be created for documents without embeddings;"):
        new_store.write_documents([Document(content="no embedding")])
    with pytest.warns(UserWarning, match="made from the first 1 vectors"):
        new_store.write_documents([Document(content="no embedding"), Document(content="0", embedding=direction(0))])
    new_store.write_documents(
        [Document(content=str(angle), embedding=direction(angle)) for angle in range(10, 360, 10)]
    )
    assert contents(new_store.embedding_retrieval(direction(121), top_k=1)) == ["120"]
    new_store.close()
    reopened = QvecDocumentStore(url, name, oversampling=8)
    with pytest.raises(CollectionError, match=rf"^collection '{name}' was created with oversampling 7.0, not 8;"):
        reopened.count_documents()
    reopened.close()


@pytest.mark.anyio
async def test_concurrent_writers_open_database_once(new_store: QvecDocumentStore) -> None:
    documents = [Document(content=str(angle), embedding=direction(angle)) for angle in range(0, 360, 3)]
    with pytest.warns(UserWarning, match="made from the first 20 vectors"):
        await _write_all(new_store, [documents[start : start + 20] for start in range(0, 120, 20)])
    assert new_store.count_documents() == 120


async def _write_all(store: QvecDocumentStore, batches: list[list[Document]]) -> None:
    async with create_task_group() as group:
        for documents in batches:
            group.start_soon(_write, store, documents)


async def _write(store: QvecDocumentStore, documents: list[Document]) -> None:
    assert await store.write_documents_async(documents) == len(documents)


def test_calibration_file_allows_documents_without_embeddings(store: Store, url: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    calibration = Calibration.fit(np.eye(5))
    calibration.save(path)
    found = QvecDocumentStore(url, store.new_name(), dimensions=5, calibration=str(path))
    found.write_documents([Document(content="x")])
    assert found.embedding_retrieval([1.0] * 5) == []
    found.close()


def test_pipeline_serialization(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_URL", url)
    for db in (url, Secret.from_env_var("THE_URL")):
        settings = {"dimensions": 72, "metric": "cosine", "return_embedding": True, "oversampling": 7}
        written = QvecDocumentStore(db, store.new_name(), **settings)
        pipeline = Pipeline()
        pipeline.add_component(
            "retriever", QvecEmbeddingRetriever(document_store=written, top_k=3, filters=in_quarter(1))
        )
        reopened = Pipeline.loads(pipeline.dumps(), allowed_modules=["qvec"]).get_component("retriever")
        assert reopened.document_store.to_dict() == written.to_dict()
        assert (reopened.top_k, reopened.filters, reopened.filter_policy.value) == (3, in_quarter(1), "replace")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about few vectors, the first time
            reopened.document_store.write_documents(
                [Document(content="x", embedding=direction(100), meta={"quarter": 1})], DuplicatePolicy.OVERWRITE
            )
        assert contents(reopened.run(direction(0))["documents"]) == ["x"]
        reopened.document_store.close()


@pytest.mark.parametrize(
    "url",
    ["postgresql://user:secret@host/db", "postgresql://host/db?password=secret", "postgresql://user:a@b:c@host/db"],
)
def test_passwords_are_not_serialized(url: str) -> None:
    with pytest.raises(InputError, match=r"holds a password; give it as Secret\.from_env_var") as caught:
        QvecDocumentStore(url).to_dict()
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="token"):
        QvecDocumentStore(Secret.from_token(url)).to_dict()
    assert "user@host" in str(QvecDocumentStore("postgresql://user@host:5432/db").to_dict())


def test_unserializable_databases_raise(circle: QvecDocumentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^a store on an open database cannot be serialized"):
        circle.to_dict()
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(InputError, match=r"^the secret of the database's URL is empty"):
        QvecDocumentStore(Secret.from_env_var("NOT_THERE", strict=False)).count_documents()
