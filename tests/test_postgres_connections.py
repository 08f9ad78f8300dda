"""Postgres connections of the sync and async clients: options, restarts, cancellation, closing, forks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import realistic
from fork_helpers import use_across_fork
from numpy.typing import NDArray
from patience import wait_until

import qvec
from qvec import Calibration, DatabaseError, InputError
from qvec.client import Collection
from qvec.metadata_index import MetadataIndex
from qvec.postgres import embedded, pools, statements

Vectors = NDArray[np.float32]
ROWS = 300


@pytest.fixture
def docs(url: str) -> Iterator[Collection]:
    """A collection in a separate database; `qvec.connect(url)` opens it too."""
    with qvec.connect(url) as db:
        yield create_docs(db)


def create_docs(db: Any) -> Collection:
    vectors = realistic(1000)
    docs: Collection = db.create_collection("docs", calibration=Calibration.fit(vectors))
    docs.upsert(np.arange(ROWS), vectors[:ROWS])
    return docs


def count_sessions(admin: psycopg.Connection, url: str) -> dict[str, int]:
    """Return the number of qvec's sessions in the test's database, by state."""
    with psycopg.connect(url) as connection:
        name = connection.info.dbname
    found = admin.execute(
        "SELECT state, count(*) FROM pg_stat_activity WHERE datname = %s AND application_name = 'qvec' GROUP BY 1",
        [name],
    )
    return dict(found.fetchall())


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool_size": 0}, "pool_size is 0, expected at least 1"),
        ({"timeout": 0}, "timeout is 0, expected a number of seconds above 0"),
        ({"statement_timeout": -1}, "statement_timeout is -1, expected a number of seconds above 0"),
        ({"timeout": float("nan")}, "timeout is nan, expected a number of seconds above 0"),
        ({"pool_size": "3"}, "pool_size is '3', expected a whole number of at least 1"),
        ({"pool_size": 2.5}, "pool_size is 2.5, expected a whole number of at least 1"),
        ({"timeout": None}, "timeout is None, expected a number of seconds above 0"),
        ({"timeout": "3"}, "timeout is '3', expected a number of seconds above 0"),
        ({"timeout": 1e300}, "timeout is 1e+300, expected at most 2147483 seconds"),
        ({"statement_timeout": 1e12}, "statement_timeout is 1000000000000.0, expected at most 2147483 seconds"),
        ({"statement_timeout": float("inf")}, "statement_timeout is inf, expected at most 2147483 seconds"),
    ],
)
def test_invalid_options_are_refused(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        qvec.connect(url, **options)
    assert str(caught.value) == message
    with pytest.raises(InputError) as caught:
        asyncio.run(qvec.connect_async(url, **options))
    assert str(caught.value) == message


def test_longest_timeouts_are_accepted(url: str) -> None:
    with qvec.connect(url, timeout=2_147_483, statement_timeout=2_147_483) as db:
        assert not db.has_collection("nothing")


def test_pool_size_limits_connections(docs: Collection, url: str, admin: psycopg.Connection) -> None:
    docs._store.close()
    vectors = realistic(1000)

    async def search() -> None:
        async with await qvec.connect_async(url, pool_size=3) as db:
            other = await db.collection("docs")
            await asyncio.gather(*(other.search(vectors[row], 1) for row in range(200)))
            assert sum(count_sessions(admin, url).values()) <= 3

    asyncio.run(search())


@pytest.mark.usefixtures("docs")
def test_waiting_for_a_busy_pool_times_out(url: str) -> None:
    busy = r"^cannot read collection 'docs': all connections are busy .*couldn't get a connection after 0\.30 sec"
    with qvec.connect(url, pool_size=1, timeout=0.3) as db:
        other = db.collection("docs")
        started = time.monotonic()
        with db.store.connection(), pytest.raises(DatabaseError, match=busy):
            other.count()
        assert time.monotonic() - started < 1
        assert other.count() == ROWS

    async def wait() -> None:
        async with await qvec.connect_async(url, pool_size=1, timeout=0.3) as db:
            other = await db.collection("docs")
            async with db.store.connection():
                started = time.monotonic()
                with pytest.raises(DatabaseError, match=busy):
                    await other.count()
                assert time.monotonic() - started < 1
            assert await other.count() == ROWS

    asyncio.run(wait())


@pytest.mark.usefixtures("docs")
def test_statement_timeout_exempts_index_builds(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "count", lambda *_: b"SELECT pg_sleep(20)")
    with qvec.connect(url, statement_timeout=0.2) as db:
        other = db.collection("docs")
        with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .*statement timeout"):
            other.count()
        with db.store.direct_connection() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)

    async def count() -> None:
        async with await qvec.connect_async(url, statement_timeout=0.2) as db:
            other = await db.collection("docs")
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .*statement timeout"):
                await other.count()

    asyncio.run(count())


@pytest.mark.slow
@pytest.mark.usefixtures("docs")
def test_statement_timeout_exempts_text_and_metadata_indexes(url: str) -> None:
    """Each build waits for a lock longer than the limit, as if it read a large table."""
    by_kind = [MetadataIndex("kind", "keyword")]
    with qvec.connect(url, statement_timeout=0.2) as db:
        other = db.collection("docs")
        for build in (other.index_texts, lambda: other.index_metadata(by_kind)):
            with lock_docs(url):
                build()

    async def build_all() -> None:
        async with await qvec.connect_async(url, statement_timeout=0.2) as db:
            other = await db.collection("docs")
            with lock_docs(url):
                await other.index_texts()
            with lock_docs(url):
                await other.index_metadata(by_kind)
            with lock_docs(url), pytest.raises(DatabaseError, match="statement timeout"):
                await other.delete([1])

    asyncio.run(build_all())


@contextlib.contextmanager
def lock_docs(url: str) -> Iterator[None]:
    """Lock the table `docs` for the first 0.6 seconds of the block."""
    with psycopg.connect(url) as connection:
        connection.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        timer = threading.Timer(0.6, connection.rollback)
        timer.start()
        try:
            yield
        finally:
            timer.join()


# Cancellation


def test_cancelled_calls_leave_no_transaction_open(docs: Collection, url: str, admin: psycopg.Connection) -> None:
    """Exact searches hold a transaction with a cursor, upserts one with a COPY."""
    docs._store.close()
    vectors = realistic(1000)

    async def cancel() -> None:
        async with await qvec.connect_async(url, pool_size=4) as db:
            other = await db.collection("docs")
            for pause in (0.001, 0.003, 0.01, 0.03):
                coroutines = [other.search(vectors[row], 1, exact=True) for row in range(50)]
                coroutines += [other.upsert(np.arange(ROWS), vectors[:ROWS]) for _ in range(10)]
                tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
                await asyncio.sleep(pause)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            found = await asyncio.gather(*(other.search(vectors[row], 1) for row in range(200)))
            assert [hits[0].id for hits in found] == list(range(200))
            assert await other.count() == ROWS
            for _ in range(40):  # a server process may need a moment to report idle
                if count_sessions(admin, url).keys() == {"idle"}:
                    break
                await asyncio.sleep(0.05)
            assert count_sessions(admin, url).keys() == {"idle"}

    asyncio.run(cancel())


# Restarts


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of an embedded server that only this test uses."""
    yield embedded.start(tmp_path / "data")
    embedded.stop(tmp_path / "data")


