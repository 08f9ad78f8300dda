"""The LlamaIndex store on every database: nodes, queries and filters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from circle import direction
from databases import Store
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from qvec import Calibration, InputError
from qvec.filters import matches, parse

pytest.importorskip("llama_index.core", reason="needs qvec[llama-index]")

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from qvec.integrations.llama_index import QvecVectorStore
from qvec.integrations.llama_index.filters import convert_filters


def node(angle: int, **metadata: Any) -> TextNode:
    """Return a node in a direction; its source document is the quarter of the circle."""
    return TextNode(
        id_=f"n{angle}",
        text=f"at {angle}",
        embedding=direction(angle),
        metadata={"angle": angle, **metadata},
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"quarter {angle // 90}")},
    )


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.fit([direction(angle) for angle in range(360)])


@pytest.fixture
def empty(store: Store, calibration: Calibration) -> QvecVectorStore:
    return QvecVectorStore(store.create(calibration, id_type="text"))


@pytest.fixture(scope="module")
def circle(store: Store, calibration: Calibration) -> QvecVectorStore:
    """A store with a node every 10 degrees."""
    found = QvecVectorStore(store.create(calibration, id_type="text"))
    tags = [["even"] if angle % 20 == 0 else ["odd", "rare"] for angle in range(0, 360, 10)]
    found.add([node(10 * row, tags=tags[row], name=f"Angle {10 * row}") for row in range(36)])
    return found


def query(angle: float, k: int = 2, **options: Any) -> VectorStoreQuery:
    return VectorStoreQuery(query_embedding=direction(angle), similarity_top_k=k, **options)


def metadata_filter(key: str, value: Any, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=FilterOperator(operator))])


# Nodes


@pytest.mark.parametrize(
    "written",
    [
        TextNode(text="text", metadata={"a": {"b": [1, None]}}, excluded_llm_metadata_keys=["a"], start_char_idx=3),
        IndexNode(text="index", index_id="other", metadata={}),
        ImageNode(text="", image="aGVsbG8=", image_mimetype="image/png"),
        Document(text="document", metadata={"when": "2020-01-02"}),
        TextNode(text="% ü 名前 🎉 \n", id_="5c56c793-69f3-4fbf-87e6-c4bf54c28c26"),
    ],
)
def test_nodes_round_trip(empty: QvecVectorStore, written: BaseNode) -> None:
    written.embedding = direction(1)
    assert empty.add([written]) == [written.node_id]
    (found,) = empty.get_nodes()
    written.embedding = None
    assert found.get_content() == written.get_content()
    assert found.metadata == written.metadata
    assert found.node_id == written.node_id
    if not isinstance(written, Document):  # LlamaIndex reads it back as a TextNode
        assert found == written


def test_add_replaces_nodes_with_same_id(empty: QvecVectorStore) -> None:
    empty.add([node(10), node(20)])
    empty.add([node(20, new=True)])
    assert [found.metadata.get("new") for found in empty.get_nodes(["n20", "n10", "n5"])] == [True, None]
    assert empty.add([]) == []
    with pytest.raises(ValueError, match="embedding not set"):
        empty.add([TextNode(text="no embedding")])


def test_delete(empty: QvecVectorStore) -> None:
    def remaining() -> list[int]:
        return sorted(found.metadata["angle"] for found in empty.get_nodes())

    empty.add([node(angle) for angle in (0, 10, 80, 90, 100, 200, 300)])
    empty.delete("quarter 1")
    assert remaining() == [0, 10, 80, 200, 300]
    empty.delete_nodes(["n10", "n5"])
    assert remaining() == [0, 80, 200, 300]
    empty.delete_nodes(["n0", "n80"], metadata_filter("angle", 50, ">"))
    assert remaining() == [0, 200, 300]
    empty.delete_nodes(filters=metadata_filter("angle", 200, ">="))
    assert remaining() == [0]
    with pytest.raises(InputError, match=r"^delete_nodes takes node_ids or filters; clear deletes all nodes$"):
        empty.delete_nodes()
    empty.clear()
    assert remaining() == []
    empty.add([node(5)])
    assert remaining() == [5]


def test_query_rows_written_by_qvec(store: Store, calibration: Calibration) -> None:
    collection = store.create(calibration)
    collection.upsert([7], [direction(30)], ["from elsewhere"], [{"lang": "en"}])
    found = QvecVectorStore(collection).query(query(30, 5))
    assert found.ids == ["7"]
    assert found.nodes
    assert (found.nodes[0].node_id, found.nodes[0].get_content()) == ("7", "from elsewhere")
    assert found.nodes[0].metadata == {"lang": "en"}


# Queries


def test_query(circle: QvecVectorStore) -> None:
    found = circle.query(query(41))
    assert found.ids == ["n40", "n50"]
    assert found.similarities == pytest.approx([np.cos(np.radians(1)), np.cos(np.radians(9))], abs=0.01)
    assert [n.get_content() for n in found.nodes or []] == ["at 40", "at 50"]


def test_query_with_filters_and_ids(circle: QvecVectorStore) -> None:
    assert circle.query(query(41, filters=metadata_filter("angle", 100, ">="))).ids == ["n350", "n100"]
    assert circle.query(query(41, doc_ids=["quarter 1", "quarter 2"])).ids == ["n90", "n100"]
    assert circle.query(query(41, doc_ids=["quarter 1"], filters=metadata_filter("tags", ["rare"], "any"))).ids == [
        "n90",
        "n110",
    ]
    assert circle.query(query(41, doc_ids=[])).ids == []
    restricted = circle.query(query(41, node_ids=["n200", "n90", "n5", "n150"]))
    assert restricted.ids == ["n90", "n150"]
    assert restricted.similarities == pytest.approx([np.cos(np.radians(49)), np.cos(np.radians(109))], abs=0.01)
    assert circle.query(query(41, node_ids=["n200", "n90"], filters=metadata_filter("angle", 200))).ids == ["n200"]
    assert circle.query(query(41, node_ids=["n5"])).ids == []


def test_mmr_query(circle: QvecVectorStore) -> None:
    mmr = VectorStoreQueryMode.MMR
    assert set(circle.query(query(0, 3, mode=mmr, mmr_threshold=1.0)).ids or []) == {"n0", "n10", "n350"}
    assert set(circle.query(query(0, 3, mode=mmr), mmr_threshold=0.3, mmr_prefetch_k=9).ids or []) == {
        "n0",
        "n40",
        "n320",
    }
    ids = [f"n{angle}" for angle in (0, 10, 20, 30, 40, 320, 330, 340, 350)]
    assert set(circle.query(query(0, 3, mode=mmr, node_ids=ids, mmr_threshold=0.3)).ids or []) == {"n0", "n40", "n320"}


def test_unsupported_queries_raise(circle: QvecVectorStore) -> None:
    supported = {"default", "mmr", "hybrid", "text_search"}
    for mode in set(VectorStoreQueryMode) - set(map(VectorStoreQueryMode, supported)):
        with pytest.raises(
            InputError, match=rf"^query mode '{mode.value}' is not supported; expected one of: default, mmr, "
        ):
            circle.query(query(0, mode=mode))
    with pytest.raises(InputError, match=r"^the query has no query_embedding"):
        circle.query(VectorStoreQuery())


@pytest.mark.anyio
async def test_async_methods(empty: QvecVectorStore) -> None:
    assert await empty.async_add([node(10), node(100), node(200), node(300)]) == ["n10", "n100", "n200", "n300"]
    assert (await empty.aquery(query(90))).ids == ["n100", "n10"]
    await empty.adelete("quarter 1")
    await empty.adelete_nodes(["n200"])
    assert [found.node_id for found in await empty.aget_nodes(filters=metadata_filter("angle", 10))] == ["n10"]
    await empty.aclear()
    assert await empty.aget_nodes() == []


# Filters

SHORT_TEXTS = st.text("aAb%_\\", max_size=3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "number": st.integers(0, 3),
    "text": SHORT_TEXTS,
    "list": st.lists(st.sampled_from("abc"), max_size=3),
}
OPERANDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "number": {
        **dict.fromkeys(["==", "!=", ">", "<", ">=", "<="], st.integers(0, 3)),
        **dict.fromkeys(["in", "nin"], st.lists(st.integers(0, 3))),
    },
    "text": {
        **dict.fromkeys(["==", "!=", "text_match", "text_match_insensitive"], SHORT_TEXTS),
        **dict.fromkeys(["in", "nin"], st.lists(SHORT_TEXTS)),
    },
    "list": {
        **dict.fromkeys(["any", "all"], st.lists(st.sampled_from("abcd"), min_size=1)),
        "contains": st.sampled_from("abcd"),
        "is_empty": st.none(),
    },
}
METADATA = st.fixed_dictionaries({}, optional={key: st.none() | values for key, values in VALUES.items()})


@st.composite
def leaves(draw: st.DrawFn) -> MetadataFilter:
    key = draw(st.sampled_from(sorted(OPERANDS)))
    operator = draw(st.sampled_from(sorted(OPERANDS[key])))
    return MetadataFilter(key=key, value=draw(OPERANDS[key][operator]), operator=FilterOperator(operator))


FILTERS = st.recursive(
    leaves(),
    lambda parts: st.builds(
        MetadataFilters, filters=st.lists(parts, min_size=1, max_size=3), condition=st.sampled_from(FilterCondition)
    ),
    max_leaves=6,
)


def matches_in_llama_index(filter: MetadataFilter | MetadataFilters, metadata: dict[str, Any]) -> bool:
    """Evaluate a filter as LlamaIndex's in-memory store does, and nested filters too."""
    if isinstance(filter, MetadataFilter):
        return build_metadata_filter_fn(lambda _: metadata, MetadataFilters(filters=[filter]))("")
    parts = [matches_in_llama_index(part, metadata) for part in filter.filters]
    if filter.condition is FilterCondition.NOT:
        return not any(parts)
    return any(parts) if filter.condition is FilterCondition.OR else all(parts)


