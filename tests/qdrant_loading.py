"""What the tests of loading into Qdrant share: what a collection has to hold, and loads that kill themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.client import Database
from qvec.ingest import IngestOptions, Reporter, Stop, Summary, ingest
from qvec.qdrant.points import stored_vectors
from qvec.sources import open_source

DRIVER = """
import importlib, os, signal, sys
from qvec.cli import main
from qvec.ingest import encoder, pipeline
from qvec.qdrant import loader
_, rows, seconds, moment, number = sys.argv[:5]
del sys.argv[1:5]
encoder._BATCH_BYTES = 4 * 8 * int(rows)
loader._CHECKPOINT_SECONDS = float(seconds)
pipeline._RETRY_SECONDS = (0.05,) * 20

def kill_at(moment, number):
    when, _, path = moment.partition(" ")
    module, _, name = path.partition(":")
    *holders, last = name.split(".")
    holder = importlib.import_module(module)
    for name in holders:
        holder = getattr(holder, name)
    real, calls = getattr(holder, last), []
    def killing(*arguments, **options):
        calls.append(None)
        if len(calls) == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == number and when == "during":
            signal.setitimer(signal.ITIMER_REAL, 0.3)
        result = real(*arguments, **options)
        if len(calls) == number and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(holder, last, killing)

if moment:
    kill_at(moment, int(number))
main()
"""
"""The command with small batches, a checkpoint so often, and an end by a signal before, during or after the number-th
call of a function ("before module:name"), or none."""


def start(
    *arguments: Any, batch_rows: int, checkpoint_seconds: float = 0, moment: str = "", number: int = 1
) -> subprocess.Popen[str]:
    """The command in a process of its own, with its output in pipes."""
    given = [str(batch_rows), str(checkpoint_seconds), moment, str(number), *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command, run to its end."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def load(
    database: Database, path: Path, reporter: Reporter | None = None, stop: Stop | None = None, **options: Any
) -> Summary:
    """One load in this process, without an index unless asked for."""
    options = {"collection": "docs", "index": False} | options
    with open_source(path) as source:
        return ingest(database, source, IngestOptions(**options), reporter, stop)


def found_rows(database: Database, name: str = "docs") -> dict[int | str, bytes]:
    """The vectors that a collection holds, by the ids of their rows."""
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
    """The vectors that a collection has to hold when the rows of `array` were loaded exactly once each."""
    collection = database.collection(name)
    stored = stored_vectors(array, collection.calibration, collection.stored.view.layout)
    return {id: vector.tobytes() for id, vector in zip(range(len(array)) if ids is None else ids, stored, strict=True)}


def assert_holds(
    database: Database, array: NDArray[np.float32], ids: Sequence[int | str] | None = None, name: str = "docs"
) -> None:
    found, expected = found_rows(database, name), expected_rows(database, array, ids, name)
    assert found.keys() == expected.keys()
    assert found == expected


def position(database: Database, path: Path, name: str = "docs") -> int:
    """The checkpoint of a source; -1 before its load began."""
    load = database.store.backend.read_load(name, str(path))
    return -1 if load is None else load["position"]
