"""Clients of a Qdrant server: faults and restarts under load, limits of time, forks; to wait for and to await."""

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
from forked import use_across_fork
from qdrant_wire import WireServer

import qvec
from qvec import Calibration, DatabaseError
from qvec.qdrant import connection

ROWS = 200
VECTORS = realistic(1000)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[WireServer]:
    """A server with a collection "docs"."""
    with WireServer(tmp_path) as server:
        with qvec.connect(url_of(server)) as db:
            db.create_collection("docs", calibration=Calibration.fit(VECTORS)).upsert(np.arange(ROWS), VECTORS[:ROWS])
        yield server


def url_of(server: WireServer) -> str:
    return f"qdrant://127.0.0.1:{server.port}"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long waits between tries."""
    monkeypatch.setattr(connection, "RETRY_SECONDS", (0.01,) * 3)


@pytest.mark.usefixtures("soon")
def test_a_request_that_fails_for_a_while_is_awaited_again(wire: WireServer) -> None:
    async def ask() -> None:
        async with await qvec.connect_async(url_of(wire)) as db:
            docs = await db.collection("docs")
            wire.fail("QueryBatch", times=2)
            assert (await docs.search(VECTORS[3], 1))[0].id == 3
            wire.fail("QueryBatch", times=5)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': "):
                await docs.search(VECTORS[3], 1)
            before = wire.count("QueryBatch")
            wire.fail("QueryBatch", code=grpc.StatusCode.INVALID_ARGUMENT)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': "):
                await docs.search(VECTORS[3], 1)
            assert wire.count("QueryBatch") >= before + 1

    asyncio.run(ask())


def test_requests_that_wait_for_another_attempt_end_when_the_client_closes(wire: WireServer) -> None:
    """The error is that of their last attempt."""

    async def search_and_close() -> None:
        db = await qvec.connect_async(url_of(wire))
        docs = await db.collection("docs")
        wire.fail("QueryBatch", times=100, code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=30)
        searching = asyncio.create_task(docs.search(VECTORS[3], 1))
        await asyncio.sleep(0.5)
        await db.close()
        with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .*a fault on purpose"):
            await searching

    began = time.monotonic()
    asyncio.run(search_and_close())
    db = qvec.connect(url_of(wire))
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


def test_a_request_has_its_time(wire: WireServer) -> None:
    async def ask() -> None:
        async with await qvec.connect_async(url_of(wire), statement_timeout=1) as db:
            docs = await db.collection("docs")
            wire.delay("QueryBatch", 4)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': Deadline Exceeded"):
                await docs.search(VECTORS[3], 1)

    began = time.monotonic()
    asyncio.run(ask())
    assert time.monotonic() - began < 12


def test_tasks_survive_a_restart_under_load(wire: WireServer) -> None:
    answered, failed = 0, []

    async def live() -> None:
        stop = asyncio.Event()

        async def read(docs: Any) -> None:
            nonlocal answered
            while not stop.is_set():
                try:
                    assert (await docs.search(VECTORS[7], 1))[0].id == 7
                    answered += 1
                except Exception as error:
                    failed.append(error)

        async with await qvec.connect_async(url_of(wire)) as db:
            docs = await db.collection("docs")
            tasks = [asyncio.create_task(read(docs)) for _ in range(20)]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(wire.stop)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(wire.start)
            before = answered
            await asyncio.sleep(3)
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), 30)
            assert answered > before + 10

    asyncio.run(live())
    assert failed == []


def test_threads_survive_a_restart_under_load(wire: WireServer) -> None:
    stop = threading.Event()
    answered, failed = [0], []

    def read(docs: Any) -> None:
        while not stop.is_set():
            try:
                assert docs.search(VECTORS[7], 1)[0].id == 7
                answered[0] += 1
            except Exception as error:
                failed.append(error)

    with qvec.connect(url_of(wire)) as db:
        docs = db.collection("docs")
        threads = [threading.Thread(target=read, args=(docs,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        wire.stop()
        time.sleep(0.3)
        wire.start()
        before = answered[0]
        time.sleep(3)
        stop.set()
        for thread in threads:
            thread.join(30)
    assert answered[0] > before + 10
    assert failed == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("sync", r"was opened before this process was forked; connect again in the process that uses it"),
        ("async", r"was opened in another event loop or process; call connect_async in the one that uses it"),
    ],
)
def test_a_forked_child_is_told_to_connect_again(wire: WireServer, kind: str, message: str) -> None:
    first, child, last = use_across_fork(url_of(wire), kind)
    assert (first, last) == ("parent True", "parent True")
    assert child.endswith(message)