def test_generated_filters_cover_every_operator() -> None:
    assert {operator for operands in OPERANDS.values() for operator in operands} == {o.value for o in FilterOperator}


@examples(400)
@given(FILTERS, METADATA)
def test_filters_agree_with_llama_index(filter: MetadataFilter | MetadataFilters, metadata: dict[str, Any]) -> None:
    filters = filter if isinstance(filter, MetadataFilters) else MetadataFilters(filters=[filter])
    assert matches(parse(convert_filters(filters)), metadata) == matches_in_llama_index(filters, metadata)


def test_empty_filters() -> None:
    no_filters = MetadataFilters(filters=[])
    assert convert_filters(None) == convert_filters(no_filters) == {}
    assert convert_filters(MetadataFilters(filters=[no_filters], condition=FilterCondition.AND)) == {}


def test_combined_filters(circle: QvecVectorStore) -> None:
    filters = MetadataFilters(
        filters=[metadata_filter("tags", "even", "contains"), metadata_filter("angle", [0, 10, 180, 190], "in")],
        condition=FilterCondition.AND,
    )
    assert sorted(n.node_id for n in circle.get_nodes(filters=filters)) == ["n0", "n180"]
    assert circle.get_nodes(["n10", "n180"], filters)[0].node_id == "n180"


