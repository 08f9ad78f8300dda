"""Placeholder until the embedding package brings it."""

from __future__ import annotations


def embed_documents(embedder, texts):
    return embedder.embed_documents(texts)


def embed_queries(embedder, texts):
    return embedder.embed_queries(texts)


def in_thread(work, *a, **k):
    return work(*a, **k)
