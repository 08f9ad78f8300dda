"""The LangChain store on every database: LangChain's own tests and further ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from circle import direction
from databases import Store

from qvec import Calibration, CollectionError, InputError
from qvec.client import Collection

pytest.importorskip("langchain_core", reason="needs qvec[langchain]")
pytest.importorskip("langchain_tests", reason="needs langchain-tests")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from qvec.integrations.langchain import QvecVectorStore

MODEL = DeterministicFakeEmbedding(size=32)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.fit(np.random.default_rng(0).normal(size=(500, 6)))


@pytest.mark.anyio
class TestStandard(VectorStoreIntegrationTests):
    """All of LangChain's tests for vector stores."""

    @pytest.fixture
    def vectorstore(self, store: Store, calibration: Calibration) -> VectorStore:
        return QvecVectorStore(store.create(calibration, id_type="text"), self.get_embeddings())


class Circle(Embeddings):
    """Embeds a text that is an angle in degrees as a unit vector in that direction."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [direction(float(text)) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture(scope="module")
def circle(store: Store) -> QvecVectorStore:
    """A store with a document every 10 degrees, whose metadata holds the quarter of the circle."""
    calibration = Calibration.fit(Circle().embed_documents([str(angle) for angle in range(360)]))
    found = QvecVectorStore(store.create(calibration, id_type="text"), Circle())
    angles = range(0, 360, 10)
    found.add_texts([str(a) for a in angles], [{"quarter": a // 90} for a in angles], ids=[f"a{a}" for a in angles])
    return found


def texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]


def test_search_with_filters_and_options(circle: QvecVectorStore) -> None:
    assert texts(circle.similarity_search("41", 2)) == ["40", "50"]
    assert texts(circle.similarity_search("41", 2, filter={"quarter": 1})) == ["90", "100"]
    assert texts(circle.similarity_search("41", 1, {"quarter": {"$in": [3]}}, exact=True)) == ["350"]
    assert texts(circle.similarity_search_by_vector(Circle().embed_query("269"), 1)) == ["270"]


def test_scores_are_cosine_similarities(circle: QvecVectorStore) -> None:
    ((document, score),) = circle.similarity_search_with_score("100", 1)
    assert (document.page_content, document.id) == ("100", "a100")
    assert score == pytest.approx(1, abs=0.02)
    (_, opposite) = circle.similarity_search_with_score("100", 36)[-1]
    assert opposite == pytest.approx(-1, abs=0.02)


def test_relevance_scores_are_between_0_and_1(circle: QvecVectorStore) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = circle.similarity_search_with_relevance_scores("0", 36)
    assert [round(score, 1) for _, score in (found[0], found[17], found[-1])] == [1, 0.5, 0]
    near = circle.similarity_search_with_relevance_scores("0", 36, score_threshold=0.9)
    assert sorted(texts([document for document, _ in near]), key=int) == ["0", "10", "20", "30", "330", "340", "350"]


def test_inner_product_requires_relevance_score_fn(store: Store) -> None:
    calibration = Calibration.fit(np.eye(6) * 3, metric="ip")
    collection = store.create(calibration, id_type="text")
    model = DeterministicFakeEmbedding(size=6)
    with pytest.raises(InputError, match="which has no bounds; give relevance_score_fn"):
        QvecVectorStore(collection, model).similarity_search_with_relevance_scores("x")
    scored = QvecVectorStore(collection, model, relevance_score_fn=lambda _: 0.25)
    scored.add_texts(["x"])
    assert [score for _, score in scored.similarity_search_with_relevance_scores("x")] == [0.25]


def test_max_marginal_relevance_search(circle: QvecVectorStore) -> None:
    near = texts(circle.max_marginal_relevance_search("0", 3, fetch_k=9, lambda_mult=1))
    assert sorted(near, key=int) == ["0", "10", "350"]
    diverse = texts(circle.max_marginal_relevance_search("0", 3, fetch_k=9, lambda_mult=0.3))
    assert diverse[0] == "0"
    assert set(diverse[1:]) == {"40", "320"}
    assert len(circle.max_marginal_relevance_search("0", 25)) == 25, "the default fetch_k is 20"
    assert {d.metadata["quarter"] for d in circle.max_marginal_relevance_search("0", 3, filter={"quarter": 3})} == {3}


@pytest.mark.anyio
async def test_async_max_marginal_relevance_search(circle: QvecVectorStore) -> None:
    found = await circle.amax_marginal_relevance_search("0", 3, fetch_k=9, lambda_mult=0.3)
    assert texts(found) == texts(circle.max_marginal_relevance_search("0", 3, fetch_k=9, lambda_mult=0.3))


@pytest.mark.parametrize(
    ("search_type", "options"),
    [("similarity", {}), ("mmr", {"lambda_mult": 1.0}), ("similarity_score_threshold", {"score_threshold": 0.5})],
)
def test_retriever_with_filter(circle: QvecVectorStore, search_type: str, options: dict[str, Any]) -> None:
    retriever = circle.as_retriever(
        search_type=search_type, search_kwargs={"k": 2, "filter": {"quarter": 1}, **options}
    )
    assert texts(retriever.invoke("80")) == ["90", "100"]


@pytest.mark.anyio
async def test_async_retriever(circle: QvecVectorStore) -> None:
    assert texts(await circle.as_retriever(search_kwargs={"k": 1}).ainvoke("80")) == ["80"]


@pytest.fixture(scope="module")
def text_indexed(store: Store, circle: QvecVectorStore) -> QvecVectorStore:
    """A store with a full-text index and a document every 10 degrees."""
    store.need_ranking()
    collection = store.create(circle.collection.calibration, id_type="text")
    collection.index_texts()
    found = QvecVectorStore(collection, Circle())
    angles = range(0, 360, 10)
    found.add_texts([str(angle) for angle in angles], [{"quarter": angle // 90} for angle in angles])
    return found


@pytest.mark.anyio
async def test_hybrid_search(text_indexed: QvecVectorStore) -> None:
    assert texts(text_indexed.hybrid_search("200", 1)) == ["200"]
    assert texts(text_indexed.hybrid_search("41", 1)) == ["40"], "no text has this word"
    assert texts(text_indexed.hybrid_search("200", 1, {"quarter": 1})) == ["170"]
    assert set(texts(text_indexed.hybrid_search("200", 3, weights=(1, 0)))) == {"190", "200", "210"}
    assert texts(await text_indexed.ahybrid_search("200", 1)) == ["200"]
    options = {"k": 1, "filter": {"quarter": 1}}
    retriever = text_indexed.as_retriever(search_type="hybrid", search_kwargs=options, tags=["mine"])
    assert texts(retriever.invoke("80")) == texts(await retriever.ainvoke("80")) == ["90"]
    assert texts(retriever.invoke("80", filter={})) == ["80"]
    assert retriever.tags == ["mine"]
    assert (
        texts(text_indexed.search("41", "similarity", k=1))
        == texts(await text_indexed.asearch("41", "mmr", k=1))
        == ["40"]
    )


def test_hybrid_search_requires_full_text_index(circle: QvecVectorStore) -> None:
    with pytest.raises(InputError, match="index_texts"):
        circle.as_retriever(search_type="hybrid").invoke("80")
    with pytest.raises(ValueError, match="search_type of words not allowed"):
        circle.as_retriever(search_type="words")


def test_integer_ids_are_strings_in_langchain(store: Store, calibration: Calibration) -> None:
    model = DeterministicFakeEmbedding(size=6)
    found = QvecVectorStore(store.create(calibration), model)
    assert found.add_texts(["one", "two"], ids=["1", "-2"]) == ["1", "-2"]
    (drawn,) = found.add_texts(["three"])
    assert texts(found.get_by_ids(["-2", drawn, "5"])) == ["two", "three"]
    assert found.collection.get([1])[0].document == "one"  # type: ignore[union-attr]
    with pytest.raises(
        InputError, match=r"^id 'x' is not an integer, and collection '.+' has integer ids; use integers"
    ):
        found.add_texts(["four"], ids=["x"])


def test_invalid_arguments(circle: QvecVectorStore) -> None:
    with pytest.raises(InputError, match="delete takes the ids"):
        circle.delete()
    with pytest.raises(InputError, match="add_texts takes no batch"):
        circle.add_texts(["1"], batch=5)
    with pytest.raises(InputError, match="there are 1 metadata for 2 vectors"):
        circle.add_texts(["1", "2"], [{}])
    assert circle.add_texts([]) == []
    assert circle.collection.count() == 36
    with pytest.raises(TypeError, match="fetch"):
        circle.similarity_search("1", fetch=3)


# from_texts


@pytest.fixture
def url(store: Store, tmp_path: Path) -> str:
    return store.new_url(tmp_path)


@pytest.fixture
def created(store: Store, url: str) -> Iterator[QvecVectorStore]:
    store.fixed_name("langchain")
    with pytest.warns(UserWarning, match="made from the first 3 vectors"):
        found = QvecVectorStore.from_texts(["a", "b", "c"], MODEL, [{"n": i} for i in range(3)], db=url)
    yield found
    found.close()


def test_from_texts_creates_collection(created: QvecVectorStore, url: str) -> None:
    assert created.collection.name == "langchain"
    assert created.collection.id_type == "text"
    many = [f"text {number}" for number in range(300)]
    created.add_texts(many)
    found = [created.similarity_search_with_score(text, 1)[0] for text in many[:50]]
    assert texts([document for document, _ in found]) == many[:50]
    assert [score for _, score in found] == pytest.approx([1] * 50, abs=0.01)
    created.close()
    again = QvecVectorStore.from_texts(["d"], MODEL, db=url, ids=["id of d"])
    assert again.collection.count() == 304
    assert texts(again.similarity_search("b", 1, filter={"n": 1})) == ["b"]
    assert again.similarity_search("d", 1)[0].id == "id of d"
    again.close()


def test_from_texts_leaves_open_database_open(store: Store, calibration: Calibration) -> None:
    name = store.new_name()
    found = QvecVectorStore.from_documents(
        [Document("x", metadata={"a": 1})],
        DeterministicFakeEmbedding(size=6),
        db=store.database,
        collection=name,
        calibration=calibration,
        model="fake",
        oversampling=7.0,
    )
    found.close()
    held = store.database.collection(name)
    assert (held.calibration, held.model, held.oversampling, held.count()) == (calibration, "fake", 7, 1)
    for settings, message in (
        ({"oversampling": 8}, f"collection '{name}' was created with oversampling 7.0, not 8"),
        ({"calibration": Calibration.fit(np.eye(6))}, f"collection '{name}' has calibration {calibration.id}, not"),
    ):
        with pytest.raises(CollectionError, match=f"^{message}"):
            QvecVectorStore.from_texts(["y"], MODEL, db=store.database, collection=name, **settings)


def test_recreated_collection_is_opened_again(store: Store, calibration: Calibration) -> None:
    """A long-lived store switches to the new collection after the error about the old one."""
    name, db, model = store.new_name(), store.database, DeterministicFakeEmbedding(size=6)
    with pytest.warns(UserWarning, match="first 1 vectors"):
        found = QvecVectorStore.from_texts(["old"], model, db=db, collection=name)
    db.drop_collection(name)
    with pytest.raises(CollectionError, match="was dropped since it was opened"):
        found.similarity_search("old")
    with pytest.raises(CollectionError, match="was dropped; create it again with from_texts"):
        found.similarity_search("old")
    QvecVectorStore.from_texts(["new"], model, db=db, collection=name, calibration=calibration)
    assert texts(found.similarity_search("old")) == ["new"]


def test_from_texts_without_texts(store: Store) -> None:
    with pytest.warns(UserWarning, match="made from the first 1 vectors"):
        empty = QvecVectorStore.from_texts([], MODEL, db=store.database, collection=store.new_name())
    assert empty.similarity_search("x") == []
    empty.add_texts(["x"])
    assert texts(empty.similarity_search("x")) == ["x"]


def test_failed_from_texts_closes_database(url: str, store: Store) -> None:
    for _ in range(2):  # an embedded Qdrant can be opened once at a time
        with pytest.warns(UserWarning, match="first 1"), pytest.raises(InputError, match="2 ids for 1 vectors"):
            QvecVectorStore.from_texts(["a"], MODEL, ids=["1", "2"], db=url, collection=store.new_name())


def _type_checks(collection: Collection) -> VectorStore:
    """The store accepts a Collection (for the type checker)."""
    return QvecVectorStore(collection, MODEL)
