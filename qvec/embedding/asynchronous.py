"""Embed texts from sync and async code: by an embedder's own async methods, or in a pool of threads for embedders.

Each function has a sync twin without the suffix `_async`, for the sync client, which is generated from the async one.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from numpy.typing import NDArray

from qvec.embedding.protocol import AsyncEmbedder, TextEmbedder
from qvec.forking import ProcessLocal

P = ParamSpec("P")
T = TypeVar("T")

# Not the event loop's own threads: those serve the embedded engine, and are only four more than processors. An embedder
# mostly waits for a server; a model on 2 processors answers as many questions a second from 32 threads as from 6
# (within 5%).
_threads = ProcessLocal(partial(ThreadPoolExecutor, 32, "qvec-async-embedding"))


async def embed_documents_async(embedder: TextEmbedder, texts: Sequence[str]) -> NDArray[Any]:
    """Return the vectors of texts, shape (len(texts), dimensions)."""
    if isinstance(embedder, AsyncEmbedder):
        return await embedder.embed_documents_async(texts)
    return await in_embedding_thread_async(embedder.embed_documents, texts)


def embed_documents(embedder: TextEmbedder, texts: Sequence[str]) -> NDArray[Any]:
    """Return the vectors of texts, shape (len(texts), dimensions)."""
    return embedder.embed_documents(texts)


async def embed_queries_async(embedder: TextEmbedder, texts: Sequence[str]) -> NDArray[Any]:
    """Return the vectors of questions, shape (len(texts), dimensions)."""
    if isinstance(embedder, AsyncEmbedder):
        return await embedder.embed_queries_async(texts)
    return await in_embedding_thread_async(embedder.embed_queries, texts)


def embed_queries(embedder: TextEmbedder, texts: Sequence[str]) -> NDArray[Any]:
    """Return the vectors of questions, shape (len(texts), dimensions)."""
    return embedder.embed_queries(texts)


async def in_embedding_thread_async(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call in a thread for embedders and return its result."""
    call = partial(contextvars.copy_context().run, work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads(), call)


def in_embedding_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `work`: sync code may block."""
    return work(*args, **kwargs)
