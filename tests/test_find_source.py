"""Recall is against the file that a collection of codes was loaded from, as long as both are unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import realistic
from test_cli import succeed

from qvec import connect

VECTORS = realistic(600, 32)


@pytest.fixture(params=["int8", "int4", "binary", "qdrant"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> tuple[str, Path]:
    """A database, and the file that its collection `docs` was loaded from."""
    file = tmp_path / "vectors.npy"
    np.save(file, VECTORS)
    db, rescore = (f"qdrant:{tmp_path / 'db'}", "binary") if request.param == "qdrant" else (url, request.param)
    succeed("ingest", file, "--db", db, "-c", "docs", "--rescore", rescore)
    return db, file


def told(db: str, *options: Any) -> str:
    """What an evaluation tells beside its figures."""
    return str(succeed("tune", "--db", db, "-c", "docs", "--limit", 20, "--recall", 0.1, *options).stderr)


NOTE = "recall is against the vectors of "


def test_the_file_is_found_by_itself(loaded: tuple[str, Path]) -> None:
    db, file = loaded
    assert f"{NOTE}{file}, which the collection was loaded from" in told(db)
    assert NOTE not in told(db, "--truth", file)


def test_a_file_that_changed_or_is_gone_is_not_used(loaded: tuple[str, Path]) -> None:
    db, file = loaded
    np.save(file, VECTORS[::-1])
    assert NOTE not in told(db)
    file.unlink()
    assert NOTE not in told(db)


def test_rows_that_were_written_since_are_noticed(loaded: tuple[str, Path]) -> None:
    db, _ = loaded
    with connect(db) as database:
        database.collection("docs").upsert(range(300), VECTORS[300:])
    assert NOTE not in told(db)
    with connect(db) as database:
        database.collection("docs").upsert(range(300), VECTORS[:300])
    assert NOTE in told(db)
    with connect(db) as database:
        database.collection("docs").delete([7])
    assert NOTE not in told(db)
