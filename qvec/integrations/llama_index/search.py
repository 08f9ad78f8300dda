"""LlamaIndex's queries as searches of a collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from qvec.client import mmr
from qvec.errors import InputError
from qvec.filters import matches, parse
from qvec.integrations.ids import row_ids
from qvec.integrations.llama_index import filters
from qvec.results import Hit

if TYPE_CHECKING:
    from qvec.integrations.target import Collection

_BY_VECTOR = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR, VectorStoreQueryMode.HYBRID)
_BY_WORDS = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.TEXT_SEARCH)
_MODES = (*_BY_VECTOR, VectorStoreQueryMode.TEXT_SEARCH)
_AMONG = 4
"""Of so many times as many nodes as are wanted MMR chooses, unless told."""


def check(query: VectorStoreQuery) -> None:
    """Raises InputError for a query of a mode that is not supported, or without what its mode needs."""
    mode = query.mode
    if mode not in _MODES:
        supported = ", ".join(mode.value for mode in _MODES)
        raise InputError(f"query mode {mode.value!r} is not supported; expected one of: {supported}")
    if mode in _BY_VECTOR and query.query_embedding is None:
        raise InputError("the query has no query_embedding; give the vector of its text")
    if mode in _BY_WORDS and query.query_str is None:
        raise InputError(f"the query has no query_str, whose words the mode {mode.value} looks for; give its text")
    if mode in _BY_WORDS and query.node_ids:
        raise InputError(f"the mode {mode.value} takes no node_ids; keep to nodes by filters, or use the mode default")
    if query.alpha is not None and not 0 <= query.alpha <= 1:
        raise InputError(f"alpha is {query.alpha}, expected 0 (words alone decide) to 1 (the vector alone)")


def search(collection: Collection, query: VectorStoreQuery, options: Mapping[str, Any]) -> list[Hit]:
    """The hits of a query; `options` are keywords of the collection's search of that mode, and in the mode mmr
    `mmr_threshold` and `mmr_prefetch_k`."""
    k = query.similarity_top_k
    filter = filters.both(filters.compiled(query.filters), filters.of_documents(query.doc_ids))
    if query.mode is VectorStoreQueryMode.TEXT_SEARCH:
        return collection.search_text(query.query_str or "", query.sparse_top_k or k, filter=filter, **options)
    if query.mode is VectorStoreQueryMode.HYBRID:
        return _hybrid(collection, query, filter, options)
    if query.mode is VectorStoreQueryMode.MMR:
        return _diverse(collection, query, filter, dict(options))
    vector = query.query_embedding or []
    if query.node_ids:  # an index that keeps no list of its nodes asks for none
        return _ranked(collection, vector, with_ids(collection, query.node_ids, filter), k, None)
    return collection.search(vector, k, filter=filter, **options)


def _hybrid(
    collection: Collection, query: VectorStoreQuery, filter: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Hit]:
    weights = (1.0, 1.0) if query.alpha is None else (query.alpha, 1 - query.alpha)
    return collection.search_hybrid(
        query.query_str or "",
        query.hybrid_top_k or query.similarity_top_k,
        vector=query.query_embedding,
        filter=filter,
        **{"weights": weights, **options},
    )


def _diverse(
    collection: Collection, query: VectorStoreQuery, filter: Mapping[str, Any], options: dict[str, Any]
) -> list[Hit]:
    threshold = options.pop("mmr_threshold", query.mmr_threshold)
    balance = 0.5 if threshold is None else threshold
    k, vector = query.similarity_top_k, query.query_embedding or []
    among = max(k, options.pop("mmr_prefetch_k", _AMONG * k))
    if query.node_ids:
        return _ranked(collection, vector, with_ids(collection, query.node_ids, filter), k, balance)
    return collection.search_diverse(vector, k, fetch_k=among, lambda_mult=balance, filter=filter, **options)


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
