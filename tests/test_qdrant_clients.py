"""Sync and async clients of a Qdrant server: retries, restarts under load, timeouts, forks."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import realistic
from fake_qdrant import FakeQdrantServer
from fork_helpers import use_across_fork

import qvec
from qvec import Calibration, DatabaseError
from qvec.qdrant import connection

ROWS = 200
VECTORS = realistic(1000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeQdrantServer]:
    """A fake server with a collection "docs"."""
    with FakeQdrantServer(tmp_path) as server:
        with qvec.connect(server.url) as db:
            db.create_collection("docs", calibration=Calibration.fit(VECTORS)).upsert(np.arange(ROWS), VECTORS[:ROWS])
        yield server


@pytest.fixture
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make waits between retries short."""
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.01,) * 3)


def test_connecting_reads_no_certificates(server: FakeQdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """qdrant-client also opens a REST client, which is not used."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("read certificates")

    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", refuse)

    async def count() -> int:
        async with await qvec.connect_async(server.url) as db:
            return await (await db.collection("docs")).count()

    assert asyncio.run(count()) == ROWS
    with qvec.connect(server.url) as db:
        assert db.collection("docs").count() == ROWS


@pytest.mark.usefixtures("short_retries")
def test_async_requests_are_retried_after_transient_failures(server: FakeQdrantServer) -> None:
    async def search() -> None:
        async with await qvec.connect_async(server.url) as db:
            docs = await db.collection("docs")
            server.fail("QueryBatch", times=2)
            assert (await docs.search(VECTORS[3], 1))[0].id == 3
            server.fail("QueryBatch", times=5)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': "):
                await docs.search(VECTORS[3], 1)
            before = server.count("QueryBatch")
            server.fail("QueryBatch", code=grpc.StatusCode.INVALID_ARGUMENT)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': "):
                await docs.search(VECTORS[3], 1)
            assert server.count("QueryBatch") >= before + 1

    asyncio.run(search())


def test_closing_the_client_ends_retries(server: FakeQdrantServer) -> None:
    """They raise the error of their last attempt."""

    async def search_and_close() -> None:
        db = await qvec.connect_async(server.url)
        docs = await db.collection("docs")
        server.fail("QueryBatch", times=100, code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=30)
        searching = asyncio.create_task(docs.search(VECTORS[3], 1))
        await asyncio.sleep(0.5)
        await db.close()
        with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .*a fault on purpose"):
            await searching

    began = time.monotonic()
    asyncio.run(search_and_close())
    db = qvec.connect(server.url)
    docs, errors = db.collection("docs"), []

    def search() -> None:
        try:
            docs.search(VECTORS[3], 1)
        except DatabaseError as error:
            errors.append(str(error))

    thread = threading.Thread(target=search)
    thread.start()
    time.sleep(0.5)
    db.close()
    thread.join(20)
    (error,) = errors
    assert error.startswith("cannot read collection 'docs': ")
    assert "a fault on purpose" in error
    assert time.monotonic() - began < 20


def test_requests_end_at_the_statement_timeout(server: FakeQdrantServer) -> None:
    async def search() -> None:
        async with await qvec.connect_async(server.url, statement_timeout=1) as db:
            docs = await db.collection("docs")
            server.delay("QueryBatch", 4)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': Deadline Exceeded"):
                await docs.search(VECTORS[3], 1)

    began = time.monotonic()
    asyncio.run(search())
    assert time.monotonic() - began < 12


@pytest.mark.slow
def test_async_searches_survive_a_server_restart(server: FakeQdrantServer) -> None:
    answered, failed = 0, []

    async def search_during_restart() -> None:
        stop = asyncio.Event()

        async def keep_searching(docs: Any) -> None:
            nonlocal answered
            while not stop.is_set():
                try:
                    assert (await docs.search(VECTORS[7], 1))[0].id == 7
                    answered += 1
                except Exception as error:
                    failed.append(error)

        async with await qvec.connect_async(server.url) as db:
            docs = await db.collection("docs")
            tasks = [asyncio.create_task(keep_searching(docs)) for _ in range(20)]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.stop)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
            before = answered
            await asyncio.sleep(3)
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 30)
            assert answered > before + 10

    asyncio.run(search_during_restart())
    assert failed == []


@pytest.mark.slow
def test_searches_in_threads_survive_a_server_restart(server: FakeQdrantServer) -> None:
    stop = threading.Event()
    answered, failed = [0], []

    def keep_searching(docs: Any) -> None:
        while not stop.is_set():
            try:
                assert docs.search(VECTORS[7], 1)[0].id == 7
                answered[0] += 1
            except Exception as error:
                failed.append(error)

    with qvec.connect(server.url) as db:
        docs = db.collection("docs")
        threads = [threading.Thread(target=keep_searching, args=(docs,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        server.stop()
        time.sleep(0.3)
        server.start()
        before = answered[0]
        time.sleep(3)
        stop.set()
        for thread in threads:
            thread.join(30)
    assert answered[0] > before + 10
    assert failed == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sync", r"was opened before this process was forked; connect again in the process that uses it"),
        ("async", r"was opened in another event loop or process; call connect_async in the one that uses it"),
    ],
)
def test_forked_child_gets_an_error_to_connect_again(server: FakeQdrantServer, kind: str, message: str) -> None:
    first, child, last = use_across_fork(server.url, kind)
    assert (first, last) == ("parent True", "parent True")
    assert child.endswith(message)
