"""Locks, per-process values and what uses them, in processes forked while they are in use."""

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


class Child:
    """A forked process that calls a function."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._answer, answer = os.pipe()
        self._id = os.fork()
        if self._id:
            os.close(answer)
            return
        try:
            os.write(answer, pickle.dumps(work()))
        finally:
            os._exit(0)

    def answer(self) -> Any:
        """Return the function's result. Fail where it raised or hangs."""
        deadline = time.monotonic() + SECONDS
        while os.waitpid(self._id, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(self._id, 9)
                os.waitpid(self._id, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        with os.fdopen(self._answer, "rb") as file:
            return pickle.loads(file.read())


@contextmanager
def held(lock: Any) -> Iterator[None]:
    """Let another thread hold a lock."""
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


def test_a_lock_that_another_thread_held_is_free_in_a_child() -> None:
    lock = Lock()

    def take() -> bool:
        with lock:
            return True

    with held(lock):
        assert Child(take).answer()
        free: list[bool] = []
        thread = threading.Thread(target=lambda: free.append(take()))
        thread.start()
        thread.join(0.1)
        assert free == []  # in this process it is still held
    thread.join()


def test_a_thread_that_forks_with_a_lock_still_has_it() -> None:
    lock = Lock()

    def excluded() -> bool:
        found: list[bool] = []
        threading.Thread(target=lambda: found.append(bool(lock.__enter__())), daemon=True).start()
        time.sleep(0.1)
        return found == []

    with lock:
        assert Child(excluded).answer()


def test_a_value_is_made_once_in_each_process() -> None:
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
    assert Child(lambda: (value.if_made(), value() == os.getpid(), len(made))).answer() == (None, True, 2)


class Ones:
    """Embeds every text as ones."""

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), 2), np.float32)

    embed_queries = embed_documents


def test_a_model_loads_in_a_child_while_it_loads_here(
    monkeypatch: pytest.MonkeyPatch, calibration: Calibration
) -> None:
    began, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def load(_: Any) -> Ones:
        if os.getpid() == parent:
            began.set()
            go_on.wait(SECONDS)
        return Ones()

    monkeypatch.setattr(embedders, "load_embedder", load)
    of_database = Embedders()
    collection: Any = SimpleNamespace(name="docs", model="m", embedding=None)
    options = embedding_of(collection, calibration)
    loading = threading.Thread(target=of_database.load, args=[options])
    loading.start()
    began.wait()
    assert Child(lambda: len(of_database.load(options).embed_queries(["a", "b"]))).answer() == 2
    go_on.set()
    loading.join()


def test_cached_questions_are_answered_in_a_child() -> None:
    cached = CachedQueries(Ones())
    with held(cached._lock):
        assert Child(lambda: cached.embed_queries(["a"]).tolist()).answer() == [[1, 1]]


def test_a_question_that_the_parent_is_embedding_is_embedded_in_a_child() -> None:
    began, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow(Ones):
        def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
            if os.getpid() == parent:
                began.set()
                go_on.wait(SECONDS)
            return super().embed_queries(texts)

    cached = CachedQueries(Slow())
    asking = threading.Thread(target=cached.embed_queries, args=[["a"]])
    asking.start()
    began.wait()
    assert Child(lambda: cached.embed_queries(["a"]).tolist()).answer() == [[1, 1]]
    go_on.set()
    asking.join()


def test_a_child_embeds_in_separate_threads() -> None:
    def embed() -> Any:
        return asyncio.run(asynchronous.embed_queries_async(Ones(), ["a"])).tolist()

    assert embed() == Child(embed).answer() == [[1, 1]]


def test_a_database_is_used_in_a_child(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        db.create_collection("docs", calibration=calibration)
        lazy = LazyCollection(db, "docs")
        with held(db.store._connections._pool._lock), held(lazy._lock):  # type: ignore[attr-defined]
            assert Child(lambda: lazy.get().count()).answer() == 0  # type: ignore[union-attr]
        assert db.collection("docs").count() == 0


def test_a_document_store_is_opened_in_a_child(url: str) -> None:
    haystack = pytest.importorskip("qvec.integrations.haystack")
    store = haystack.QvecDocumentStore(url, "docs")
    with held(store._lazy_collection._lock):
        assert Child(store.count_documents).answer() == 0
    store.close()


def test_a_directory_of_another_process_is_refused_in_a_child(tmp_path: Path, calibration: Calibration) -> None:
    with qvec.connect(f"qdrant:{tmp_path}") as db:

        def refusal(work: Callable[[], Any]) -> str:
            with pytest.raises(DatabaseError) as caught:
                work()
            return str(caught.value)

        def refusals() -> list[str]:
            return [
                refusal(lambda: qvec.connect(f"qdrant:{tmp_path}")),
                refusal(lambda: db.create_collection("docs", calibration=calibration)),
            ]

        home: Any = db.store.backend._directory  # type: ignore[attr-defined]
        assert isinstance(home, Directory)
        with held(directory._opening), held(home._mutex):
            opened_again, written = Child(refusals).answer()
        assert " is open in another process (pid " in opened_again
        assert " was opened before this process was forked; connect again" in written


def test_workers_with_one_embedder_get_the_vectors_of_their_own_texts() -> None:
    """The server is slow: workers that shared a socket would read each other's answers."""

    def numbers(texts: Sequence[str]) -> NDArray[np.float32]:
        time.sleep(0.05)
        return np.array([[float(text) if text.isdigit() else 0, 1] for text in texts], np.float32)

    with serving(EmbeddingServer(numbers)) as server:
        embedder = load_embedder(server.url)

        def ask(worker: int) -> list[float]:
            return [float(embedder.embed_queries([str(100 * worker + asked)])[0, 0]) for asked in range(8)]

        workers = [Child(lambda worker=worker: ask(worker)) for worker in range(3)]  # type: ignore[misc]
        found = [worker.answer() for worker in workers]
        assert found == [[100 * worker + asked for asked in range(8)] for worker in range(3)]
        assert ask(9) == [900 + asked for asked in range(8)]
