"""A Haystack document store on a qvec collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import numpy as np
from haystack import default_from_dict, default_to_dict
from haystack.dataclasses import Document
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret
from numpy.typing import NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Metric
from qvec.client import reciprocal_rank
from qvec.client.fusion import MIN_FETCH_K
from qvec.client.urls import DEFAULT_URL
from qvec.errors import CollectionError, InputError
from qvec.integrations.adapters import delete_matching, in_thread, row_ids
from qvec.integrations.haystack.documents import (
    HAS_EMBEDDING,
    has_embedding,
    placeholder_vector,
    row_metadata,
    to_document,
)
from qvec.integrations.haystack.filters import convert_filters
from qvec.integrations.lazy_collection import LazyCollection
from qvec.store.connect_options import SECRETS

if TYPE_CHECKING:
    from qvec.client import Collection, Database
    from qvec.results import Hit
    from qvec.store.requests import OnDuplicate

_ON_DUPLICATE: dict[DuplicatePolicy, OnDuplicate] = {
    DuplicatePolicy.NONE: "error",
    DuplicatePolicy.FAIL: "error",
    DuplicatePolicy.SKIP: "skip",
    DuplicatePolicy.OVERWRITE: "replace",
}


class QvecDocumentStore:
    """Documents in a qvec collection: each row holds a document's text, meta and embedding.

    The first documents written create the collection if it does not exist. Filters are Haystack's, on `meta` fields.
    Embeddings are returned at the precision that the collection stores. Documents without an embedding can be stored
    and filtered, but a search by vector never finds them. The async methods run the blocking ones in threads.

    Build an index once a large collection is filled: `store.client.build_index()`.
    """

    def __init__(
        self,
        db: str | Secret | Database = DEFAULT_URL,
        collection: str = "haystack",
        *,
        dimensions: int | None = None,
        calibration: str | None = None,
        metric: Metric = "cosine",
        model: str | None = None,
        return_embedding: bool = False,
        **settings: Any,
    ) -> None:
        """`db` is a URL, a Secret that holds one, or an open database. A URL is opened on first use.

        A new collection takes the calibration in the file `calibration`, or in the folder `model`, or one fitted to the
        first embeddings written, with a warning for fewer than 100. `dimensions`, the length of the embeddings, is
        needed only if the first documents have none. `model` is stored as the collection's embedding model; `settings`
        are arguments of `Database.create_collection`. With `return_embedding` documents are returned with their
        embeddings.
        """
        self.db = db
        self.collection = collection
        self.dimensions = dimensions
        self.calibration = calibration
        self.metric: Metric = metric
        self.model = model
        self.return_embedding = return_embedding
        self.settings = settings
        self._lazy_collection = LazyCollection(
            (lambda: _url(db)) if isinstance(db, Secret) else db,
            collection,
            calibration=calibration,
            metric=metric,
            model=model,
            **settings,
        )

    def to_dict(self) -> dict[str, Any]:
        """Serialize the store. Raise InputError for an open database, and for a URL with a password in plain text."""
        return default_to_dict(
            self,
            db=_db_to_dict(self.db),
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
        if isinstance(parameters.get("db"), dict):
            parameters["db"] = Secret.from_dict(parameters["db"])
        return default_from_dict(cls, {**data, "init_parameters": parameters})

    def close(self) -> None:
        """Close the database if it was given by its URL; the next use opens it again."""
        self._lazy_collection.close()

    @property
    def client(self) -> Collection | None:
        """The collection, or None if it does not exist yet."""
        return self._lazy_collection.get()

    def count_documents(self) -> int:
        collection = self.client
        return 0 if collection is None else collection.count()

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        filter, collection = convert_filters(filters), self.client
        return 0 if collection is None else collection.count(filter)

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """Return the documents that match, or all, ordered by id. Raise FilterError for invalid filters."""
        filter, collection = convert_filters(filters), self.client
        return [] if collection is None else self._documents(collection, collection.scroll(filter))

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents; return how many were written.

        A document whose id exists is skipped under SKIP and replaces the old one under OVERWRITE; under FAIL and NONE
        nothing is written. Raise DuplicateDocumentError; ValueError unless `documents` is a list of documents.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise ValueError(f"documents is {type(documents).__name__}, expected a list of Document")
        if not documents:
            return 0
        collection = self.client or self._lazy_collection.get_or_create(self._first_vectors(documents))
        ids = row_ids(collection, [document.id for document in documents])
        on_duplicate = _ON_DUPLICATE[policy]
        try:
            return collection.upsert(
                ids,
                _vectors(documents, collection.calibration.accepted_dimensions[-1]),
                [document.content for document in documents],
                [row_metadata(document) for document in documents],
                on_duplicate=on_duplicate,
            )
        except CollectionError as error:
            if on_duplicate == "error" and (len(set(ids)) < len(ids) or any(collection.get(ids))):
                raise DuplicateDocumentError(str(error)) from error
            raise

    def _first_vectors(self, documents: Sequence[Document]) -> NDArray[Any]:
        """Return the vectors (n, d) to create the collection for."""
        embeddings = [document.embedding for document in documents if document.embedding is not None]
        if embeddings:
            return as_vectors(embeddings, "embeddings")
        if self.dimensions is None:
            raise InputError(
                f"collection {self.collection!r} cannot be created for documents without embeddings; embed them first, "
                "or give the store `dimensions`"
            )
        return placeholder_vector(self.dimensions)[None]

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id; ignore unknown ids."""
        if (collection := self.client) is not None:
            collection.delete(row_ids(collection, document_ids))

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents that match; return their number. Raise InputError without a filter."""
        filter = convert_filters(filters)
        if not filter:
            raise InputError("delete_by_filter takes a filter; delete_all_documents deletes all")
        collection = self.client
        return 0 if collection is None else delete_matching(collection, filter)

    def delete_all_documents(self) -> None:
        """Delete all documents; keep the collection and its calibration."""
        if (collection := self.client) is not None:
            delete_matching(collection)

    def embedding_retrieval(
        self,
        query_embedding: list[float],
        *,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        scale_score: bool = False,
        return_embedding: bool | None = None,
    ) -> list[Document]:
        """Return the documents closest to a vector; their `score` is the similarity, or with `scale_score` 0 … 1."""
        filter, collection = convert_filters(filters), self.client
        if collection is None:
            return []
        hits = _search(collection, query_embedding, top_k, filter)
        scores = [hit.score for hit in hits]
        if scale_score:
            scores = [_scaled(score, collection.calibration.metric) for score in scores]
        return self._documents(collection, hits, return_embedding, scores)

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
        """Return the best documents by vector and words, with the score of their reciprocal rank fusion.

        `alpha` goes from 0, words only, to 1, vector only. Words also find documents without an embedding. Raise
        InputError if there is no full-text index; create it with `store.client.index_texts()`.
        """
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha is {alpha}, expected 0 (full-text search only) to 1 (embedding only)")
        filter, collection = convert_filters(filters), self.client
        if collection is None:
            return []
        fetch_k = max(top_k, MIN_FETCH_K)
        by_vector = _search(collection, query_embedding, fetch_k, filter)
        by_words = collection.search_text(query, fetch_k, filter=filter)
        hits = reciprocal_rank([by_vector, by_words], [alpha, 1 - alpha])[:top_k]
        return self._documents(collection, hits, return_embedding, [hit.score for hit in hits])

    def _documents(
        self,
        collection: Collection,
        hits: Sequence[Hit],
        return_embedding: bool | None = None,
        scores: Sequence[float] | None = None,
    ) -> list[Document]:
        nothing: list[None] = [None] * len(hits)
        with_vectors = self.return_embedding if return_embedding is None else return_embedding
        vectors = collection.vectors([hit.id for hit in hits]) if with_vectors else nothing
        columns = zip(hits, vectors, nothing if scores is None else scores, strict=True)
        return [to_document(hit, vector, score) for hit, vector, score in columns]

    count_documents_async = in_thread(count_documents)
    count_documents_by_filter_async = in_thread(count_documents_by_filter)
    filter_documents_async = in_thread(filter_documents)
    write_documents_async = in_thread(write_documents)
    delete_documents_async = in_thread(delete_documents)
    delete_by_filter_async = in_thread(delete_by_filter)
    delete_all_documents_async = in_thread(delete_all_documents)
    embedding_retrieval_async = in_thread(embedding_retrieval)
    hybrid_retrieval_async = in_thread(hybrid_retrieval)


def _url(secret: Secret) -> str:
    url = secret.resolve_value()
    if not isinstance(url, str):
        raise InputError("the secret of the database's URL is empty; set the variable that it names")
    return url


def _db_to_dict(db: str | Secret | Database) -> str | dict[str, Any]:
    if isinstance(db, Secret):
        return db.to_dict()
    if not isinstance(db, str):
        raise InputError("a store on an open database cannot be serialized; give the database's URL")
    if _has_password(db):
        raise InputError("the database's URL holds a password; give it as Secret.from_env_var('VARIABLE') instead")
    return db


def _has_password(url: str) -> bool:
    credentials, _, address = url.partition("://")[2].rpartition("@")
    return ":" in credentials or bool(SECRETS & parse_qs(address.partition("?")[2]).keys())


def _search(collection: Collection, vector: list[float], k: int, filter: Mapping[str, Any]) -> list[Hit]:
    """Return the k hits closest to a vector among documents with an embedding.

    Most collections have no other documents, so search without that condition first.
    """
    hits = collection.search(vector, k, filter=filter)
    if all(map(has_embedding, hits)):
        return hits
    return collection.search(vector, k, filter={"$and": [filter, HAS_EMBEDDING]})


def _vectors(documents: Sequence[Document], dimensions: int) -> NDArray[Any]:
    """Return the embeddings (n, d), with the placeholder where there is none."""
    placeholder = placeholder_vector(dimensions).tolist()
    vectors = [placeholder if document.embedding is None else document.embedding for document in documents]
    return as_vectors(vectors, "embeddings")


def _scaled(score: float, metric: Metric) -> float:
    """Map a score to 0 … 1 by the formula of Haystack's in-memory store."""
    if metric == "cosine":
        return min(max((score + 1) / 2, 0.0), 1.0)
    return float(1 / (1 + np.exp(-score / 100)))
