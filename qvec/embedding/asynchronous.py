"""Placeholder until the embedding package brings it."""

from __future__ import annotations

from typing import Any

from qvec.embedding import awaiting

embed_documents_async = awaiting.embed_documents
embed_queries_async = awaiting.embed_queries
in_thread_async = awaiting.in_thread


def embed_documents(embedder: Any, texts: Any) -> Any:
    return embedder.embed_documents(texts)


def embed_queries(embedder: Any, texts: Any) -> Any:
    return embedder.embed_queries(texts)


def in_thread(work: Any, *a: Any, **k: Any) -> Any:
    return work(*a, **k)
