"""Haystack documents to rows and back.

A Haystack document may lack an embedding, but every row needs a vector. Such a document gets a fixed random unit
vector, no closer to a query than chance, and a mark in its metadata by which vector searches exclude it.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from functools import lru_cache
from typing import Any

import numpy as np
from haystack.dataclasses import ByteStream, Document, SparseEmbedding
from numpy.typing import NDArray

from qvec.results import Hit

_KEY = "_haystack"
"""The metadata key for the fields of a document that have no column of their own."""
HAS_EMBEDDING = {f"{_KEY}.unembedded": {"$exists": False}}
"""The filter for documents with an embedding."""


def row_metadata(document: Document) -> dict[str, Any]:
    """Return a document's meta, with its other fields under `_haystack` if it has any."""
    fields: dict[str, Any] = {}
    if document.embedding is None:
        fields["unembedded"] = True
    if document.blob is not None:
        data = b64encode(document.blob.data).decode()
        fields["blob"] = {"data": data, "meta": document.blob.meta, "mime_type": document.blob.mime_type}
    if document.sparse_embedding is not None:
        fields["sparse_embedding"] = document.sparse_embedding.to_dict()
    return {**document.meta, _KEY: fields} if fields else document.meta


def has_embedding(hit: Hit) -> bool:
    return "unembedded" not in (hit.metadata or {}).get(_KEY, {})


def to_document(hit: Hit, vector: NDArray[np.float32] | None = None, score: float | None = None) -> Document:
    """Return the document of a row, with `vector` as its embedding if it was written with one."""
    meta = dict(hit.metadata or {})
    fields = meta.pop(_KEY, {})
    sparse = fields.get("sparse_embedding")
    return Document(
        id=str(hit.id),
        content=hit.document,
        blob=_blob(fields["blob"]) if "blob" in fields else None,
        meta=meta,
        score=score,
        embedding=vector.tolist() if vector is not None and has_embedding(hit) else None,
        sparse_embedding=SparseEmbedding.from_dict(sparse) if sparse else None,
    )


def _blob(value: dict[str, Any]) -> ByteStream:
    return ByteStream(b64decode(value["data"]), meta=value["meta"], mime_type=value["mime_type"])


@lru_cache(maxsize=8)
def placeholder_vector(dimensions: int) -> NDArray[np.float32]:
    """Return the unit vector (d,) of documents without an embedding."""
    drawn = np.random.default_rng(0).normal(size=dimensions)
    vector: NDArray[np.float32] = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return vector
