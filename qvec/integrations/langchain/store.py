"""A LangChain vector store over a collection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from numpy.typing import NDArray

from qvec.calibration import Calibration, Metric
from qvec.client.urls import DEFAULT_URL
from qvec.errors import CollectionError, InputError
from qvec.integrations.ids import row_ids
from qvec.integrations.langchain.retriever import QvecRetriever
from qvec.integrations.target import Target
from qvec.integrations.threads import in_thread

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.integrations.target import Collection, Database
    from qvec.results import Hit


class QvecVectorStore(VectorStore):
    """Documents in a qvec collection, embedded by a LangChain model.

    A document's text is the row's document, its metadata the row's metadata, its id the row's id as text. `filter` of
    every search is in the language of `qvec.filters`, or the database's own; further keywords (`oversampling`, `exact`)
    go to the collection's `search`. Scores are similarities: higher is nearer.

    Large collections want an index, built once they are filled: `store.collection.build_index()`. Hybrid search wants
    the words indexed, best before there are many texts: `store.collection.index_texts()`.

    The async methods run these in threads, as LangChain's own do. 64 callers at once, on 20,000 rows of 384 dimensions
    and 2 cores, made 1,300 to 1,500 searches a second in embedded Postgres and 2,200 in embedded Qdrant; an awaited
    collection without LangChain 1,000 to 1,300 and 2,100 to 3,500.
    """

    def __init__(
        self,
        collection: Collection,
        embedding: Embeddings,
        *,
        relevance_score_fn: Callable[[float], float] | None = None,
    ) -> None:
        """`relevance_score_fn` brings a score to 0 (unlike) to 1 (alike); under cosine it is (score + 1) / 2."""
        self._target = Target.of(collection)
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
        """A store over a collection, which gets these texts and is created where it is not there.

        `db` is a URL, which `close` closes again, or an open database. A collection that is created takes
        `calibration`, or the one in the folder `model`, or one made of these texts, with a warning below 100 of them;
        `model` is remembered as what embeds its texts, `settings` are those of the database's `create_collection`.
        """
        vectors = _embedded(embedding, texts)
        target = Target(db, collection, calibration=calibration, metric=metric, model=model, **settings)
        try:
            found = target.for_vectors(vectors if len(vectors) else _embedded(embedding, ["text"]))
            store = cls(found, embedding, relevance_score_fn=relevance_score_fn)
            store._target = target
            store._write(texts, vectors, metadatas, ids)
        except BaseException:
            target.close()
            raise
        return store

    def close(self) -> None:
        """Closes the database if `from_texts` opened it."""
        self._target.close()

    @property
    def collection(self) -> Collection:
        """The collection. Raises CollectionError where it was dropped, and not made anew."""
        found = self._target.found()
        if found is None:
            raise CollectionError(f"collection {self._target.name!r} was dropped; make it anew with from_texts")
        return found

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
        """Embeds texts and writes them, all or none on Postgres; returns their ids. Those without get a new one, a
        text whose id is there replaces it."""
        if kwargs:
            raise InputError(f"add_texts takes no {', '.join(kwargs)}; expected metadatas and ids")
        written = list(texts)
        return self._write(written, _embedded(self._embedding, written), metadatas, ids)

    def _write(
        self,
        texts: Sequence[str],
        vectors: NDArray[np.float32],
        metadatas: Sequence[dict[str, Any]] | None,
        ids: Sequence[str | None] | None,
    ) -> list[str]:
        wanted = row_ids(self.collection, [None] * len(texts) if ids is None else ids)
        if len(texts):
            self.collection.upsert(wanted, vectors, texts, metadatas)
        return [str(id) for id in wanted]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Deletes documents by id; ids that are not there are passed over. Raises InputError without ids."""
        if ids is None or kwargs:
            raise InputError("delete takes the ids of documents; to delete all, drop the collection")
        self.collection.delete(row_ids(self.collection, ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in their order, without those that are missing."""
        return [_document(hit) for hit in self.collection.get(row_ids(self.collection, ids)) if hit is not None]

    def similarity_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a question."""
        return self.similarity_search_by_vector(self._embedding.embed_query(query), k, filter, **kwargs)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[Document]:
        """The k documents nearest to a vector."""
        return [document for document, _ in self.similarity_search_with_score_by_vector(embedding, k, filter, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k documents nearest to a question, with their cosine similarity or inner product."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, filter, **kwargs)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The k documents nearest to a vector, with their cosine similarity or inner product."""
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
        """k documents that are near a question and unlike each other, of the `fetch_k` nearest: from `lambda_mult` 0,
        most unlike, to 1, nearest."""
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
        """As `max_marginal_relevance_search`, for a vector."""
        hits = self.collection.search_diverse(
            embedding, k, fetch_k=max(k, fetch_k), lambda_mult=lambda_mult, filter=filter, **kwargs
        )
        return [_document(hit) for hit in hits]

    def hybrid_search(self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any) -> list[Document]:
        """The k documents that are best by vector and words together; the collection's texts have to be indexed.

        Further keywords (`weights`, `fusion`, `among`, `reranker`) go to the collection's `search_hybrid`. Raises
        InputError where the texts are not indexed.
        """
        vector = self._embedding.embed_query(query)
        hits = self.collection.search_hybrid(query, k, vector=vector, filter=filter, **kwargs)
        return [_document(hit) for hit in hits]

    async def ahybrid_search(
        self, query: str, k: int = 4, filter: FilterLike | None = None, **kwargs: Any
    ) -> list[Document]:
        return await in_thread(self.hybrid_search, query, k, filter, **kwargs)

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """LangChain's own, with the search type `hybrid` beside its three."""
        if search_type == "hybrid":
            return self.hybrid_search(query, **kwargs)
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """LangChain's own, with the search type `hybrid` beside its three."""
        if search_type == "hybrid":
            return await self.ahybrid_search(query, **kwargs)
        return await super().asearch(query, search_type, **kwargs)

    def as_retriever(self, **kwargs: Any) -> QvecRetriever:
        """LangChain's own, with the search type `hybrid` beside its three."""
        tags = kwargs.pop("tags", None) or self._get_retriever_tags()
        return QvecRetriever(vectorstore=self, tags=tags, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        if self._relevance_score_fn is not None:
            return self._relevance_score_fn
        if self.collection.calibration.metric != "cosine":
            raise InputError(
                f"collection {self.collection.name!r} ranks by inner product, which has no bounds; give "
                "relevance_score_fn, which brings a score to 0 to 1"
            )
        return _share_of_cosine


def _share_of_cosine(score: float) -> float:
    """A cosine similarity on a scale from 0 to 1; an estimate may lie a little beyond the ends."""
    return min(max((score + 1) / 2, 0.0), 1.0)


def _embedded(embedding: Embeddings, texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array(embedding.embed_documents(list(texts)) if texts else [], np.float32)


def _document(hit: Hit) -> Document:
    return Document(id=str(hit.id), page_content=hit.document or "", metadata=hit.metadata or {})
