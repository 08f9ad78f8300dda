"""Haystack components that retrieve documents by vector, or by vector and words."""

from __future__ import annotations

from typing import Any, TypeVar

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.types import FilterPolicy
from haystack.document_stores.types.filter_policy import apply_filter_policy

from qvec.integrations.adapters import in_thread
from qvec.integrations.haystack.store import QvecDocumentStore

R = TypeVar("R", bound="_Retriever")


class _Retriever:
    """Base of the components: the store, the filters, and serialization."""

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

    def _to_dict(self, **parameters: Any) -> dict[str, Any]:
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            filter_policy=self.filter_policy.value,
            **parameters,
        )

    @classmethod
    def from_dict(cls: type[R], data: dict[str, Any]) -> R:
        parameters = dict(data["init_parameters"])
        parameters["document_store"] = QvecDocumentStore.from_dict(parameters["document_store"])
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    def _merged(self, filters: dict[str, Any] | None, top_k: int | None) -> dict[str, Any]:
        """Return the filters and top_k of a run: its own arguments, else those of the component."""
        return {
            "filters": apply_filter_policy(self.filter_policy, self.filters, filters),
            "top_k": self.top_k if top_k is None else top_k,
        }


@component
class QvecEmbeddingRetriever(_Retriever):
    """Retrieves the documents of a `QvecDocumentStore` closest to the embedding of a question."""

    def __init__(
        self,
        *,
        document_store: QvecDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        """Filters passed to `run` replace `filters`, or are combined with them under FilterPolicy.MERGE.

        `scale_score` maps scores to 0 … 1.
        """
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
        """Return the closest documents, best first, as `documents`."""
        options = self._merged(filters, top_k)
        found = self.document_store.embedding_retrieval(query_embedding, scale_score=self.scale_score, **options)
        return {"documents": found}

    run_async = in_thread(run)


@component
class QvecHybridRetriever(_Retriever):
    """Retrieves the documents of a `QvecDocumentStore` that match a question best by embedding and words combined.

    Needs a full-text index, best created while there are few documents: `document_store.client.index_texts()`.
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
        """Filters passed to `run` replace `filters`, or are combined with them under FilterPolicy.MERGE.

        `alpha` goes from 0, words only, to 1, embedding only.
        """
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
        """Return the best documents, best first, as `documents`. Raise InputError without a full-text index."""
        alpha = self.alpha if alpha is None else alpha
        options = self._merged(filters, top_k)
        return {"documents": self.document_store.hybrid_retrieval(query, query_embedding, alpha=alpha, **options)}

    run_async = in_thread(run)
