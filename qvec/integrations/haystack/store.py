"""A Haystack document store over a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from numpy.typing import NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Calibration, Metric
from qvec.client import reciprocal_rank
from qvec.client.urls import DEFAULT_URL
from qvec.errors import CollectionError, InputError
from qvec.forking import Lock
from qvec.integrations.haystack import address
from qvec.integrations.haystack.documents import EMBEDDED, document_of, is_embedded, metadata_of, nowhere
from qvec.integrations.haystack.filters import compiled
from qvec.integrations.ids import row_ids
from qvec.integrations.rows import delete_matching
from qvec.integrations.target import Target
from qvec.integrations.threads import in_thread
from qvec.retrieval.hybrid import LEAST_AMONG

if TYPE_CHECKING:
    from qvec.integrations.haystack.address import Address
    from qvec.integrations.target import Collection
    from qvec.results import Hit
    from qvec.store.requests import OnDuplicate

_RULES: dict[DuplicatePolicy, OnDuplicate] = {
    DuplicatePolicy.NONE: "error",
    DuplicatePolicy.FAIL: "error",
    DuplicatePolicy.SKIP: "skip",
    DuplicatePolicy.OVERWRITE: "replace",
}


class QvecDocumentStore:
    """Documents in a qvec collection: text, meta and embedding of each in one row.

    The collection is created by the first documents that are written, where it is not there. Filters are Haystack's, on
    `meta` fields. Embeddings come back as precisely as the collection keeps them. Documents without an embedding are
    kept and filtered, and are never found by a vector. The async methods run the others in threads.

    Large collections want an index, built once they are filled: `store.client.build_index()`.
    """

    def __init__(
        self,
        db: Address = DEFAULT_URL,
        collection: str = "haystack",
        *,
        dimensions: int | None = None,
        calibration: str | None = None,
        metric: Metric = "cosine",
        model: str | None = None,
        return_embedding: bool = False,
        **settings: Any,
    ) -> None:
        """Opens nothing yet. `db` is a URL, one in a Secret, or an open database.

        A collection that is created takes the calibration in the file `calibration`, or in the folder `model`, or one
        made of the first embeddings written, with a warning below 100 of them. `dimensions` is how many these have; it
        is needed only where the first documents have no embedding. `model` is remembered as what embeds its texts,
        `settings` are those of the database's `create_collection`. With `return_embedding` documents come back with
        their embeddings.
        """
        self.db = db
        self.collection = collection
        self.dimensions = dimensions
        self.calibration = calibration
        self.metric: Metric = metric
        self.model = model
        self.return_embedding = return_embedding
        self.settings = settings
        self._opened: Target | None = None
        self._opening = Lock()

    def to_dict(self) -> dict[str, Any]:
        """Raises InputError where a password would be written out: give a URL that holds one as a Secret."""
        return default_to_dict(
            self,
            db=address.to_json(self.db),
            collection=self.collection,
            dimensions=self.dimensions,
            calibration=self.calibration,
            metric=self.metric,
            model=self.model,
            return_embedding=self.return_embedding,
            **self.settings,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> QvecDocumentStore:
        parameters = dict(data.get("init_parameters", {}))
        if "db" in parameters:
            parameters["db"] = address.from_json(parameters["db"])
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    def close(self) -> None:
        """Closes the database if a URL was given; the next use opens it again."""
        with self._opening:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @property
    def client(self) -> Collection | None:
        """The collection; None while it is not there."""
        return self._target.found()

    @property
    def _target(self) -> Target:
        with self._opening:
            if self._opened is None:
                self._opened = self._new_target()
            return self._opened

    def _new_target(self) -> Target:
        return Target(
            address.resolved(self.db),
            self.collection,
            calibration=Calibration.load(self.calibration) if self.calibration else None,
            metric=self.metric,
            model=self.model,
            **self.settings,
        )

    def count_documents(self) -> int:
        found = self._target.found()
        return 0 if found is None else found.count()

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        found = self._target.found()
        return 0 if found is None else len(found.scroll(compiled(filters), texts=False))

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that pass, or all, in the order of their ids. Raises FilterError for what is no filter."""
        filter = compiled(filters)
        found = self._target.found()
        return [] if found is None else _documents(found, found.scroll(filter), self.return_embedding)

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Writes documents; returns how many. Where one's id is there nothing is written with FAIL and NONE, it is left
        out with SKIP, and with OVERWRITE it replaces the other.

        Raises DuplicateDocumentError; ValueError for what is no list of documents.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise ValueError(f"documents is {type(documents).__name__}, expected a list of Document")
        if not documents:
            return 0
        collection = self._target.found() or self._target.for_vectors(self._first_vectors(documents))
        ids = row_ids(collection, [document.id for document in documents])
        try:
            return collection.upsert(
                ids,
                _vectors(documents, collection.calibration.accepted_dimensions[-1]),
                [document.content for document in documents],
                [metadata_of(document) for document in documents],
                on_duplicate=_RULES[policy],
            )
        except CollectionError as error:
            if _RULES[policy] == "error" and (len(set(ids)) < len(ids) or any(collection.get(ids))):
                raise DuplicateDocumentError(str(error)) from error
            raise

    def _first_vectors(self, documents: Sequence[Document]) -> NDArray[Any]:
        """What the collection would be created for."""
        embeddings = [document.embedding for document in documents if document.embedding is not None]
        if embeddings:
            return as_vectors(embeddings, "embeddings")
        if self.dimensions is None:
            raise InputError(
                f"collection {self.collection!r} cannot be created for documents without embeddings; embed them first, "
                "or give the store `dimensions`"
            )
        return nowhere(self.dimensions)[None]

    def delete_documents(self, document_ids: list[str]) -> None:
        """Deletes documents by id; ids that are not there are passed over."""
        found = self._target.found()
        if found is not None:
            found.delete(row_ids(found, document_ids))

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Deletes the documents that pass; returns how many. Raises InputError without a filter."""
        filter = compiled(filters)
        if not filter:
            raise InputError("delete_by_filter takes a filter; delete_all_documents deletes all")
        found = self._target.found()
        return 0 if found is None else delete_matching(found, filter)

    def delete_all_documents(self) -> None:
        """Deletes all documents; the collection stays, with its calibration."""
        found = self._target.found()
        if found is not None:
            delete_matching(found)

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        """The documents nearest to a vector, with their similarity as `score`; `scale_score` brings it to 0 to 1."""
        filter = compiled(filters)
        found = self._target.found()
        if found is None:
            return []
        hits = _nearest(found, query_embedding, top_k, filter)
        scores = [_scaled(hit.score, found.calibration.metric) if scale_score else hit.score for hit in hits]
        embeddings = self.return_embedding if return_embedding is None else return_embedding
        return _documents(found, hits, embeddings, scores)

    def hybrid_retrieval(
        self,
        query: str,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        alpha: float = 0.5,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        """The documents that are best by vector and words together, with the score of reciprocal rank fusion.

        `alpha` goes from 0, words, to 1, vector. Documents without an embedding are found by their words. Raises
        InputError where the words are not indexed: `store.client.index_texts()`.
        """
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha is {alpha}, expected 0 (words alone decide) to 1 (the embedding alone)")
        filter = compiled(filters)
        found = self._target.found()
        if found is None:
            return []
        among = max(top_k, LEAST_AMONG)
        near, worded = _nearest(found, query_embedding, among, filter), found.search_text(query, among, filter=filter)
        hits = reciprocal_rank([near, worded], [alpha, 1 - alpha])[:top_k]
        embeddings = self.return_embedding if return_embedding is None else return_embedding
        return _documents(found, hits, embeddings, [hit.score for hit in hits])

    async def count_documents_async(self) -> int:
        return await in_thread(self.count_documents)

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        return await in_thread(self.count_documents_by_filter, filters)

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        return await in_thread(self.filter_documents, filters)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        return await in_thread(self.write_documents, documents, policy)

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        await in_thread(self.delete_documents, document_ids)

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        return await in_thread(self.delete_by_filter, filters)

    async def delete_all_documents_async(self) -> None:
        await in_thread(self.delete_all_documents)

    async def embedding_retrieval_async(
        self,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        return await in_thread(
            self.embedding_retrieval,
            query_embedding,
            filters=filters,
            top_k=top_k,
            scale_score=scale_score,
            return_embedding=return_embedding,
        )

    async def hybrid_retrieval_async(
        self,
        query: str,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        alpha: float = 0.5,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        return await in_thread(
            self.hybrid_retrieval,
            query,
            query_embedding,
            filters=filters,
            top_k=top_k,
            alpha=alpha,
            return_embedding=return_embedding,
        )


def _nearest(collection: Collection, vector: list[float], k: int, filter: Mapping[str, Any]) -> list[Hit]:
    """The k rows nearest to a vector, of those that have an embedding."""
    hits = collection.search(vector, k, filter=filter)
    if all(map(is_embedded, hits)):
        return hits
    return collection.search(vector, k, filter={"$and": [filter, EMBEDDED]})


def _vectors(documents: Sequence[Document], dimensions: int) -> NDArray[Any]:
    """Their embeddings (n, d), and a direction of no meaning in place of those that are missing."""
    missing = nowhere(dimensions).tolist()
    found = [missing if document.embedding is None else document.embedding for document in documents]
    return as_vectors(found, "embeddings")


def _documents(
    collection: Collection, hits: Sequence[Hit], embeddings: bool, scores: Sequence[float] | None = None
) -> list[Document]:
    """The documents of rows, with their embeddings as they are kept where they are asked for."""
    nothing: list[None] = [None] * len(hits)
    vectors = collection.vectors([hit.id for hit in hits]) if embeddings else nothing
    columns = zip(hits, vectors, nothing if scores is None else scores, strict=True)
    return [document_of(hit, vector, score) for hit, vector, score in columns]


def _scaled(score: float, metric: Metric) -> float:
    """A score on a scale from 0 to 1, as Haystack's own store has it."""
    if metric == "cosine":
        return min(max((score + 1) / 2, 0.0), 1.0)
    return float(1 / (1 + np.exp(-score / 100)))
