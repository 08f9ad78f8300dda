"""Haystack components that find documents by a vector, or by a vector and words."""

from __future__ import annotations

from typing import Any, TypeVar

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.types import FilterPolicy
from haystack.document_stores.types.filter_policy import apply_filter_policy

from qvec.integrations.haystack.store import QvecDocumentStore

R = TypeVar("R", bound="_Retriever")


class _Retriever:
    """What the components share: a store, filters and how they merge, and being written down."""

    def __init__(
        self,
        document_store: QvecDocumentStore,
        filters: dict[str, Any] | None,
        top_k: int,
        filter_policy: str | FilterPolicy,
    ) -> None:
        if not isinstance(document_store, QvecDocumentStore):
            raise ValueError(f"document_store is {type(document_store).__name__}, expected QvecDocumentStore")
        self.document_store = document_store
        self.filters = filters or {}
        self.top_k = top_k
        self.filter_policy = (
            filter_policy if isinstance(filter_policy, FilterPolicy) else FilterPolicy.from_str(filter_policy)
        )

    def _to_dict(self, **own: Any) -> dict[str, Any]:
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
            **own,
        )

    @classmethod
    def from_dict(cls: type[R], data: dict[str, Any]) -> R:
        parameters = dict(data["init_parameters"])
        parameters["document_store"] = QvecDocumentStore.from_dict(parameters["document_store"])
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    def _asked(self, filters: dict[str, Any] | None, top_k: int | None, **own: Any) -> dict[str, Any]:
        """What the store is asked with in a run that is given these."""
        return {
            "filters": apply_filter_policy(self.filter_policy, self.filters, filters),
            "top_k": self.top_k if top_k is None else top_k,
            **own,
        }


@component
class QvecEmbeddingRetriever(_Retriever):
    """The documents of a `QvecDocumentStore` that are nearest to the embedding of a question."""

    def __init__(
        self,
        *,
        document_store: QvecDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """`filters` hold unless `run` is given others, or beside those under FilterPolicy.MERGE; `scale_score` brings
        scores to 0 to 1."""
        _Retriever.__init__(self, document_store, filters, top_k, filter_policy)
        self.scale_score = scale_score

    def to_dict(self) -> dict[str, Any]:
        return self._to_dict(scale_score=self.scale_score)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """The nearest documents, best first, as `documents`."""
        options = self._asked(filters, top_k, scale_score=self.scale_score)
        return {"documents": self.document_store.embedding_retrieval(query_embedding, **options)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
    ) -> dict[str, list[Document]]:
        """As `run`, awaited."""
        options = self._asked(filters, top_k, scale_score=self.scale_score)
        return {"documents": await self.document_store.embedding_retrieval_async(query_embedding, **options)}


@component
class QvecHybridRetriever(_Retriever):
    """The documents of a `QvecDocumentStore` that are best by the embedding and the words of a question together.

    The words have to be indexed, best before there are many documents: `document_store.client.index_texts()`.
    """

    def __init__(
        self,
        *,
        document_store: QvecDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        alpha: float = 0.5,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """`filters` hold unless `run` is given others, or beside those under FilterPolicy.MERGE; `alpha` goes from 0,
        words, to 1, embedding."""
        _Retriever.__init__(self, document_store, filters, top_k, filter_policy)
        self.alpha = alpha

    def to_dict(self) -> dict[str, Any]:
        return self._to_dict(alpha=self.alpha)

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        alpha: float | None = None,
    ) -> dict[str, list[Document]]:
        """The best documents, best first, as `documents`. Raises InputError where the words are not indexed."""
        options = self._asked(filters, top_k, alpha=self.alpha if alpha is None else alpha)
        return {"documents": self.document_store.hybrid_retrieval(query, query_embedding, **options)}

    @component.output_types(documents=list[Document])
    async def run_async(
        self,
        query: str,
        query_embedding: list[float],
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        alpha: float | None = None,
    ) -> dict[str, list[Document]]:
        """As `run`, awaited."""
        options = self._asked(filters, top_k, alpha=self.alpha if alpha is None else alpha)
        return {"documents": await self.document_store.hybrid_retrieval_async(query, query_embedding, **options)}