def restart_server(directory: Path) -> None:
    assert embedded.stop(directory)
    time.sleep(0.5)
    embedded.start(directory)


def all_lost_connections(errors: list[BaseException]) -> bool:
    return all(isinstance(error, DatabaseError) and "the connection was lost" in str(error) for error in errors)


@pytest.mark.slow
def test_threads_survive_a_server_restart(server: str, tmp_path: Path) -> None:
    """Reads wait until the server is back; a running write fails as a lost connection and is not repeated."""
    vectors = realistic(1000)
    stop = threading.Event()
    reads, failed_reads, failed_writes = [0], [], []

    def read(docs: Any) -> None:
        while not stop.is_set():
            try:
                assert docs.search(vectors[7], 1)[0].id == 7
                reads[0] += 1
            except Exception as error:
                failed_reads.append(error)

    def write(docs: Any) -> None:
        while not stop.is_set():
            try:
                docs.upsert([1000], vectors[999:])
            except Exception as error:
                failed_writes.append(error)

    with qvec.connect(server) as db:
        docs = create_docs(db)
        threads = [threading.Thread(target=work, args=(docs,)) for work in (*[read] * 6, write)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        restart_server(tmp_path / "data")
        before = reads[0]
        time.sleep(3)
        stop.set()
        for thread in threads:
            thread.join(40)
        assert reads[0] > before + 10
        assert failed_reads == []
        assert all_lost_connections(failed_writes)
        assert docs.upsert([1001], vectors[998:999]) == 1


@pytest.mark.slow
def test_tasks_survive_a_server_restart(server: str, tmp_path: Path) -> None:
    """Reads wait until the server is back; a running write fails as a lost connection and is not repeated."""
    vectors = realistic(1000)
    reads, failed_reads, failed_writes = 0, [], []

    async def run_tasks() -> None:
        stop = asyncio.Event()

        async def read(docs: Any) -> None:
            nonlocal reads
            while not stop.is_set():
                try:
                    assert (await docs.search(vectors[7], 1))[0].id == 7
                    reads += 1
                except Exception as error:
                    failed_reads.append(error)

        async def write(docs: Any) -> None:
            while not stop.is_set():
                try:
                    await docs.upsert([1000], vectors[999:])
                except Exception as error:
                    failed_writes.append(error)

        async with await qvec.connect_async(server) as db:
            docs = await db.collection("docs")
            tasks = [asyncio.create_task(work(docs)) for work in (*[read] * 40, write)]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(restart_server, tmp_path / "data")
            before = reads
            await asyncio.sleep(3)
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 40)
            assert reads > before + 10
            assert failed_reads == []
            assert all_lost_connections(failed_writes)
            assert await docs.upsert([1001], vectors[998:999]) == 1

    with qvec.connect(server) as db:
        create_docs(db)
    asyncio.run(run_tasks())