LIST_OPERATORS = ("any", "all", "contains")
"""Operators on fields that hold lists."""


@pytest.mark.parametrize("operator", [operator for operator in FilterOperator if operator.value not in LIST_OPERATORS])
def test_text_operators(circle: QvecVectorStore, operator: FilterOperator) -> None:
    """The operators agree with LlamaIndex's in-memory store."""
    listed = operator in (FilterOperator.IN, FilterOperator.NIN)
    filter = metadata_filter(
        "name", ["Angle 20"] if listed else "ANGLE 2" if "text" in operator.value else "Angle 20", operator
    )
    found = circle.query(query(0, k=36, filters=filter)).nodes or []
    expected = [angle for angle in range(0, 360, 10) if matches_in_llama_index(filter, {"name": f"Angle {angle}"})]
    assert sorted(one.metadata["angle"] for one in found) == expected
    assert len(circle.get_nodes(filters=filter)) == len(expected)


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (metadata_filter("a", "x", "in"), "field 'a': in: 'x' found, a list of scalars wanted"),
        (metadata_filter("a", 5, "text_match"), "field 'a': text_match: 5 found, a text wanted"),
        (metadata_filter("a", [1], ">"), "field 'a': "),
    ],
)
def test_invalid_operands_raise(circle: QvecVectorStore, filter: MetadataFilters, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        circle.query(query(0, filters=filter))


# Full-text search


@pytest.fixture(scope="module")
def text_indexed(store: Store, calibration: Calibration) -> QvecVectorStore:
    """A store with a full-text index and a node every 10 degrees."""
    store.need_ranking()
    collection = store.create(calibration, id_type="text")
    collection.index_texts()
    found = QvecVectorStore(collection)
    found.add([node(angle) for angle in range(0, 360, 10)])
    return found


HYBRID, TEXT_SEARCH = VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.TEXT_SEARCH


def test_text_search(text_indexed: QvecVectorStore) -> None:
    text_query = VectorStoreQuery(query_str="200 or 40", similarity_top_k=5, mode=TEXT_SEARCH)
    found = text_indexed.query(text_query)
    assert set(found.ids or []) == {"n200", "n40"}
    assert all(score > 0 for score in found.similarities or [])
    text_query.filters = metadata_filter("angle", 90, ">")
    assert text_indexed.query(text_query).ids == ["n200"]
    text_query.doc_ids = ["quarter 0"]
    assert text_indexed.query(text_query).ids == []
    few = VectorStoreQuery(query_str="200 or 40", similarity_top_k=5, sparse_top_k=1, mode=TEXT_SEARCH)
    assert len(text_indexed.query(few).ids or []) == 1


def test_hybrid_search(text_indexed: QvecVectorStore) -> None:
    def found(k: int = 2, **options: Any) -> list[str]:
        return text_indexed.query(query(41, k, mode=HYBRID, query_str="200", **options)).ids or []

    assert found() == ["n200", "n40"]
    assert found(hybrid_top_k=1) == ["n200"]
    assert found(alpha=1) == ["n40", "n50"]
    assert found(1, alpha=0) == ["n200"]
    assert found(filters=metadata_filter("angle", 90, "<")) == ["n40", "n50"]
    by_scores = text_indexed.query(query(41, 2, mode=HYBRID, query_str="200"), fusion="scores", weights=(2, 1))
    assert by_scores.ids == ["n40", "n50"], "keyword arguments reach the collection's search method"


@pytest.mark.anyio
async def test_hybrid_and_text_search_retrievers(text_indexed: QvecVectorStore) -> None:
    index = VectorStoreIndex.from_vector_store(text_indexed, embed_model=Angles())
    hybrid = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=1)
    text_search = index.as_retriever(vector_store_query_mode="text_search", similarity_top_k=3)
    assert [found.node.node_id for found in hybrid.retrieve("200")] == ["n200"]
    assert [found.node.node_id for found in await hybrid.aretrieve("200")] == ["n200"]
    assert [found.node.node_id for found in await text_search.aretrieve("where is 200")] == ["n200"]


