"""Haystack's documents as rows, and rows as documents.

A document may have no embedding, and every row has a vector: such a document gets a random direction, the same for all,
which is no nearer to a question than chance, and is marked in its metadata.
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
"""Where a row's metadata holds what is neither the document's text nor its meta."""
EMBEDDED = {f"{_KEY}.unembedded": {"$exists": False}}
"""The filter that documents with an embedding pass."""


def metadata_of(document: Document) -> dict[str, Any]:
    """What a document's row has as metadata: its meta, and what has no other place."""
    rest: dict[str, Any] = {}
    if document.embedding is None:
        rest["unembedded"] = True
    if document.blob is not None:
        rest["blob"] = _blob_to_json(document.blob)
    if document.sparse_embedding is not None:
        rest["sparse_embedding"] = document.sparse_embedding.to_dict()
    return {**document.meta, _KEY: rest} if rest else document.meta


def is_embedded(hit: Hit) -> bool:
    return "unembedded" not in (hit.metadata or {}).get(_KEY, {})


def document_of(hit: Hit, vector: NDArray[np.float32] | None = None, score: float | None = None) -> Document:
    """The document of a row, with the vector that is given if it has one of its own."""
    meta = dict(hit.metadata or {})
    rest = meta.pop(_KEY, {})
    return Document(
        id=str(hit.id),
        content=hit.document,
        blob=_blob_of(rest["blob"]) if "blob" in rest else None,
        meta=meta,
        score=score,
        embedding=vector.tolist() if vector is not None and is_embedded(hit) else None,
        sparse_embedding=SparseEmbedding.from_dict(rest["sparse_embedding"]) if "sparse_embedding" in rest else None,
    )


def _blob_to_json(blob: ByteStream) -> dict[str, Any]:
    return {"data": b64encode(blob.data).decode(), "meta": blob.meta, "mime_type": blob.mime_type}


def _blob_of(value: dict[str, Any]) -> ByteStream:
    return ByteStream(b64decode(value["data"]), meta=value["meta"], mime_type=value["mime_type"])


@lru_cache(maxsize=8)
def nowhere(dimensions: int) -> NDArray[np.float32]:
    """The unit vector (d,) of documents without an embedding."""
    drawn = np.random.default_rng(0).normal(size=dimensions)
    vector: NDArray[np.float32] = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return vector
