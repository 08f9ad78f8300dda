"""Locks, per-process values and the objects that use them, in children forked while they are in use."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from embedding_server import EmbeddingServer, serving
from numpy.typing import NDArray

import qvec
from qvec import Calibration, DatabaseError
from qvec.client import embedders
from qvec.client.embedders import Embedders, embedding_of
from qvec.embedding import CachedQueries, asynchronous, load_embedder
from qvec.forking import Lock, ProcessLocal
from qvec.integrations.lazy_collection import LazyCollection
from qvec.qdrant import directory
from qvec.qdrant.directory import Directory

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SECONDS = 10


class ForkedCall:
    """Call a function in a forked child process."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._reader, writer = os.pipe()
        self._id = os.fork()
        if self._id:
            os.close(writer)
            return
        try:
            os.write(writer, pickle.dumps(work()))
        finally:
            os._exit(0)

    def result(self) -> Any:
        """Return the function's result; fail if it raised or hangs."""
        deadline = time.monotonic() + SECONDS
        while os.waitpid(self._id, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._id, 9)
                os.waitpid(self._id, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        with os.fdopen(self._reader, "rb") as file:
            return pickle.loads(file.read())


@contextmanager
def held_by_another_thread(lock: Any) -> Iterator[None]:
    """Hold a lock in another thread."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_lock_of_another_thread_is_free_in_a_child() -> None:
    lock = Lock()

    def take() -> bool:
        with lock:
            return True

    with held_by_another_thread(lock):
        assert ForkedCall(take).result()
        free: list[bool] = []
        thread = threading.Thread(target=lambda: free.append(take()))
        thread.start()
        thread.join(0.1)
        assert free == []  # in this process it is still held
    thread.join()


def test_lock_of_the_forking_thread_stays_locked_in_a_child() -> None:
    lock = Lock()

    def is_locked() -> bool:
        found: list[bool] = []
        threading.Thread(target=lambda: found.append(bool(lock.__enter__())), daemon=True).start()
        time.sleep(0.1)
        return found == []

    with lock:
        assert ForkedCall(is_locked).result()


def test_process_local_value_is_made_once_per_process() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(os.getpid())
        time.sleep(0.05)
        return os.getpid()

    value = ProcessLocal(make)
    assert value.if_made() is None
    threads = [threading.Thread(target=value) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [os.getpid()]
    assert value() == value.if_made() == os.getpid()
    assert ForkedCall(lambda: (value.if_made(), value() == os.getpid(), len(made))).result() == (None, True, 2)


class ConstantEmbedder:
    """Embed every text as ones."""

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 2), np.float32)

    embed_queries = embed_documents


def test_child_loads_a_model_that_the_parent_is_loading(
    monkeypatch: pytest.MonkeyPatch, calibration: Calibration
) -> None:
    started, proceed = threading.Event(), threading.Event()
    parent = os.getpid()

    def load(_: Any) -> ConstantEmbedder:
        if os.getpid() == parent:
            started.set()
            proceed.wait(SECONDS)
        return ConstantEmbedder()

    monkeypatch.setattr(embedders, "load_embedder", load)
    database_embedders = Embedders()
    collection: Any = SimpleNamespace(name="docs", model="m", embedding=None)
    options = embedding_of(collection, calibration)
    loading = threading.Thread(target=database_embedders.load, args=[options])
    loading.start()
    started.wait()
    assert ForkedCall(lambda: len(database_embedders.load(options).embed_queries(["a", "b"]))).result() == 2
    proceed.set()
    loading.join()


def test_query_cache_works_in_a_child() -> None:
    cached = CachedQueries(ConstantEmbedder())
    with held_by_another_thread(cached._lock):
        assert ForkedCall(lambda: cached.embed_queries(["a"]).tolist()).result() == [[1, 1]]


def test_child_embeds_a_question_that_the_parent_is_embedding() -> None:
    started, proceed = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow(ConstantEmbedder):
        def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if os.getpid() == parent:
                started.set()
                proceed.wait(SECONDS)
            return super().embed_queries(texts)

    cached = CachedQueries(Slow())
    asking = threading.Thread(target=cached.embed_queries, args=[["a"]])
    asking.start()
    started.wait()
    assert ForkedCall(lambda: cached.embed_queries(["a"]).tolist()).result() == [[1, 1]]
    proceed.set()
    asking.join()


def test_async_embedding_works_in_a_child() -> None:
    def embed() -> Any:
        return asyncio.run(asynchronous.embed_queries_async(ConstantEmbedder(), ["a"])).tolist()

    assert embed() == ForkedCall(embed).result() == [[1, 1]]


def test_database_works_in_a_child(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        db.create_collection("docs", calibration=calibration)
        lazy = LazyCollection(db, "docs")
        with held_by_another_thread(db.store._connections._pool._lock), held_by_another_thread(lazy._lock):  # type: ignore[attr-defined]
            assert ForkedCall(lambda: lazy.get().count()).result() == 0  # type: ignore[union-attr]
        assert db.collection("docs").count() == 0


def test_haystack_document_store_opens_in_a_child(url: str) -> None:
    haystack = pytest.importorskip("qvec.integrations.haystack")
    store = haystack.QvecDocumentStore(url, "docs")
    with held_by_another_thread(store._lazy_collection._lock):
        assert ForkedCall(store.count_documents).result() == 0
    store.close()


def test_child_cannot_use_the_parents_qdrant_directory(tmp_path: Path, calibration: Calibration) -> None:
    with qvec.connect(f"qdrant:{tmp_path}") as db:

        def error_message(work: Callable[[], Any]) -> str:
            with pytest.raises(DatabaseError) as caught:
                work()
            return str(caught.value)

        def error_messages() -> list[str]:
            return [
                error_message(lambda: qvec.connect(f"qdrant:{tmp_path}")),
                error_message(lambda: db.create_collection("docs", calibration=calibration)),
            ]

        open_directory: Any = db.store.backend._directory  # type: ignore[attr-defined]
        assert isinstance(open_directory, Directory)
        with held_by_another_thread(directory._opening), held_by_another_thread(open_directory._mutex):
            opened_again, written = ForkedCall(error_messages).result()
        assert " is open in another process (pid " in opened_again
        assert " was opened before this process was forked; connect again" in written


@pytest.mark.slow
def test_forked_workers_receive_their_own_embeddings() -> None:
    """The server is slow, so workers that shared a socket would read each other's responses."""

    def numbers(texts: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(0.05)
        return np.array([[float(text) if text.isdigit() else 0, 1] for text in texts], np.float32)

    with serving(EmbeddingServer(numbers)) as server:
        embedder = load_embedder(server.url)

        def ask(worker: int) -> list[float]:
            return [float(embedder.embed_queries([str(100 * worker + number)])[0, 0]) for number in range(8)]

        workers = [ForkedCall(lambda worker=worker: ask(worker)) for worker in range(3)]  # type: ignore[misc]
        found = [worker.result() for worker in workers]
        assert found == [[100 * worker + number for number in range(8)] for worker in range(3)]
        assert ask(9) == [900 + number for number in range(8)]
