"""Helpers for tests of loads: sources, the expected rows of a table, and loads in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.client import Collection, Database
from qvec.ingest import LoadOptions, Reporter, Stop, Summary, ingest
from qvec.postgres.rows import stored_codes
from qvec.sources import open_source

DIMENSIONS = 8

DRIVER = """
import sys, json
from pathlib import Path
from qvec.cli import main
from qvec.ingest import encoder, pipeline
encoder._BATCH_BYTES = 4 * 8 * int(sys.argv.pop(1))
pipeline._RETRY_SECONDS = (0.05,) * 20
main()
"""
"""The command with small batches; its first argument is the number of 8-dimensional rows in a batch."""


def random_vectors(rows: int, dimensions: int = DIMENSIONS, seed: int = 0) -> NDArray[np.float32]:
    """Return reproducible random vectors (rows, dimensions)."""
    return np.random.default_rng(seed).normal(0.1, 1, (rows, dimensions)).astype(np.float32)


def write_lines(path: Path, rows: Sequence[dict[str, Any] | str]) -> Path:
    """Write rows as JSON Lines, strings unchanged; return the path."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def with_ids(array: NDArray[np.float32], ids: Sequence[int | str] | None = None) -> list[dict[str, Any] | str]:
    """Return rows of JSON Lines with ids, by default the row numbers."""
    ids = range(len(array)) if ids is None else ids
    return [{"id": id, "vector": vector} for id, vector in zip(ids, array.tolist(), strict=True)]


def load_source(
    database: Database, path: Path, reporter: Reporter | None = None, stop: Stop | None = None, **options: Any
) -> Summary:
    """Load a source in this process; by default do not build an index."""
    options = {"collection": "docs", "index": False} | options
    with open_source(path) as source:
        return ingest(database, source, LoadOptions(**options), reporter, stop)


def codes_by_id(database: Database, name: str = "docs") -> dict[int | str, bytes]:
    """Return the codes in the table by id; its primary key excludes repeated ids."""
    table = database.collection(name).stored.table
    with database.store.connection() as connection, connection.cursor(binary=True) as cursor:
        return dict(cursor.execute(f'SELECT id, codes FROM "{table.name}"'.encode()).fetchall())


def expected_codes(
    collection: Collection, array: NDArray[np.float32], ids: Sequence[int | str] | None = None
) -> dict[int | str, bytes]:
    """Return the codes that the table must hold after each row of `array` is loaded exactly once."""
    codes = stored_codes(array, collection.calibration, collection.stored.table.layout)
    ids = range(len(array)) if ids is None else ids
    return {id: code.tobytes() for id, code in zip(ids, codes, strict=True)}


def assert_holds(
    database: Database, array: NDArray[np.float32], ids: Sequence[int | str] | None = None, name: str = "docs"
) -> None:
    """Assert that the table holds exactly the codes of these vectors under these ids."""
    stored = codes_by_id(database, name)
    expected = expected_codes(database.collection(name), array, ids)
    assert stored.keys() == expected.keys()
    assert stored == expected


def command_line(*arguments: str | Path, batch_rows: int | None = None) -> list[str]:
    """Return the command line of `qvec`, optionally with small batches."""
    if batch_rows is None:
        return [sys.executable, "-c", "from qvec.cli import main; main()", *map(str, arguments)]
    return [sys.executable, "-c", DRIVER, str(batch_rows), *map(str, arguments)]


def start_command(*arguments: str | Path, batch_rows: int | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a separate process, with its output in pipes."""
    return subprocess.Popen(
        command_line(*arguments, batch_rows=batch_rows),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
        **options,
    )


def run_command(
    *arguments: str | Path, batch_rows: int | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to completion."""
    process = start_command(*arguments, batch_rows=batch_rows, **options)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
