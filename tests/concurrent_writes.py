"""Writes to a collection while a test does something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@contextlib.contextmanager
def writing_in_background(docs: Any, rows: Vectors) -> Iterator[dict[int, Vectors]]:
    """Upsert existing and new rows in a thread until the block ends; yield the vector of every id written.

    Fail where a write raised an error, or where no more than 20 ids were written.
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
