"""Copying collections between databases: equal codes, ids and texts; floats equal to the stored precision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import realistic
from ingest_helpers import run_command
from numpy.typing import NDArray

import qvec
from qvec import Calibration
from qvec.cli import main
from qvec.client import Collection, Database
from qvec.copying import CollectionSource, copy_options
from qvec.errors import CollectionError, InputError
from qvec.ingest import LoadStoppedError, Reporter, Stop, ingest

ROWS = 300
IDS: dict[str, list[Any]] = {
    "bigint": [-(2**63), -5, *range(ROWS - 3), 2**63 - 1],
    "text": ["ö/%", "5c56c793-69f3-4fbf-87e6-c4bf54c28c26", "-5", *(f"row {number}" for number in range(ROWS - 3))],
}
DOCUMENTS = [None if number % 7 == 0 else f"document {number} – ✓" for number in range(ROWS)]
METADATA = [None if number % 5 == 0 else {"n": number, "deep": {"list": [1, "a", None]}} for number in range(ROWS)]


@pytest.fixture
def postgres(url: str) -> Iterator[Database]:
    with qvec.connect(url) as database:
        yield database


@pytest.fixture
def qdrant(tmp_path: Path) -> Iterator[Database]:
    with qvec.connect(f"qdrant:{tmp_path / 'qdrant'}") as database:
        yield database


@pytest.fixture(scope="module", params=["cosine", "ip"])
def fitted(request: pytest.FixtureRequest) -> Calibration:
    return Calibration.fit(realistic(ROWS), metric=request.param)


def create_docs(database: Database, calibration: Calibration, id_type: str = "bigint", **settings: Any) -> Collection:
    collection: Collection = database.create_collection("docs", calibration=calibration, id_type=id_type, **settings)
    collection.upsert(IDS[id_type], realistic(ROWS), DOCUMENTS, METADATA)
    return collection


def copy_collection(
    source: Database, target: Database, name: str = "docs", to: str | None = None, **options: Any
) -> Collection:
    collection = source.collection(name)
    load = copy_options(source, target, collection, to or name, index=False, **options)
    ingest(target, CollectionSource(source, collection), load)
    return target.collection(to or name)


def rows_by_id(collection: Collection) -> dict[Any, tuple[NDArray[np.float32], str | None, Any]]:
    """Return everything that a collection holds, by id."""
    rows = {}
    for batch in collection.iter_rows(0, 64):
        metadata = [text and json.loads(text) for text in batch.metadata.to_pylist()]
        for id, *row in zip(batch.ids.to_pylist(), batch.vectors, batch.documents.to_pylist(), metadata, strict=True):
            assert id not in rows
            rows[id] = tuple(row)
    return rows


def assert_same(one: Collection, other: Collection, tolerance: float = 0.0) -> None:
    """Assert that both hold the same rows, with vectors of the same form.

    Values may differ by rounding: by `tolerance` times the largest component of the vector.
    """
    rows, other_rows = rows_by_id(one), rows_by_id(other)
    assert rows.keys() == other_rows.keys()
    assert one.form == other.form
    for id, (vector, *texts) in rows.items():
        assert texts == list(other_rows[id][1:])
        np.testing.assert_allclose(
            other_rows[id][0], vector, rtol=tolerance, atol=tolerance * float(np.abs(vector).max())
        )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "binary"])
@pytest.mark.parametrize("id_type", ["bigint", "text"])
def test_codes_round_trip_bit_for_bit(
    postgres: Database, qdrant: Database, fitted: Calibration, rescore: str, id_type: str
) -> None:
    original = create_docs(postgres, fitted, id_type, rescore=rescore, oversampling=3, model="some-model")
    copy = copy_collection(postgres, qdrant)
    assert (copy.calibration, copy.model, copy.oversampling) == (fitted, "some-model", 3)
    assert copy.count() == ROWS
    copied_back = copy_collection(qdrant, postgres, to="back", settings={"rescore": rescore})
    assert_same(original, copied_back)


@pytest.mark.parametrize(("rescore", "tolerance"), [("float32", 2**-22), ("float16", 2**-10)])
def test_floats_round_trip_within_their_precision(
    postgres: Database, qdrant: Database, fitted: Calibration, rescore: str, tolerance: float
) -> None:
    original = create_docs(postgres, fitted, rescore=rescore)
    copy = copy_collection(postgres, qdrant)
    assert copy.settings["rescore"] == rescore
    copied_back = copy_collection(qdrant, postgres, to="back")
    assert copied_back.settings["rescore"] == rescore
    assert_same(original, copied_back, tolerance)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "binary", "float16", "float32"])
def test_copy_within_postgres_is_exact(postgres: Database, fitted: Calibration, rescore: str) -> None:
    original = create_docs(postgres, fitted, rescore=rescore)
    assert_same(original, copy_collection(postgres, postgres, to="copy"))


@pytest.mark.parametrize("rescore", ["binary", "float16", "float32"])
def test_copy_within_qdrant_is_exact(qdrant: Database, fitted: Calibration, rescore: str) -> None:
    original = create_docs(qdrant, fitted, "text", rescore=rescore)
    assert_same(original, copy_collection(qdrant, qdrant, to="copy"))


@pytest.mark.parametrize(
    ("kind", "prefilter", "settings", "kept"),
    [
        ("postgres", "levels4", {}, "levels4"),
        ("postgres", "levels4", {"prefilter": "binary"}, "binary"),
        ("postgres", "levels4", {"rescore": "int4"}, "levels6"),
        ("qdrant", "turbo2", {}, "turbo2"),
    ],
)
def test_copy_within_a_kind_of_database_keeps_the_prefilter(
    request: pytest.FixtureRequest,
    fitted: Calibration,
    kind: str,
    prefilter: str,
    settings: dict[str, str],
    kept: str,
) -> None:
    database = request.getfixturevalue(kind)
    create_docs(database, fitted, prefilter=prefilter)
    assert copy_collection(database, database, to="copy", settings=settings).settings["prefilter"] == kept


def test_copy_returns_the_same_scores(postgres: Database, qdrant: Database, fitted: Calibration) -> None:
    original = create_docs(postgres, fitted)
    copy = copy_collection(postgres, qdrant)
    for query in realistic(10, seed=2):
        original_hits, copied_hits = original.search(query, k=5, exact=True), copy.search(query, k=5, exact=True)
        scale = 1 if fitted.metric == "cosine" else float(np.linalg.norm(query) * np.linalg.norm(realistic(1)))
        assert [hit.score for hit in copied_hits] == pytest.approx(
            [hit.score for hit in original_hits], abs=2e-3 * scale
        )


class StopAtRow(Reporter):
    """Stop a load at a source row."""

    def __init__(self, row: int) -> None:
        self.stop = Stop()
        self._row = row

    def advance(self, name: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if name == "loading" and done >= self._row:
            self.stop.set()


@pytest.mark.parametrize("to_qdrant", [True, False])
def test_interrupted_copy_resumes(postgres: Database, qdrant: Database, fitted: Calibration, to_qdrant: bool) -> None:
    source, target = (postgres, qdrant) if to_qdrant else (qdrant, postgres)
    original = create_docs(source, fitted)
    options = copy_options(source, target, original, "docs", index=False, workers=1, batch_rows=20)
    reporter = StopAtRow(100)
    with pytest.raises(LoadStoppedError):
        ingest(target, CollectionSource(source, original), options, reporter, reporter.stop)
    assert 0 < target.collection("docs").count() < ROWS
    resumed = ingest(target, CollectionSource(source, original), options)
    assert resumed.resumed_at >= 100
    assert resumed.total_rows == ROWS
    assert rows_by_id(target.collection("docs")).keys() == rows_by_id(original).keys()


def test_interrupted_copy_of_a_changed_source_is_refused(
    postgres: Database, qdrant: Database, fitted: Calibration
) -> None:
    original = create_docs(postgres, fitted)
    options = copy_options(postgres, qdrant, original, "docs", index=False, workers=1, batch_rows=20)
    reporter = StopAtRow(100)
    with pytest.raises(LoadStoppedError):
        ingest(qdrant, CollectionSource(postgres, original), options, reporter, reporter.stop)
    original.delete([3])
    with pytest.raises(InputError, match="docs has changed since its load was interrupted"):
        ingest(qdrant, CollectionSource(postgres, original), options)


def test_target_with_another_calibration_is_refused(postgres: Database, qdrant: Database, fitted: Calibration) -> None:
    create_docs(postgres, fitted)
    other = Calibration.fit(realistic(ROWS, seed=5), metric=fitted.metric)
    qdrant.create_collection("docs", calibration=other)
    with pytest.raises(CollectionError, match="codes of two calibrations do not compare"):
        copy_collection(postgres, qdrant)


@pytest.mark.slow
def test_copy_command(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", realistic(ROWS))
    target_url = f"qdrant:{tmp_path / 'there'}"
    assert run_command("ingest", tmp_path / "a.npy", "--db", url, "-c", "docs").returncode == 0
    done = run_command("copy", "--from", url, "--to", target_url, "-c", "docs", "--as", "moved", "--json")
    assert json.loads(done.stdout)["rows"] == ROWS, done.stderr
    again = run_command("copy", "--from", url, "--to", target_url, "-c", "docs", "--as", "moved", "--json")
    assert json.loads(again.stdout)["rows"] == 0
    assert "is already loaded" in again.stderr
    onto_itself = run_command("copy", "--from", target_url, "--to", target_url, "-c", "moved")
    assert (onto_itself.returncode, onto_itself.stdout) == (1, "")
    assert "would be copied onto itself; give it a new name" in onto_itself.stderr


@pytest.mark.slow
def test_info_command_on_both_databases(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", realistic(ROWS))
    qdrant_url = f"qdrant:{tmp_path / 'there'}"
    for database in (url, qdrant_url):
        assert run_command("ingest", tmp_path / "a.npy", "--db", database, "-c", "docs").returncode == 0
    runner = CliRunner()
    ours = json.loads(runner.invoke(main, ["info", "--db", url, "--json"]).stdout)
    theirs = json.loads(runner.invoke(main, ["info", "docs", "--db", qdrant_url, "--json"]).stdout)
    for info, prefilter, rescore in ((ours, "levels6", "int8"), (theirs, "turbo1", "float16")):
        assert (info["rows"], info["dimensions"], info["index"]) == (ROWS, 64, "built")
        assert (info["prefilter"], info["rescore"]) == (prefilter, rescore)
        assert info["bytes_per_vector"]["table"] > 64
        assert info["bytes_per_vector"]["index"] > 8
    assert ours["calibration"] == theirs["calibration"]
    assert ours["bytes_per_vector"]["ram"] is None
    assert theirs["bytes_per_vector"]["ram"] >= 16
    shown = runner.invoke(main, ["info", "--db", qdrant_url]).stdout
    assert "float16" in shown
    assert theirs["calibration"] in shown
