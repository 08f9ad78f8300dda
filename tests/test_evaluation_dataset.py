"""Data of an evaluation: queries, relevance judgements, and the source that a collection was loaded from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import succeed
from conftest import realistic, unit
from numpy.typing import NDArray

from qvec import Calibration, InputError, connect
from qvec.evaluation.dataset import read_qrels, read_queries
from qvec.sources import open_source

Floats = NDArray[np.float32]
VECTORS = realistic(600, 32)


@pytest.fixture(params=["int8", "int4", "binary", "qdrant"])
def loaded(request: pytest.FixtureRequest, tmp_path: Path, url: str) -> tuple[str, Path]:
    """The URL of a database and the file that its collection `docs` was loaded from."""
    file = tmp_path / "vectors.npy"
    np.save(file, VECTORS)
    db, rescore = (f"qdrant:{tmp_path / 'db'}", "binary") if request.param == "qdrant" else (url, request.param)
    succeed("ingest", file, "--db", db, "-c", "docs", "--rescore", rescore)
    return db, file


def tune_messages(db: str, *options: Any) -> str:
    """Return what `qvec tune` prints to stderr."""
    return str(succeed("tune", "--db", db, "-c", "docs", "--limit", 20, "--recall", 0.1, *options).stderr)


NOTE = "recall is against the vectors of "


def test_tune_finds_the_loaded_source(loaded: tuple[str, Path]) -> None:
    db, file = loaded
    assert f"{NOTE}{file}, which the collection was loaded from" in tune_messages(db)
    assert NOTE not in tune_messages(db, "--truth", file)


@pytest.mark.sampled(3)
def test_tune_ignores_changed_or_missing_source(loaded: tuple[str, Path]) -> None:
    db, file = loaded
    np.save(file, VECTORS[::-1])
    assert NOTE not in tune_messages(db)
    file.unlink()
    assert NOTE not in tune_messages(db)


@pytest.mark.sampled(3)
def test_tune_ignores_source_after_later_writes(loaded: tuple[str, Path]) -> None:
    db, _ = loaded
    with connect(db) as database:
        database.collection("docs").upsert(range(300), VECTORS[300:])
    assert NOTE not in tune_messages(db)
    with connect(db) as database:
        database.collection("docs").upsert(range(300), VECTORS[:300])
    assert NOTE in tune_messages(db)
    with connect(db) as database:
        database.collection("docs").delete([7])
    assert NOTE not in tune_messages(db)


def test_read_queries(tmp_path: Path, calibration: Calibration, queries: Floats) -> None:
    def no_model() -> Any:
        raise AssertionError

    np.save(tmp_path / "queries.npy", queries)
    found = read_queries(open_source(tmp_path / "queries.npy"), calibration, no_model)
    assert found.ids[:3] == ("0", "1", "2")
    assert np.array_equal(found.vectors, queries)
    assert np.allclose(found.prepared(calibration), unit(queries))
    np.save(tmp_path / "short.npy", queries[:, :10])
    with pytest.raises(InputError, match=r"short.npy has 10 dimensions, expected 64 like the collection$"):
        read_queries(open_source(tmp_path / "short.npy"), calibration, no_model)
    np.save(tmp_path / "nan.npy", np.full((2, 64), math.nan, np.float32))
    with pytest.raises(InputError, match=r"nan.npy: row 0: "):
        read_queries(open_source(tmp_path / "nan.npy"), calibration, no_model)


def write_qrels(folder: Path, content: str) -> Path:
    file = folder / "qrels"
    file.write_text(content, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "content",
    [
        "query-id\tcorpus-id\tscore\nq1\td 1\t2\nq1\td2\t0\n\nq2\td2\t1\n",
        "q1\td 1\t2\nq1\td2\t0\nq2\td2\t1",
        "q1\t0\td 1\t2\nq1\t0\td2\t0\nq2\t0\td2\t1\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td 1\t2\r\nq1\td2\t0\r\nq2\td2\t1\r\nq2\td2\t1\r\n",
    ],
)
def test_read_qrels_in_beir_and_trec_formats(tmp_path: Path, content: str) -> None:
    assert read_qrels(write_qrels(tmp_path, content)) == {"q1": {"d 1": 2, "d2": 0}, "q2": {"d2": 1}}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_qrels_lines_end_only_at_newline(tmp_path: Path, separator: str) -> None:
    assert read_qrels(write_qrels(tmp_path, f"q1\ta{separator}b\t1\n")) == {"q1": {f"a{separator}b": 1}}


def test_trec_fields_are_separated_by_spaces(tmp_path: Path) -> None:
    assert read_qrels(write_qrels(tmp_path, "7 0  12 1\n7 0 13 0\n")) == {"7": {"12": 1, "13": 0}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("query-id\tcorpus-id\tscore\nq1\td1\n", "qrels, line 2: 2 fields found, expected 3 (BEIR) or 4 (TREC)"),
        ("q1\td1\thigh\n", "qrels, line 1: the grade is 'high', expected a whole number"),
        ("q1\td1\t1\nq1\td1\t2\n", "qrels, line 2: q1 and d1 have grades 1 and 2"),
        ("query-id\tcorpus-id\tscore\n", "qrels has no judgements"),
    ],
)
def test_invalid_qrels_raise(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_qrels(write_qrels(tmp_path, content))
    assert str(raised.value).removeprefix(f"{tmp_path}/") == message


def test_missing_qrels_file_raises(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read .*/none: No such file or directory$"):
        read_qrels(tmp_path / "none")
