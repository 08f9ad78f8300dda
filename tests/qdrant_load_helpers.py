"""Helpers for tests of loading into Qdrant: compare a collection with the expected rows, read checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.client import Database
from qvec.qdrant.points import stored_vectors


def found_rows(database: Database, name: str = "docs") -> dict[int | str, bytes]:
    """Return the stored vectors of a collection, as bytes by row id."""
    collection = database.collection(name)
    found: dict[int | str, bytes] = {}
    start: Any = 0
    while start is not None:
        records, start = collection.stored.view.engine().scroll(start, 1000, vectors=True)
        for record in records:
            id = (record.payload or {}).get("id", record.id)
            assert id not in found
            found[id] = record.vector.astype(np.float32).tobytes()
    return found


def expected_rows(
    database: Database, array: NDArray[np.float32], ids: Sequence[int | str] | None = None, name: str = "docs"
) -> dict[int | str, bytes]:
    """Return the vectors that a collection must store after each row of `array` was loaded exactly once."""
    collection = database.collection(name)
    stored = stored_vectors(array, collection.calibration, collection.stored.view.layout)
    return {id: vector.tobytes() for id, vector in zip(range(len(array)) if ids is None else ids, stored, strict=True)}


def assert_holds(
    database: Database, array: NDArray[np.float32], ids: Sequence[int | str] | None = None, name: str = "docs"
) -> None:
    found, expected = found_rows(database, name), expected_rows(database, array, ids, name)
    assert found.keys() == expected.keys()
    assert found == expected


def checkpoint_position(database: Database, path: Path, name: str = "docs") -> int:
    """Return the position of a source's checkpoint, or -1 before its load began."""
    checkpoint = database.store.backend.read_load(name, str(path))
    return -1 if checkpoint is None else checkpoint["position"]
