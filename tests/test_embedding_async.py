"""Async embedding in threads or by an embedder's async methods, and the cache of queries."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import realistic
from numpy.typing import NDArray

import qvec
from qvec import Calibration, EmbeddingError
from qvec.embedding import CachedQueries, asynchronous

Vectors = NDArray[np.float32]


def vectors_of(texts: Sequence[str]) -> Vectors:
    return np.array([[len(text), 1] for text in texts], np.float32)


class BlockingEmbedder:
    """Sleeps before each answer, like a server; records texts in `calls`; raises `failure` in place of an answer."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.failure: Exception | None = None
        self.calls: list[list[str]] = []

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        time.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return vectors_of(texts)

    embed_documents = embed_queries


class AsyncEmbedder(BlockingEmbedder):
    """The same with async methods, which must be used."""

    async def embed_queries_async(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return vectors_of(texts)

    embed_documents_async = embed_queries_async

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        raise AssertionError(f"{texts} were embedded in a thread")

    embed_documents = embed_queries


def in_threads(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call the functions in parallel threads; return what each returns or raises."""
    found: list[Any] = [None] * len(functions)

    def call(index: int) -> None:
        try:
            found[index] = functions[index]()
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=call, args=[index]) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def in_tasks(functions: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Call the functions in concurrent tasks; return what each returns or raises."""

    async def call() -> list[Any]:
        return await asyncio.wait_for(
            asyncio.gather(*(function() for function in functions), return_exceptions=True), 10
        )

    return asyncio.run(call())


# Threads and async methods


def test_32_questions_are_embedded_in_parallel() -> None:
    """The default executor of an event loop has only four threads more than there are processors."""
    barrier = threading.Barrier(32)

    class BarrierEmbedder(BlockingEmbedder):
        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            barrier.wait(5)
            return vectors_of(texts)

    found = in_tasks([lambda: asynchronous.embed_queries_async(BarrierEmbedder(), ["question"])] * 64)
    assert [vectors.tolist() for vectors in found] == [[[8, 1]]] * 64


def test_async_methods_of_embedder_are_awaited() -> None:
    embedder = AsyncEmbedder()
    found = in_tasks([lambda: asynchronous.embed_queries_async(embedder, ["question"])] * 200)
    assert [vectors.tolist() for vectors in found] == [[[8, 1]]] * 200
    assert in_tasks([lambda: asynchronous.embed_documents_async(embedder, ["text"])])[0].tolist() == [[4, 1]]


def test_collection_awaits_async_embedder(tmp_path: Path) -> None:
    async def use() -> None:
        async with await qvec.connect_async(f"qdrant:{tmp_path}") as db:
            docs = await db.create_collection("docs", calibration=Calibration.fit(realistic(100, 2)))
            docs.embedder = AsyncEmbedder(0)
            assert await docs.add(["a", "a longer one"], ids=[1, 2]) == [1, 2]
            hits = await docs.search(["b", "another, as long"], 1)
            assert [hit.id for (hit,) in hits] == [1, 2]
            assert docs.embedder.calls == [["a", "a longer one"], ["b", "another, as long"]]

    asyncio.run(use())


def test_vector_searches_do_not_wait_for_embeddings(tmp_path: Path) -> None:
    release = threading.Event()

    class WaitingEmbedder(BlockingEmbedder):
        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            release.wait(10)
            return vectors_of(texts)

    async def use() -> None:
        async with await qvec.connect_async(f"qdrant:{tmp_path}") as db:
            docs = await db.create_collection("docs", calibration=Calibration.fit(realistic(100, 2)))
            await docs.upsert([1], [[1.0, 2.0]])
            docs.embedder = WaitingEmbedder()
            searches = [asyncio.create_task(docs.search("question", 1)) for _ in range(100)]
            await asyncio.sleep(0.1)
            try:
                hits = await asyncio.wait_for(docs.search([1.0, 2.0], 1), 5)
            finally:
                release.set()
            assert [hit.id for hit in hits] == [1]
            assert [hit.id for (hit,) in await asyncio.gather(*searches)] == [1] * 100

    asyncio.run(use())


# The cache: concurrent requests for the same question


def test_concurrent_threads_embed_a_question_once() -> None:
    embedder = BlockingEmbedder()
    cached = CachedQueries(embedder)
    found = in_threads([lambda: cached.embed_queries(["question", "too"])] * 8)
    assert [vectors.tolist() for vectors in found] == [[[8, 1], [3, 1]]] * 8
    assert embedder.calls == [["question", "too"]]


@pytest.mark.parametrize("kind", [BlockingEmbedder, AsyncEmbedder])
def test_concurrent_tasks_embed_a_question_once(kind: type[BlockingEmbedder]) -> None:
    embedder = kind()
    cached = CachedQueries(embedder)
    found = in_tasks([lambda: cached.embed_queries_async(["question", "too"])] * 100)
    assert [vectors.tolist() for vectors in found] == [[[8, 1], [3, 1]]] * 100
    assert embedder.calls == [["question", "too"]]
    assert in_tasks([lambda: cached.embed_queries_async(["too"])])[0].tolist() == [[3, 1]]
    assert embedder.calls == [["question", "too"]]


def test_overlapping_batches_embed_each_question_once() -> None:
    embedder = BlockingEmbedder()
    cached = CachedQueries(embedder)
    found = in_threads(
        [lambda: cached.embed_queries(["a", "bb"]), lambda: cached.embed_queries(["bb", "ccc", "a", "ccc"])]
    )
    assert [vectors[:, 0].tolist() for vectors in found] == [[1, 2], [2, 3, 1, 3]]
    assert sorted(text for texts in embedder.calls for text in texts) == ["a", "bb", "ccc"]


def test_failure_reaches_all_waiting_tasks_and_is_not_cached() -> None:
    embedder = AsyncEmbedder()
    embedder.failure = EmbeddingError("the server is away")
    cached = CachedQueries(embedder)
    found = in_tasks([lambda: cached.embed_queries_async(["question"])] * 5)
    assert found == [embedder.failure] * 5
    assert embedder.calls == [["question"]]
    embedder.failure = None
    assert in_tasks([lambda: cached.embed_queries_async(["question"])])[0].tolist() == [[8, 1]]


def test_too_few_vectors_raise_in_all_threads() -> None:
    class ShortEmbedder(BlockingEmbedder):
        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            return super().embed_queries(texts)[1:]

    cached = CachedQueries(ShortEmbedder())
    found = in_threads([lambda: cached.embed_queries(["a", "b"])] * 3)
    assert [type(error) for error in found] == [ValueError] * 3


def test_cancelled_task_does_not_cancel_others() -> None:
    """This holds for the task that embeds the question and for one that waits for its result."""
    embedder = AsyncEmbedder()
    cached = CachedQueries(embedder)

    async def use() -> None:
        tasks = [asyncio.create_task(cached.embed_queries_async(["question"])) for _ in range(4)]
        await asyncio.sleep(0.02)
        tasks[1].cancel()
        await asyncio.sleep(0.02)
        tasks[0].cancel()
        done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert [type(found) for found in done[:2]] == [asyncio.CancelledError] * 2
        assert [found.tolist() for found in done[2:]] == [[[8, 1]]] * 2

    asyncio.run(use())
    assert embedder.calls == [["question"]] * 2
