"""A LlamaIndex vector store on a qvec collection, and qvec's embedders as LlamaIndex embeddings."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from qvec.calibration import Calibration, Metric
from qvec.client.urls import DEFAULT_URL
from qvec.errors import InputError
from qvec.integrations.adapters import delete_matching, row_ids
from qvec.integrations.lazy_collection import LazyCollection
from qvec.integrations.llama_index.filters import convert_filters
from qvec.integrations.llama_index.query_modes import check_query, get_hits, in_documents, search
from qvec.results import Hit

if TYPE_CHECKING:
    from qvec.client import Collection, Database
    from qvec.embedding import TextEmbedder


class QvecVectorStore(BasePydanticVectorStore):
    """Nodes in a qvec collection: each row holds a node's text, metadata and vector.

    Metadata filters may use every operator and condition, nested. `similarities` are scores of the collection's metric:
    higher is closer. Rows that LlamaIndex did not write, such as those of `qvec ingest`, are returned as text nodes.

    Build an index once a large collection is filled: `store.client.build_index()`. The modes hybrid and text_search
    need a full-text index, best created while there are few nodes: `store.client.index_texts()`. The async methods run
    the blocking ones in threads.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False

    _lazy_collection: LazyCollection = PrivateAttr()

    def __init__(self, collection: Collection | LazyCollection) -> None:
        """`collection` is an open collection; `from_params` opens or creates one by its name."""
        super().__init__(stores_text=True)
        self._lazy_collection = (
            collection if isinstance(collection, LazyCollection) else LazyCollection.from_open(collection)
        )

    @classmethod
    def from_params(
        cls,
        db: str | Database = DEFAULT_URL,
        collection: str = "llama_index",
        *,
        calibration: Calibration | None = None,
        metric: Metric = "cosine",
        model: str | None = None,
        **settings: Any,
    ) -> QvecVectorStore:
        """Return a store on a collection, which is created for the first nodes if it does not exist.

        `db` is an open database or a URL; what a URL opened, `close` closes. A new collection takes `calibration`, or
        the calibration in the folder `model`, or one fitted to the nodes of the first `add`, with a warning for fewer
        than 100. `model` is stored as the collection's embedding model; `settings` are arguments of
        `Database.create_collection`.
        """
        return cls(LazyCollection(db, collection, calibration=calibration, metric=metric, model=model, **settings))

    @classmethod
    def class_name(cls) -> str:
        return "QvecVectorStore"

    @property
    def client(self) -> Collection | None:
        """The collection, or None if it does not exist yet."""
        return self._lazy_collection.get()

    def close(self) -> None:
        """Close the database if it was given by its URL."""
        self._lazy_collection.close()

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002 - the base class has it
        """Write nodes with their embeddings, on Postgres all or none; return their ids.

        A node with an existing id replaces the old one.
        """
        if not nodes:
            return []
        vectors = np.array([node.get_embedding() for node in nodes], np.float32)
        collection = self._lazy_collection.get_or_create(vectors)
        ids = [node.node_id for node in nodes]
        texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        metadata = [node_to_metadata_dict(node, remove_text=True, flat_metadata=False) for node in nodes]
        collection.upsert(row_ids(collection, ids), vectors, texts, metadata)
        return ids

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """Delete the nodes of a source document."""
        self._delete_matching(in_documents([ref_doc_id]))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Delete nodes by id, by filters, or by both combined. Raise InputError without either."""
        if node_ids is None and not (filters and filters.filters):
            raise InputError("delete_nodes takes node_ids or filters; clear deletes all nodes")
        if node_ids is None:
            self._delete_matching(convert_filters(filters))
        elif (collection := self.client) is not None:
            hits = get_hits(collection, node_ids, convert_filters(filters))
            collection.delete([hit.id for hit in hits])

    def clear(self) -> None:
        """Delete all nodes; keep the collection and its calibration."""
        self._delete_matching({})

    def _delete_matching(self, filter: Mapping[str, Any]) -> None:
        if (collection := self.client) is not None:
            delete_matching(collection, filter)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return nodes by id in their order, omitting missing ones, by filters, by both combined, or all.

        They have no embedding.
        """
        collection = self.client
        if collection is None:
            return []
        filter = convert_filters(filters)
        hits = collection.scroll(filter) if node_ids is None else get_hits(collection, node_ids, filter)
        return [_node(hit) for hit in hits]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the best nodes for a query.

        The modes are default (by vector), mmr (by vector, and diverse), text_search (by words) and hybrid (by both). In
        mmr `mmr_threshold` goes from 0, diverse, to 1, closest (default 0.5), and `mmr_prefetch_k` is the number of
        closest nodes to choose from. In hybrid `alpha` goes from 0, words only, to 1, vector only; by default both have
        the same weight. Other keywords go to the collection's search method for the mode. Raise InputError for other
        modes, and if a mode that searches words finds no full-text index.
        """
        check_query(query)
        collection = self.client
        hits = [] if collection is None else search(collection, query, kwargs)
        return VectorStoreQueryResult(
            nodes=[_node(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[str(hit.id) for hit in hits],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await asyncio.to_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        await asyncio.to_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        await asyncio.to_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await asyncio.to_thread(self.query, query, **kwargs)


class QvecEmbedding(BaseEmbedding):
    """A qvec embedder as LlamaIndex embedding: from `qvec.embedding.load_embedder`, or a collection's `embedder`."""

    _embedder: TextEmbedder = PrivateAttr()

    def __init__(self, embedder: TextEmbedder) -> None:
        super().__init__(model_name=getattr(embedder, "name", type(embedder).__name__))
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "QvecEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed_documents(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._embedder.embed_queries([query])[0].tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)


def _node(hit: Hit) -> BaseNode:
    """Return the node of a row; a text node if LlamaIndex did not write it."""
    metadata = hit.metadata or {}
    if "_node_content" in metadata:
        return metadata_dict_to_node(metadata, text=hit.document)
    return TextNode(id_=str(hit.id), text=hit.document or "", metadata=metadata)
