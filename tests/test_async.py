"""The async client on all stores: the same results as the sync client, concurrency, cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pytest
from conftest import realistic
from databases import Store, ids
from numpy.typing import NDArray

import qvec
from qvec import Calibration, CollectionError, InputError, RowError
from qvec.client import Collection
from qvec.metadata_index import MetadataIndex

Vectors = NDArray[np.float32]
T = TypeVar("T")

ROWS = 400
CALLERS = 200


@pytest.fixture(scope="module")
def docs(store: Store) -> Collection:
    """A collection of `ROWS` rows, written by the sync client."""
    vectors = realistic(1000)
    docs = store.create(Calibration.fit(vectors))
    texts = [f"text {row}" for row in range(ROWS)]
    docs.upsert(np.arange(ROWS), vectors[:ROWS], texts, [{"row": row} for row in range(ROWS)])
    docs.build_index()
    return docs


def run_async(store: Store, work: Callable[[Any], Awaitable[T]], **options: Any) -> T:
    """Run `work` with the store's database, opened by `connect_async` in a new event loop."""

    async def opened() -> T:
        async with await qvec.connect_async(store.url, **options) as database:
            return await work(database)

    return asyncio.run(opened())


def test_collection_from_creation_to_drop(store: Store, vectors: Vectors, calibration: Calibration) -> None:
    name = store.new_name()

    async def use(db: Any) -> None:
        assert not await db.has_collection(name)
        docs = await db.create_collection(name, calibration=calibration, model="m")
        with pytest.raises(CollectionError, match=f"collection '{name}' exists already"):
            await db.create_collection(name, calibration=calibration)
        assert await docs.upsert(np.arange(300), vectors[:300], [f"old {row}" for row in range(300)]) == 300
        assert await docs.upsert([7, 300], vectors[[7, 300]], ["new", "new"], [{"a": 1}, None]) == 2
        assert await docs.count() == 301
        assert [hit and (hit.document, hit.metadata) for hit in await docs.get([7, 999, 8])] == [
            ("new", {"a": 1}),
            None,
            ("old 8", None),
        ]
        assert await docs.delete([8, 999]) == 1
        await docs.index_metadata([MetadataIndex.parse("a:integer")])
        assert ids(await docs.scroll({"a": 1})) == [7]
        reported: list[object] = []
        await docs.build_index(lambda *progress: reported.append(progress))
        assert await docs.has_index()
        await docs.set_oversampling(6)
        again = await db.collection(name)
        assert (again.oversampling, again.model, again.calibration) == (6, "m", calibration)
        assert name in [found.name for found in await db.collections()]
        info = await again.info()
        assert (info.rows, info.index, info.oversampling) == (300, "built", 6)
        assert ids(await again.search(vectors[7], k=1)) == [7]
        await db.drop_collection(name)
        with pytest.raises(CollectionError, match=f"no collection '{name}' in "):
            await db.collection(name)

    run_async(store, use)


def test_results_equal_those_of_the_sync_client(store: Store, docs: Collection, queries: Vectors) -> None:
    async def search(db: Any) -> None:
        other = await db.collection(docs.name)
        assert repr(other).removeprefix("Async") == repr(docs)
        for options in ({}, {"exact": True}, {"filter": {"row": {"$lt": 50}}}, {"texts": False}, {"rescore": False}):
            assert await other.search(queries[0], 5, **options) == docs.search(queries[0], 5, **options)
        assert await other.search(queries[:4], 3) == docs.search(queries[:4], 3)
        np.testing.assert_array_equal(await other.vectors([3, 999, 5]), docs.vectors([3, 999, 5]))
        explained, expected = await other.explain(queries[0], 5), docs.explain(queries[0], 5)
        assert (explained.hits, explained.statement) == (expected.hits, expected.statement)
        assert explained.milliseconds.keys() == expected.milliseconds.keys()
        assert await other.info() == docs.info()

    run_async(store, search)


def test_rows_are_streamed_in_batches(store: Store, docs: Collection) -> None:
    async def read(db: Any) -> None:
        other = await db.collection(docs.name)
        parts = [part async for part in other.iter_rows(50, 120)]
        expected = list(docs.iter_rows(50, 120))
        assert [len(part.ids) for part in parts] == [120, 120, 110]
        for part, wanted in zip(parts, expected, strict=True):
            assert list(part.ids) == list(wanted.ids)
            np.testing.assert_array_equal(part.vectors, wanted.vectors)
            assert (part.documents, part.metadata) == (wanted.documents, wanted.metadata)

    run_async(store, read)


def test_questions_are_embedded_outside_the_thread_of_the_event_loop(store: Store, docs: Collection) -> None:
    """Also in paged, grouped and diverse searches."""
    vectors = realistic(1000)
    threads: set[int] = set()

    class Embedder:
        def embed_queries(self, texts: Any) -> Vectors:
            threads.add(threading.get_ident())
            return vectors[[int(text) for text in texts]]

        embed_documents = embed_queries

    async def search(db: Any) -> None:
        other = await db.collection(docs.name)
        other.embedder = Embedder()
        assert (await other.search("17", 1))[0].id == 17
        assert [hits[0].id for hits in await other.search(["3", "5"], 1)] == [3, 5]
        assert (await other.explain("9", 1)).hits[0].id == 9
        page = await other.search_page("4", 2)
        assert page.hits[0].id == 4
        assert len({*ids(page.hits), *ids((await other.search_page("4", 2, page.cursor)).hits)}) == 4
        assert (await other.search_diverse("4", 3))[0].id == 4
        assert (await other.search_groups("4", "row", 2))[0].value == 4
        assert threads
        assert threading.get_ident() not in threads

    run_async(store, search)


