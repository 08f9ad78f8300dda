"""Async embedding, in threads or by an embedder's async methods; and the cache of questions."""

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


class Blocking:
    """Blocks before each answer, like a server, and records the questions; `fails` is raised in place of an answer."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.fails: Exception | None = None
        self.asked: list[list[str]] = []

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        time.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails
        return vectors_of(texts)

    embed_documents = embed_queries


class Awaited(Blocking):
    """Has async methods."""

    async def embed_queries_async(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(list(texts))
        await asyncio.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails
        return vectors_of(texts)

    embed_documents_async = embed_queries_async

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        raise AssertionError(f"{texts} were embedded in a thread")

    embed_documents = embed_queries


def in_threads(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what each call returns or raises, all of them run in parallel threads."""
    found: list[Any] = [None] * len(works)

    def do(place: int) -> None:
        try:
            found[place] = works[place]()
        except Exception as error:
            found[place] = error

    threads = [threading.Thread(target=do, args=[place]) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return found


def in_tasks(works: Sequence[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Return what each call returns or raises, all of them run as concurrent tasks."""

    async def do() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*(work() for work in works), return_exceptions=True), 10)

    return asyncio.run(do())


# Threads and async methods


def test_32_questions_are_embedded_in_parallel() -> None:
    """The event loop's own threads would be only four more than the processors."""
    together = threading.Barrier(32)

    class Meeting(Blocking):
        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            together.wait(5)
            return vectors_of(texts)

    found = in_tasks([lambda: asynchronous.embed_queries_async(Meeting(), ["question"])] * 64)
    assert [vectors.tolist() for vectors in found] == [[[8, 1]]] * 64


def test_async_methods_of_embedder_are_awaited() -> None:
    embedder = Awaited()
    found = in_tasks([lambda: asynchronous.embed_queries_async(embedder, ["question"])] * 200)
    assert [vectors.tolist() for vectors in found] == [[[8, 1]]] * 200
    assert in_tasks([lambda: asynchronous.embed_documents_async(embedder, ["text"])])[0].tolist() == [[4, 1]]


def test_collection_awaits_async_embedder(tmp_path: Path) -> None:
    async def use() -> None:
        async with await qvec.connect_async(f"qdrant:{tmp_path}") as db:
            docs = await db.create_collection("docs", calibration=Calibration.fit(realistic(100, 2)))
            docs.embedder = Awaited(0)
            assert await docs.add(["a", "a longer one"], ids=[1, 2]) == [1, 2]
            hits = await docs.search(["b", "another, as long"], 1)
            assert [hit.id for (hit,) in hits] == [1, 2]
            assert docs.embedder.asked == [["a", "a longer one"], ["b", "another, as long"]]

    asyncio.run(use())


def test_vector_searches_do_not_wait_for_embeddings(tmp_path: Path) -> None:
    go_on = threading.Event()

    class Waiting(Blocking):
        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            go_on.wait(10)
            return vectors_of(texts)

    async def use() -> None:
        async with await qvec.connect_async(f"qdrant:{tmp_path}") as db:
            docs = await db.create_collection("docs", calibration=Calibration.fit(realistic(100, 2)))
            await docs.upsert([1], [[1.0, 2.0]])
            docs.embedder = Waiting()
            asking = [asyncio.create_task(docs.search("question", 1)) for _ in range(100)]
            await asyncio.sleep(0.1)
            try:
                hits = await asyncio.wait_for(docs.search([1.0, 2.0], 1), 5)
            finally:
                go_on.set()
            assert [hit.id for hit in hits] == [1]
            assert [hit.id for (hit,) in await asyncio.gather(*asking)] == [1] * 100

    asyncio.run(use())


# The cache: questions that come several times at once


def test_concurrent_threads_embed_a_question_once() -> None:
    embedder = Blocking()
    cached = CachedQueries(embedder)
    found = in_threads([lambda: cached.embed_queries(["question", "too"])] * 8)
    assert [vectors.tolist() for vectors in found] == [[[8, 1], [3, 1]]] * 8
    assert embedder.asked == [["question", "too"]]


@pytest.mark.parametrize("kind", [Blocking, Awaited])
def test_concurrent_tasks_embed_a_question_once(kind: type[Blocking]) -> None:
    embedder = kind()
    cached = CachedQueries(embedder)
    found = in_tasks([lambda: cached.embed_queries_async(["question", "too"])] * 100)
    assert [vectors.tolist() for vectors in found] == [[[8, 1], [3, 1]]] * 100
    assert embedder.asked == [["question", "too"]]
    assert in_tasks([lambda: cached.embed_queries_async(["too"])])[0].tolist() == [[3, 1]]
    assert embedder.asked == [["question", "too"]]


def test_overlapping_batches_embed_each_question_once() -> None:
    embedder = Blocking()
    cached = CachedQueries(embedder)
    found = in_threads(
        [lambda: cached.embed_queries(["a", "bb"]), lambda: cached.embed_queries(["bb", "ccc", "a", "ccc"])]
    )
    assert [vectors[:, 0].tolist() for vectors in found] == [[1, 2], [2, 3, 1, 3]]
    assert sorted(text for texts in embedder.asked for text in texts) == ["a", "bb", "ccc"]


def test_failure_reaches_all_waiting_tasks_and_is_not_cached() -> None:
    embedder = Awaited()
    embedder.fails = EmbeddingError("the server is away")
    cached = CachedQueries(embedder)
    found = in_tasks([lambda: cached.embed_queries_async(["question"])] * 5)
    assert found == [embedder.fails] * 5
    assert embedder.asked == [["question"]]
    embedder.fails = None
    assert in_tasks([lambda: cached.embed_queries_async(["question"])])[0].tolist() == [[8, 1]]


def test_too_few_vectors_raise_in_all_threads() -> None:
    class Short(Blocking):
        def embed_queries(self, texts: Sequence[str]) -> Vectors:
            return super().embed_queries(texts)[1:]

    cached = CachedQueries(Short())
    found = in_threads([lambda: cached.embed_queries(["a", "b"])] * 3)
    assert [type(error) for error in found] == [ValueError] * 3


def test_cancelled_task_does_not_cancel_others() -> None:
    """Neither the task that embeds the question nor one that waits for it."""
    embedder = Awaited()
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
    assert embedder.asked == [["question"]] * 2
