"""Write to a collection in a background thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from patience import wait_until

Vectors = NDArray[np.float32]


@contextlib.contextmanager
def writing_in_background(docs: Any, rows: Vectors) -> Iterator[dict[int, Vectors]]:
    """Upsert existing and new rows in a thread until the block ends; yield the vector of every id written.

    Before the block begins and after it ends, at least ten writes are made. Fail if a write raised an error.
    """
    written: dict[int, Vectors] = {}
    stop, errors = threading.Event(), []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                ids = [number % len(rows), 10_000 + number]
                vectors = rows[[(7 * number) % len(rows), (3 * number) % len(rows)]]
                docs.upsert(ids, vectors)
                written.update(zip(ids, vectors, strict=True))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=write)

    def wait_for_ten() -> None:
        wanted = len(written) + 20  # two ids a write
        wait_until(lambda: len(written) >= wanted or not thread.is_alive())

    thread.start()
    try:
        wait_for_ten()
        yield written
        wait_for_ten()
    finally:
        stop.set()
        thread.join()
    assert errors == []
