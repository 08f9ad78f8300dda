"""LangChain: `QvecVectorStore` with its retriever, and `QvecEmbeddings`. Needs the extra langchain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration, Metric
from qvec.client.urls import DEFAULT_URL
from qvec.errors import CollectionError, InputError
from qvec.integrations.adapters import in_thread, require_extra, row_ids
from qvec.integrations.lazy_collection import LazyCollection

with require_extra("langchain", "langchain_core", "langchain-core"):
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

if TYPE_CHECKING:
    from qvec.client import Collection, Database
    from qvec.embedding import TextEmbedder
    from qvec.filters import FilterLike
    from qvec.results import Hit

__all__ = ["QvecEmbeddings", "QvecRetriever", "QvecVectorStore"]


class QvecEmbeddings(Embeddings):
    """A qvec embedder as LangChain embeddings: from `qvec.embedding.load_embedder`, or a collection's `embedder`."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self.embedder.embed_documents(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self.embedder.embed_queries([text])[0].tolist()
        return vector


class QvecVectorStore(VectorStore):
    """A LangChain vector store on a qvec collection.

    A document's text, metadata and id are those of its row; ids are text. Every search takes a `filter`, in the syntax
    of `qvec.filters` or the database's own; further keywords (`oversampling`, `exact`) go to `Collection.search`.
    Scores are similarities: higher is closer.

    Build an index once a large collection is filled: `store.collection.build_index()`. Hybrid search needs a full-text
    index, best created while there are few texts: `store.collection.index_texts()`.

    The async methods run the blocking ones in threads, as LangChain's own do. With 64 concurrent callers, on 20,000
    rows of 384 dimensions and 2 cores, that made 1,300 to 1,500 searches a second in embedded Postgres and 2,200 in
    embedded Qdrant; an async collection without LangChain made 1,000 to 1,300 and 2,100 to 3,500.
    """

    def __init__(
        self,
        collection: Collection,
        embedding: Embeddings,
        *,
        relevance_score_fn: Callable[[float], float] | None = None,
    ) -> None:
        """`relevance_score_fn` maps a score to 0 (unrelated) … 1 (same); the default for cosine is (score + 1) / 2."""
        self._lazy_collection = LazyCollection.from_open(collection)
        self._embedding = embedding
        self._relevance_score_fn = relevance_score_fn

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        db: str | Database = DEFAULT_URL,
        collection: str = "langchain",
        calibration: Calibration | None = None,
        metric: Metric = "cosine",
        model: str | None = None,
        relevance_score_fn: Callable[[float], float] | None = None,
        **settings: Any,
    ) -> QvecVectorStore:
        """Write texts to a collection, which is created if it does not exist, and return a store on it.

        `db` is an open database or a URL; what a URL opened, `close` closes. A new collection takes `calibration`, or
        the calibration in the folder `model`, or one fitted to these texts, with a warning for fewer than 100. `model`
        is stored as the collection's embedding model; `settings` are arguments of `Database.create_collection`.
        """
        vectors = _embed(embedding, texts)
        lazy = LazyCollection(db, collection, calibration=calibration, metric=metric, model=model, **settings)
        try:
            opened = lazy.get_or_create(vectors if len(vectors) else _embed(embedding, ["text"]))
            store = cls(opened, embedding, relevance_score_fn=relevance_score_fn)
            store._lazy_collection = lazy
            store._write(texts, vectors, metadatas, ids)
        except BaseException:
            lazy.close()
            raise
        return store

    def close(self) -> None:
        """Close the database if `from_texts` opened it."""
        self._lazy_collection.close()

    @property
    def collection(self) -> Collection:
        """The collection. Raise CollectionError if it was dropped and not created again."""
        collection = self._lazy_collection.get()
        if collection is None:
            raise CollectionError(
                f"collection {self._lazy_collection.name!r} was dropped; create it again with from_texts"
            )
        return collection

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and write texts, on Postgres all or none; return their ids.

        Texts without an id get a new one; a text with an existing id replaces the old one.
        """
        if kwargs:
            raise InputError(f"add_texts takes no {', '.join(kwargs)}; expected metadatas and ids")
        texts = list(texts)
        return self._write(texts, _embed(self._embedding, texts), metadatas, ids)

    def _write(
        self,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        metadatas: Sequence[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        new_ids = row_ids(self.collection, [None] * len(texts) if ids is None else ids)
        if len(texts):
            self.collection.upsert(new_ids, vectors, texts, metadatas)
        return [str(id) for id in new_ids]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id; ignore unknown ids. Raise InputError without ids."""
        if ids is None or kwargs:
            raise InputError("delete takes the ids of documents; to delete all, drop the collection")
        self.collection.delete(row_ids(self.collection, ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids, in this order, omitting unknown ids."""
        return [_document(hit) for hit in self.collection.get(row_ids(self.collection, ids)) if hit is not None]

    def similarity_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents closest to a question."""
        return self.similarity_search_by_vector(self._embedding.embed_query(query), k, filter, **kwargs)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[Document]:
        """Return the k documents closest to a vector."""
        return [document for document, _ in self.similarity_search_with_score_by_vector(embedding, k, filter, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents closest to a question, with their cosine similarity or inner product."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, filter, **kwargs)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents closest to a vector, with their cosine similarity or inner product."""
        hits = self.collection.search(embedding, k, filter=filter, **kwargs)
        return [(_document(hit), hit.score) for hit in hits]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return k documents, chosen from the `fetch_k` closest to a question, that are close to it but diverse.

        `lambda_mult` goes from 0, most diverse, to 1, closest.
        """
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, filter, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Like `max_marginal_relevance_search`, for a vector."""
        hits = self.collection.search_diverse(
            embedding, k, fetch_k=max(k, fetch_k), lambda_mult=lambda_mult, filter=filter, **kwargs
        )
        return [_document(hit) for hit in hits]

    def hybrid_search(self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any) -> list[Document]:
        """Return the k best documents by vector and full-text search combined.

        Further keywords (`weights`, `fusion`, `fetch_k`, `reranker`) go to `Collection.search_hybrid`. Raise InputError
        if the collection has no full-text index.
        """
        vector = self._embedding.embed_query(query)
        hits = self.collection.search_hybrid(query, k, vector=vector, filter=filter, **kwargs)
        return [_document(hit) for hit in hits]

    ahybrid_search = in_thread(hybrid_search)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """LangChain's `search` with the additional search type `hybrid`."""
        if search_type == "hybrid":
            return self.hybrid_search(query, **kwargs)
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """LangChain's `asearch` with the additional search type `hybrid`."""
        if search_type == "hybrid":
            return await self.ahybrid_search(query, **kwargs)
        return await super().asearch(query, search_type, **kwargs)

    def as_retriever(self, **kwargs: Any) -> QvecRetriever:
        """LangChain's `as_retriever` with the additional search type `hybrid`."""
        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return QvecRetriever(vectorstore=self, tags=tags, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        if self._relevance_score_fn is not None:
            return self._relevance_score_fn
        if self.collection.calibration.metric != "cosine":
            raise InputError(
                f"collection {self.collection.name!r} ranks by inner product, which has no bounds; give "
                "relevance_score_fn, which maps a score to 0 … 1"
            )
        return _cosine_relevance


class QvecRetriever(VectorStoreRetriever):
    """LangChain's vector store retriever with the additional search type `hybrid`."""

    allowed_search_types: ClassVar[tuple[str, ...]] = (*VectorStoreRetriever.allowed_search_types, "hybrid")

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self.search_type == "hybrid":
            return self.vectorstore.search(query, self.search_type, **(self.search_kwargs | kwargs))
        return super()._get_relevant_documents(query, run_manager=run_manager, **kwargs)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        if self.search_type == "hybrid":
            return await self.vectorstore.asearch(query, self.search_type, **(self.search_kwargs | kwargs))
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **kwargs)


def _cosine_relevance(score: float) -> float:
    """Map a cosine similarity to 0 … 1; clip, since an estimate may exceed the range slightly."""
    return min(max((score + 1) / 2, 0.0), 1.0)


def _embed(embedding: Embeddings, texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array(embedding.embed_documents(list(texts)) if texts else [], np.float32)


def _document(hit: Hit) -> Document:
    return Document(id=str(hit.id), page_content=hit.document or "", metadata=hit.metadata or {})
