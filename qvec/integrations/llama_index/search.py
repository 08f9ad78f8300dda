"""LlamaIndex's queries as searches of a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from qvec.errors import InputError
from qvec.filters import matches, parse
from qvec.hits import Hit
from qvec.integrations.ids import row_ids
from qvec.integrations.llama_index import filters
from qvec.retrieval import mmr

if TYPE_CHECKING:
    from qvec.integrations.target import Collection

_MODES = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
_AMONG = 4
"""Of so many times as many nodes as are wanted MMR chooses, unless told."""


def check(query: VectorStoreQuery) -> None:
    """Raises InputError for a query without a vector, or of another mode than default and mmr."""
    if query.mode not in _MODES:
        supported = ", ".join(mode.value for mode in _MODES)
        raise InputError(f"query mode {query.mode.value!r} is not supported; expected one of: {supported}")
    if query.query_embedding is None:
        raise InputError("the query has no query_embedding; give the vector of its text")


def search(collection: Collection, query: VectorStoreQuery, options: Mapping[str, Any]) -> list[Hit]:
    """The hits of a query; `options` are `mmr_threshold`, `mmr_prefetch_k`, and keywords of the collection's search."""
    options = dict(options)
    threshold = options.pop("mmr_threshold", query.mmr_threshold)
    balance = 0.5 if threshold is None else threshold
    k = query.similarity_top_k
    among = max(k, options.pop("mmr_prefetch_k", _AMONG * k))
    diverse = query.mode is VectorStoreQueryMode.MMR
    filter = filters.both(filters.compiled(query.filters), filters.of_documents(query.doc_ids))
    if query.node_ids:  # an index that keeps no list of its nodes asks for none
        hits = with_ids(collection, query.node_ids, filter)
        return _ranked(collection, query.query_embedding, hits, k, balance if diverse else None)
    if diverse:
        return collection.search_diverse(
            query.query_embedding or [], k, among=among, balance=balance, filter=filter, **options
        )
    return collection.search(query.query_embedding or [], k, filter=filter, **options)


def with_ids(collection: Collection, node_ids: Sequence[str], filter: Mapping[str, Any]) -> list[Hit]:
    """The rows of these nodes that are there and pass a filter."""
    parsed = parse(filter)
    found = collection.get(row_ids(collection, node_ids))
    return [hit for hit in found if hit is not None and matches(parsed, hit.metadata)]


def _ranked(collection: Collection, query: Any, hits: list[Hit], k: int, balance: float | None) -> list[Hit]:
    """The k best of given rows, by their vectors; the `balance` of `mmr` where they are to be diverse."""
    if not hits:
        return []
    prepared = collection.calibration.prepared(np.array([query], np.float32))[0]
    vectors = collection.calibration.prepared(collection.vectors([hit.id for hit in hits]))
    scores = vectors @ prepared
    if balance is None:
        chosen: Sequence[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    else:
        chosen = mmr(prepared, vectors, k, balance)
    return [replace(hits[position], score=float(scores[position])) for position in chosen]
