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
from qvec.integrations.adapters import row_ids
from qvec.integrations.llama_index.filters import all_of, convert_filters
from qvec.results import Hit

if TYPE_CHECKING:
    from qvec.client import Collection

_VECTOR_MODES = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR, VectorStoreQueryMode.HYBRID)
_TEXT_MODES = (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.TEXT_SEARCH)
_MODES = (*_VECTOR_MODES, VectorStoreQueryMode.TEXT_SEARCH)
_MMR_PREFETCH = 4
"""MMR chooses from this many times as many nodes as are wanted, unless `mmr_prefetch_k` is given."""


def check_query(query: VectorStoreQuery) -> None:
    """Raise InputError for an unsupported query mode, or a query without what its mode needs."""
    mode = query.mode
    if mode not in _MODES:
        supported = ", ".join(mode.value for mode in _MODES)
        raise InputError(f"query mode {mode.value!r} is not supported; expected one of: {supported}")
    if mode in _VECTOR_MODES and query.query_embedding is None:
        raise InputError("the query has no query_embedding; give the vector of its text")
    if mode in _TEXT_MODES and query.query_str is None:
        raise InputError(f"the query has no query_str, whose words the mode {mode.value} searches for; give its text")
    if mode in _TEXT_MODES and query.node_ids:
        raise InputError(f"the mode {mode.value} takes no node_ids; select nodes by filters, or use the mode default")
    if query.alpha is not None and not 0 <= query.alpha <= 1:
        raise InputError(f"alpha is {query.alpha}, expected 0 (full-text search only) to 1 (vector only)")


def search(collection: Collection, query: VectorStoreQuery, options: Mapping[str, Any]) -> list[Hit]:
    """Return the hits of a query.

    `options` are keywords of the collection's search method for the query's mode, and for mmr `mmr_threshold` and
    `mmr_prefetch_k`.
    """
    k = query.similarity_top_k
    filter = all_of(convert_filters(query.filters), in_documents(query.doc_ids))
    if query.mode is VectorStoreQueryMode.TEXT_SEARCH:
        return collection.search_text(query.query_str or "", query.sparse_top_k or k, filter=filter, **options)
    if query.mode is VectorStoreQueryMode.HYBRID:
        return _search_hybrid(collection, query, filter, options)
    if query.mode is VectorStoreQueryMode.MMR:
        return _search_diverse(collection, query, filter, dict(options))
    vector = query.query_embedding or []
    if query.node_ids:  # an index that keeps no list of its nodes passes none
        return _rank(collection, vector, get_hits(collection, query.node_ids, filter), k)
    return collection.search(vector, k, filter=filter, **options)


def _search_hybrid(
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


def _search_diverse(
    collection: Collection, query: VectorStoreQuery, filter: Mapping[str, Any], options: dict[str, Any]
) -> list[Hit]:
    threshold = options.pop("mmr_threshold", query.mmr_threshold)
    lambda_mult = 0.5 if threshold is None else threshold
    k, vector = query.similarity_top_k, query.query_embedding or []
    fetch_k = max(k, options.pop("mmr_prefetch_k", _MMR_PREFETCH * k))
    if query.node_ids:
        return _rank(collection, vector, get_hits(collection, query.node_ids, filter), k, lambda_mult)
    return collection.search_diverse(vector, k, fetch_k=fetch_k, lambda_mult=lambda_mult, filter=filter, **options)


def in_documents(ids: Sequence[str] | None) -> dict[str, Any]:
    """Return the filter for nodes of these source documents; empty for None."""
    return {} if ids is None else {"ref_doc_id": {"$in": list(ids)}}


def get_hits(collection: Collection, node_ids: Sequence[str], filter: Mapping[str, Any]) -> list[Hit]:
    """Return the rows of these nodes that exist and match a filter, in the order of the ids."""
    parsed = parse(filter)
    hits = collection.get(row_ids(collection, node_ids))
    return [hit for hit in hits if hit is not None and matches(parsed, hit.metadata)]


def _rank(
    collection: Collection, query: Sequence[float], hits: list[Hit], k: int, lambda_mult: float | None = None
) -> list[Hit]:
    """Return the k hits closest to the query by their stored vectors; with `lambda_mult` chosen by MMR."""
    if not hits:
        return []
    prepared = collection.calibration.prepared(np.array([query], np.float32))[0]
    vectors = collection.calibration.prepared(collection.vectors([hit.id for hit in hits]))
    scores = vectors @ prepared
    if lambda_mult is None:
        best: Sequence[int] = np.argsort(-scores, kind="stable")[:k].tolist()
    else:
        best = mmr(prepared, vectors, k, lambda_mult)
    return [replace(hits[position], score=float(scores[position])) for position in best]
