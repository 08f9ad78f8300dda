"""A load that fails before its first row leaves no collection, so that the corrected load can create it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_helpers import write_lines

import qvec
from qvec import Calibration
from qvec.codecs import preset
from qvec.errors import InputError
from qvec.ingest import LoadOptions, Summary, ingest
from qvec.sources import Columns, open_source

ROWS, DIMENSIONS = 300, 8
STORED = np.random.default_rng(0).integers(128, 256, (ROWS, DIMENSIONS))
STORED[-3:] = 1


@pytest.fixture(params=["postgres", "qdrant"])
def database(request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Any]:
    url = new_database() if request.param == "postgres" else f"qdrant:{tmp_path / 'qdrant'}"
    with qvec.connect(url) as opened:
        opened.install()
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "a.jsonl", [{"vector": vector} for vector in STORED.tolist()])


def load(database: Any, path: Path, encoding: str, **options: Any) -> Summary:
    with open_source(path, columns=Columns(codec=preset(encoding))) as opened:
        return ingest(database, opened, LoadOptions("docs", **options))


def test_load_with_the_right_encoding_succeeds_after_a_wrong_one(database: Any, source: Path) -> None:
    """Three rows are valid in the wrong encoding; a remaining collection would have a calibration fitted to them."""
    with pytest.raises(InputError, match=r"a\.jsonl, line 1: has \d+ at position 0, but encoding 'int8'"):
        load(database, source, "int8")
    assert not database.has_collection("docs")
    assert load(database, source, "uint8").total_rows == ROWS
    assert database.collection("docs").calibration.description["sample"]["size"] == ROWS


def test_setting_refused_after_creation_leaves_no_collection(database: Any, source: Path) -> None:
    with pytest.raises(InputError, match="language is 'klingon', expected one of: "):
        load(database, source, "uint8", index_texts="klingon")
    assert not database.has_collection("docs")


def test_collection_with_rows_is_kept(database: Any, source: Path) -> None:
    with pytest.raises(InputError, match="line 4"):
        load(database, write_lines(source, [{"vector": row} for row in STORED[::-1].tolist()]), "int8", batch_rows=2)
    assert database.collection("docs").count() == 2


def test_existing_collection_is_kept(database: Any, source: Path) -> None:
    database.create_collection("docs", calibration=Calibration.fit(STORED.astype(np.float32)))
    with pytest.raises(InputError, match="line 1"):
        load(database, source, "int8")
    assert database.has_collection("docs")


def test_collection_of_another_load_is_kept(database: Any, source: Path, tmp_path: Path) -> None:
    """The other load starts while the first one reads its first batch."""
    other = write_lines(tmp_path / "b.jsonl", [{"vector": row} for row in STORED[-3:].tolist()])
    first = open_source(source, columns=Columns(codec=preset("int8")))
    batches = first.batches

    def load_other_first(*arguments: int) -> Any:
        load(database, other, "int8", id_start=ROWS)
        return batches(*arguments)

    first.batches = load_other_first  # type: ignore[method-assign]
    with first, pytest.raises(InputError, match="line 1"):
        ingest(database, first, LoadOptions("docs"))
    assert database.collection("docs").count() == 3