def test_derived_searches_equal_those_of_the_sync_client(store: Store, docs: Collection) -> None:
    """With each option and with the defaults."""
    store.need_ranking()
    query: Any = realistic(1, seed=7)[0]
    filter, words = {"row": {"$lt": 100}}, "text 12 13 14 99"
    docs.index_texts("simple")
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("search_diverse", (query, 4), {}),
        ("search_diverse", (query, 4), {"fetch_k": 9, "lambda_mult": 0.2, "filter": filter, "oversampling": 2}),
        ("search_text", (words, 3), {"filter": filter, "texts": False}),
        ("search_hybrid", (words,), {"vector": query}),
        ("search_hybrid", (words, 4), {"vector": query, "fetch_k": 6, "weights": (1, 3), "fusion": "scores"}),
        ("search_hybrid", (words, 4), {"vector": query, "filter": filter, "oversampling": 2}),
        ("search_hybrid", (words, 4), {"vector": query, "reranker": lambda _, texts: [len(text) for text in texts]}),
        ("search_groups", (query, "row", 3), {}),
        ("search_groups", (query, "row", 3), {"group_size": 2, "filter": filter, "oversampling": 2}),
        ("search_page", (query, 3), {}),
        ("search_page", (query, 3), {"filter": filter, "oversampling": 2}),
        ("search_page", (query, 3), {"exact": True}),
    ]

    async def search(db: Any) -> list[Any]:
        other = await db.collection(docs.name)
        return [await getattr(other, name)(*given, **options) for name, given, options in calls]

    expected = [getattr(docs, name)(*given, **options) for name, given, options in calls]
    for call, ours, theirs in zip(calls, run_async(store, search), expected, strict=True):
        assert ours == theirs, call
    assert ids(expected[0]) != ids(docs.search(query, 4))


def test_invalid_arguments_are_refused(store: Store, docs: Collection, vectors: Vectors) -> None:
    async def search(db: Any) -> None:
        other = await db.collection(docs.name)
        with pytest.raises(InputError, match="k is 0, expected at least 1"):
            await other.search(vectors[0], 0)
        with pytest.raises(InputError, match="64"):
            await other.search([1.0, 2.0])
        bad = vectors[:3].copy()
        bad[2, 0] = np.nan
        with pytest.raises(RowError, match="row 2: NaN"):
            await other.upsert([1, 2, 3], bad)
        with pytest.raises(InputError, match="oversampling is 0, expected at least 1"):
            await other.set_oversampling(0)

    run_async(store, search)


# Concurrency


def test_concurrent_searches_share_a_few_connections(store: Store, docs: Collection) -> None:
    vectors = realistic(1000)

    async def search(db: Any) -> None:
        other = await db.collection(docs.name)
        found = await asyncio.gather(*(other.search(vectors[row], 1) for row in range(CALLERS)))
        assert [hits[0].id for hits in found] == list(range(CALLERS))

    run_async(store, search, pool_size=3)


def test_event_loop_runs_while_rows_are_written(store: Store) -> None:
    """The loop is never blocked for more than half the time that quantizing and writing the rows takes."""
    if store.is_single_process:
        pytest.skip("the embedded engine holds the interpreter lock while it writes")
    vectors = realistic(20_000, 256)
    name = store.new_name()

    async def work(db: Any) -> None:
        other = await db.create_collection(name, calibration=Calibration.fit(vectors[:1000]))
        longest = 0.0
        done = asyncio.Event()

        async def tick() -> None:
            nonlocal longest
            while not done.is_set():
                started = time.perf_counter()
                await asyncio.sleep(0.001)
                longest = max(longest, time.perf_counter() - started)

        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.01)
        started = time.perf_counter()
        await other.upsert(np.arange(20_000), vectors)
        seconds = time.perf_counter() - started
        done.set()
        await ticking
        assert longest < max(0.25, seconds / 2), f"of {seconds:.2f} s the loop was blocked for {longest:.2f} s"

    run_async(store, work)


def test_cancelled_searches_leave_the_pool_usable(store: Store, docs: Collection) -> None:
    vectors = realistic(1000)

    async def cancel(db: Any) -> None:
        other = await db.collection(docs.name)
        await other.search(vectors[0], 1)
        for pause in (0.0, 0.002, 0.005, 0.01, 0.02):
            tasks = [asyncio.create_task(other.search(vectors[row], 1, exact=row % 2 == 0)) for row in range(CALLERS)]
            await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, (list, asyncio.CancelledError)) for end in ended)
        found = await asyncio.wait_for(
            asyncio.gather(*(other.search(vectors[row], 1) for row in range(CALLERS))), timeout=60
        )
        assert [hits[0].id for hits in found] == list(range(CALLERS))

    run_async(store, cancel, pool_size=4)


# Event loops and close


def test_database_belongs_to_one_event_loop(store: Store, docs: Collection) -> None:
    if store.is_single_process:
        pytest.skip("the embedded engine works in threads of any event loop")
    database = asyncio.run(qvec.connect_async(store.url))

    async def use() -> None:
        with pytest.raises(InputError, match=r" was opened in another event loop or process; call connect_async"):
            await database.collection(docs.name)

    asyncio.run(use())


def test_use_after_close(store: Store, docs: Collection, vectors: Vectors) -> None:
    async def use() -> None:
        database = await qvec.connect_async(store.url)
        other = await database.collection(docs.name)
        await database.close()
        await database.close()
        if store.reopens_after_close:
            assert await other.count() == ROWS
            await database.close()
            return
        for work in (other.count(), other.search(vectors[0]), database.collections(), database.has_collection("a")):
            with pytest.raises(InputError, match=r" is closed; connect again$"):
                await work

    asyncio.run(use())