@pytest.mark.slow
def test_stopped_server_is_an_error(server: str, tmp_path: Path) -> None:
    with qvec.connect(server, timeout=1) as db:
        docs = create_docs(db)
        embedded.stop(tmp_path / "data")
        with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .* the server is away \("):
            docs.count()
        with pytest.raises(DatabaseError, match=r"^cannot write to collection 'docs': .* the server is away \("):
            docs.upsert([1], realistic(1))
        embedded.start(tmp_path / "data")


@pytest.mark.slow
def test_pool_that_gave_up_restarts_for_a_waiting_caller(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool retries at growing intervals, gives up, and starts again while a caller waits."""
    monkeypatch.setattr(pools, "_RECONNECT_SECONDS", 0.5)
    with qvec.connect(server, timeout=30) as db:
        docs = create_docs(db)
        embedded.stop(tmp_path / "data")
        later = threading.Timer(4, embedded.start, [tmp_path / "data"])
        later.start()
        started = time.monotonic()
        assert docs.count() == ROWS
        assert 3 < time.monotonic() - started < 12
        later.join()


# Closing

CLOSED_ERROR = r"^cannot read collection 'docs': the database is closed, which it was not when this began$"


def all_sessions_end(admin: psycopg.Connection, url: str) -> bool:
    """Return whether all sessions end, which takes the server a moment, and no new one starts."""
    deadline = time.monotonic() + 5
    while count_sessions(admin, url) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.1)
    return not count_sessions(admin, url)


def test_search_during_close_does_not_reopen_the_pool(docs: Collection, url: str, admin: psycopg.Connection) -> None:
    started, proceed = threading.Event(), threading.Event()

    class SlowEmbedder:
        def embed_queries(self, texts: Any) -> Vectors:
            started.set()
            proceed.wait(10)
            return realistic(1000)[: len(texts)]

        embed_documents = embed_queries

    def error_after_close(search: Any) -> str:
        started.clear()
        proceed.clear()
        with ThreadPoolExecutor(1) as pool:
            searching = pool.submit(search)
            started.wait(10)
            docs._store.close()
            proceed.set()
            return str(searching.exception(10))

    docs.index_texts()
    docs.embedder = SlowEmbedder()
    searches = [
        lambda: docs.search("question"),
        lambda: docs.explain("question"),
        lambda: docs.search_hybrid("question"),
        lambda: docs.search_diverse("question"),
        lambda: docs.search_page("question"),
        lambda: docs.search_groups("question", "field"),
    ]
    for search in searches:
        assert re.match(CLOSED_ERROR, error_after_close(search))
    assert error_after_close(lambda: docs.add(["text"], ids=[1])).endswith(
        "the database is closed, which it was not when this began"
    )
    assert all_sessions_end(admin, url)
    assert docs.count() == ROWS


def test_async_searches_during_close_do_not_reopen_the_pool(
    docs: Collection, url: str, admin: psycopg.Connection
) -> None:
    """Searches that embed their question or wait for a connection fail; running ones finish."""
    docs._store.close()
    vectors = realistic(1000)

    async def use() -> None:
        async with await qvec.connect_async(url, pool_size=2) as db:
            other = await db.collection("docs")
            proceed = asyncio.Event()

            class SlowEmbedder:
                async def embed_queries_async(self, texts: Any) -> Vectors:
                    await proceed.wait()
                    return vectors[: len(texts)]

                embed_documents_async = embed_documents = embed_queries = embed_queries_async

            other.embedder = SlowEmbedder()
            coroutines = [other.search("question") for _ in range(20)] + [
                other.search_hybrid("question") for _ in range(20)
            ]
            coroutines += [other.search(vectors[0], 1, exact=True) for _ in range(40)]
            tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
            await asyncio.sleep(0.03)
            await db.close()
            proceed.set()
            found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
            assert all(re.match(CLOSED_ERROR, str(error)) for error in found[:40])
            assert {type(result) for result in found[40:]} <= {list, DatabaseError}
            assert all(re.match(CLOSED_ERROR, str(result)) for result in found[40:] if not isinstance(result, list))
            assert await asyncio.to_thread(all_sessions_end, admin, url)
            assert await other.count() == ROWS

    asyncio.run(use())


def test_running_call_finishes_after_close(
    docs: Collection, url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statements, "count", lambda *_: b"SELECT 7 FROM pg_sleep(0.5)")
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(docs.count)
        wait_until(lambda: "active" in count_sessions(admin, url))
        docs._store.close()
        assert counting.result(10) == 7
    assert all_sessions_end(admin, url)


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("docs")
def test_forked_child_opens_separate_connections(url: str) -> None:
    assert use_across_fork(url, "sync") == ["parent True", "child True", "parent True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("docs")
def test_forked_child_cannot_use_the_parents_async_database(url: str) -> None:
    first, child, last = use_across_fork(url, "async")
    assert (first, last) == ("parent True", "parent True")
    assert child.startswith("child InputError: ")
    assert child.endswith("was opened in another event loop or process; call connect_async in the one that uses it")


# Without a server


def test_connect_async_to_an_unreachable_server_is_an_error() -> None:
    with pytest.raises(DatabaseError, match=r"^cannot connect to postgresql://localhost:1/db: .*refused"):
        asyncio.run(qvec.connect_async("postgresql://localhost:1/db"))
    with pytest.raises(DatabaseError) as caught:
        asyncio.run(qvec.connect_async("postgresql://u:hunter2@localhost:1/db"))
    assert "hunter2" not in str(caught.value)


def test_closed_async_database_leaves_no_sessions(docs: Collection, url: str, admin: psycopg.Connection) -> None:
    docs._store.close()

    async def use() -> None:
        async with await qvec.connect_async(url) as db:
            other = await db.collection("docs")
            await asyncio.gather(*(other.count() for _ in range(20)))

    asyncio.run(use())
    deadline = time.monotonic() + 5
    while count_sessions(admin, url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert count_sessions(admin, url) == {}


def test_starting_the_embedded_server_does_not_block_the_event_loop(tmp_path: Path) -> None:
    async def start() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with await qvec.connect_async(f"postgres:{tmp_path}/data") as db:
            assert db.name == f"postgres:{tmp_path}/data"
            assert await db.collections() == []
        ticking.cancel()
        assert ticks > 10

    asyncio.run(start())
    assert embedded.stop(tmp_path / "data")
