"""A writer that never rests, beside what a test does."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@contextlib.contextmanager
def writing_meanwhile(docs: Any, rows: Vectors) -> Iterator[dict[int, Vectors]]:
    """Upserts rows over the collection's own and new ones, until the block ends; gives the vector of every id written.

    Raises what a write raised; fails where hardly any was done.
    """
    written: dict[int, Vectors] = {}
    stop, faults = threading.Event(), []

    def write() -> None:
        turn = 0
        try:
            while not stop.is_set():
                turn += 1
                ids = [turn % len(rows), 10_000 + turn]
                vectors = rows[[(7 * turn) % len(rows), (3 * turn) % len(rows)]]
                docs.upsert(ids, vectors)
                written.update(zip(ids, vectors, strict=True))
        except Exception as error:
            faults.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()
    assert faults == []
    assert len(written) > 20
