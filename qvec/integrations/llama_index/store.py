"""A LlamaIndex vector store over a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from qvec.calibration import Calibration, Metric
from qvec.client.urls import DEFAULT_URL
from qvec.errors import InputError
from qvec.integrations.ids import row_ids
from qvec.integrations.llama_index import filters as metadata_filters
from qvec.integrations.llama_index.nodes import metadata_of, node_of, text_of
from qvec.integrations.llama_index.search import check, search, with_ids
from qvec.integrations.rows import delete_matching
from qvec.integrations.target import Target
from qvec.integrations.threads import in_thread

if TYPE_CHECKING:
    from qvec.integrations.target import Collection, Database


class QvecVectorStore(BasePydanticVectorStore):
    """Nodes in a qvec collection: text, metadata and vector of each in one row.

    Metadata filters may use every operator and condition, nested. `similarities` are those of the collection's metric:
    higher is nearer. Rows that LlamaIndex did not write, such as those of `qvec ingest`, come back as text nodes.
    Large collections want an index, built once they are filled: `store.client.build_index()`. The modes hybrid and
    text_search want the words indexed, best before there are many nodes: `store.client.index_texts()`. The async
    methods run the others in threads.
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False

    _target: Target = PrivateAttr()

    def __init__(self, collection: Collection | Target) -> None:
        """`collection` is one that is open; `from_params` opens and creates by name."""
        super().__init__(stores_text=True)
        self._target = collection if isinstance(collection, Target) else Target.of(collection)

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
        """A store over a collection, which the first nodes create where it is not there.

        `db` is a URL, which `close` closes again, or an open database. A collection that is created takes
        `calibration`, or the one in the folder `model`, or one made of the first nodes given to `add`, with a warning
        below 100 of them; `model` is remembered as what embeds its texts, `settings` are those of the database's
        `create_collection`.
        """
        return cls(Target(db, collection, calibration=calibration, metric=metric, model=model, **settings))

    @classmethod
    def class_name(cls) -> str:
        return "QvecVectorStore"

    @property
    def client(self) -> Collection | None:
        """The collection; None while it is not there."""
        return self._target.found()

    def close(self) -> None:
        """Closes the database if a URL was given."""
        self._target.close()

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:  # noqa: ARG002 - as the base class has it
        """Writes nodes with their embeddings, all or none on Postgres; returns their ids. One whose id is there is
        replaced."""
        if not nodes:
            return []
        vectors = np.array([node.get_embedding() for node in nodes], np.float32)
        collection = self._target.for_vectors(vectors)
        ids = [node.node_id for node in nodes]
        collection.upsert(
            row_ids(collection, ids),
            vectors,
            [text_of(node) for node in nodes],
            [metadata_of(node) for node in nodes],
        )
        return ids

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:  # noqa: ARG002
        """Deletes the nodes of a source document."""
        self._delete_matching(metadata_filters.of_documents([ref_doc_id]))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Deletes nodes by id, by a filter, or those of the ids that pass it. Raises InputError without either."""
        if node_ids is None and not (filters and filters.filters):
            raise InputError("delete_nodes takes node_ids or filters; clear deletes all nodes")
        if node_ids is None:
            self._delete_matching(metadata_filters.compiled(filters))
            return
        collection = self.client
        if collection is not None:
            hits = with_ids(collection, node_ids, metadata_filters.compiled(filters))
            collection.delete([hit.id for hit in hits])

    def clear(self) -> None:
        """Deletes all nodes; the collection stays, with its calibration."""
        self._delete_matching({})

    def _delete_matching(self, filter: Mapping[str, Any]) -> None:
        collection = self.client
        if collection is not None:
            delete_matching(collection, filter)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by id, in their order and without those that are missing, or by a filter; all without either. They
        have no embedding."""
        collection = self.client
        if collection is None:
            return []
        filter = metadata_filters.compiled(filters)
        hits = collection.scroll(filter) if node_ids is None else with_ids(collection, node_ids, filter)
        return [node_of(hit) for hit in hits]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a vector or, in the mode mmr, near it and unlike each other; in the mode text_search
        those that match the words best, in the mode hybrid those that are best by vector and words together.

        In the mode mmr `mmr_threshold` (0.5 unless told) goes from 0, novelty, to 1, relevance, and `mmr_prefetch_k`
        says of how many nearest nodes they are chosen. In the mode hybrid `alpha` goes from 0, words, to 1, vector;
        both count alike unless told. Other keywords go to the collection's search of that mode. Raises InputError for
        other modes, and where a mode by words finds the texts not indexed.
        """
        check(query)
        collection = self.client
        hits = [] if collection is None else search(collection, query, kwargs)
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[str(hit.id) for hit in hits],
        )

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        return await in_thread(self.add, nodes, **kwargs)

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        await in_thread(self.delete, ref_doc_id, **delete_kwargs)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        await in_thread(self.delete_nodes, node_ids, filters, **delete_kwargs)

    async def aclear(self) -> None:
        await in_thread(self.clear)

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        return await in_thread(self.get_nodes, node_ids, filters)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        return await in_thread(self.query, query, **kwargs)
