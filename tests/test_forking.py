"""Locks, values and what is built of them, in processes that are forked while they are in use."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from embedding_server import EmbeddingServer, serving
from numpy.typing import NDArray

from qvec.embedding import load_embedder
from qvec.forking import Lock, OwnValue

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

SECONDS = 10


class Child:
    """A forked process that does some work."""

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
        """What the work gave. Fails where it raised, or hangs."""
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
    """Another thread holds a lock meanwhile."""
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
        assert free == []  # here it is held as before
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

    value = OwnValue(make)
    assert value.if_made() is None
    threads = [threading.Thread(target=value) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [os.getpid()]
    assert value() == value.if_made() == os.getpid()
    assert Child(lambda: (value.if_made(), value() == os.getpid(), len(made))).answer() == (None, True, 2)


def test_workers_of_one_embedder_get_the_vectors_of_their_own_texts() -> None:
    """The server is slow, so that each would find the others' answers in a socket that they shared."""

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
