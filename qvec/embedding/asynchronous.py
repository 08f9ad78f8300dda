"""Placeholder until the embedding package brings it."""
from __future__ import annotations
from qvec.embedding.awaiting import embed_documents as embed_documents_async
from qvec.embedding.awaiting import embed_queries as embed_queries_async
from qvec.embedding.awaiting import in_thread as in_thread_async
def embed_documents(embedder, texts): return embedder.embed_documents(texts)
def embed_queries(embedder, texts): return embedder.embed_queries(texts)
def in_thread(work, *a, **k): return work(*a, **k)