def test_text_queries_require_full_text_index(circle: QvecVectorStore) -> None:
    for mode in (HYBRID, TEXT_SEARCH):
        with pytest.raises(InputError, match="index_texts"):
            circle.query(query(0, mode=mode, query_str="200"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": HYBRID, "query_str": "200"}, "the query has no query_embedding; give the vector of its text"),
        (
            {"mode": TEXT_SEARCH},
            "the query has no query_str, whose words the mode text_search searches for; give its text",
        ),
        (
            {"mode": TEXT_SEARCH, "query_str": "200", "node_ids": ["n200"]},
            "the mode text_search takes no node_ids; select nodes by filters, or use the mode default",
        ),
        (
            {"mode": HYBRID, "query_str": "200", "query_embedding": direction(0), "alpha": 1.5},
            r"alpha is 1\.5, expected 0 \(full-text search only\) to 1 \(vector only\)",
        ),
    ],
)
def test_invalid_text_queries_raise(text_indexed: QvecVectorStore, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        text_indexed.query(VectorStoreQuery(**options))


# Creation


class Angles(BaseEmbedding):
    """Embeds the number in a text."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return direction(float(text.split()[-1]))

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.fixture
def url(store: Store, tmp_path: Path) -> str:
    return store.new_url(tmp_path)


@pytest.fixture
def new_name(store: Store) -> str:
    return store.new_name()


@pytest.fixture
def new_store(url: str, new_name: str) -> Iterator[QvecVectorStore]:
    found = QvecVectorStore.from_params(url, new_name)
    yield found
    found.close()


def test_first_nodes_create_collection(new_store: QvecVectorStore, url: str, new_name: str) -> None:
    assert new_store.client is None
    assert new_store.get_nodes() == []
    assert new_store.query(query(0)).ids == []
    new_store.delete("nothing")
    new_store.clear()
    with pytest.warns(UserWarning, match="made from the first 36 vectors"):
        index = VectorStoreIndex(
            [TextNode(text=f"at {angle}", metadata={"quarter": angle // 90}) for angle in range(0, 360, 10)],
            storage_context=StorageContext.from_defaults(vector_store=new_store),
            embed_model=Angles(),
        )
    retriever = index.as_retriever(similarity_top_k=2, filters=metadata_filter("quarter", 0, "!="))
    # LlamaIndex embeds a node's metadata followed by its text.
    assert [found.text for found in retriever.retrieve("question 92")] == ["at 90", "at 100"]
    new_store.close()
    reopened = QvecVectorStore.from_params(url, new_name)
    index = VectorStoreIndex.from_vector_store(reopened, embed_model=Angles())
    index.insert_nodes([TextNode(text="at 44")])
    (found,) = index.as_retriever(similarity_top_k=1).retrieve("question 44")
    assert found.text == "at 44"
    assert found.score == pytest.approx(1, abs=0.01)
    reopened.close()


@pytest.mark.anyio
async def test_async_retriever(circle: QvecVectorStore) -> None:
    index = VectorStoreIndex.from_vector_store(circle, embed_model=Angles())
    assert [found.text for found in await index.as_retriever(similarity_top_k=1).aretrieve("question 121")] == [
        "at 120"
    ]
