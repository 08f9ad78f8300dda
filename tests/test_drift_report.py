"""Drift of stored rows and of new vectors from a collection's calibration, and the command `qvec drift`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from command_line import invoke
from conftest import realistic

import qvec
from qvec import Calibration, RangeMethod
from qvec.client import Database
from qvec.errors import InputError
from qvec.evaluation.drift_report import LIMITS, collection_statistics, drift_of_rows, drift_of_vectors

ROWS = 1500
EXIT_DRIFTED = 3


@pytest.fixture(scope="module", params=["postgres", "qdrant"])
def url(request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path_factory: Any) -> str:
    """A Postgres and a Qdrant database, each with collections `codes` and `floats` of the same rows."""
    found = new_database() if request.param == "postgres" else f"qdrant:{tmp_path_factory.mktemp('qdrant')}"
    vectors = realistic(ROWS)
    calibration = Calibration.fit(vectors)
    with qvec.connect(found, create=True) as database:
        for name, rescore in (("codes", "int8"), ("floats", "float16")):
            if request.param == "qdrant" and name == "codes":
                rescore = "float32"  # Qdrant keeps no codes of the calibration
            collection = database.create_collection(name, calibration=calibration, rescore=rescore)
            collection.upsert(range(ROWS), vectors)
    return found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as database:
        yield database


def run_drift(url: str, *arguments: Any) -> Result:
    return invoke("drift", "--db", url, *arguments)


def save_vectors(folder: Path, vectors: Any) -> Path:
    np.save(folder / "new.npy", vectors)
    return folder / "new.npy"


def shifted(vectors: Any) -> Any:
    """Return the vectors, each shifted by half its length along the first dimension."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors + 0.5 * lengths * np.eye(vectors.shape[1], dtype=np.float32)[0]


# Reports


def test_no_drift_on_same_distribution(database: Database) -> None:
    found = drift_of_vectors(database.collection("codes"), realistic(1000, seed=5), "new.npy")
    assert found.shift < 0.15
    assert found.clip is not None
    assert found.clip < 0.005
    assert found.recall is not None
    assert found.loss is not None
    assert found.recall.value > 0.9
    assert abs(found.loss.difference.value) < 0.01
    assert found.beyond(LIMITS) == []


def test_shifted_mean_is_located_in_its_dimension(database: Database) -> None:
    found = drift_of_vectors(database.collection("codes"), shifted(realistic(1000, seed=5)), "new.npy")
    assert found.shift > LIMITS["shift"]
    assert "shift" in found.beyond(LIMITS)
    assert int(np.abs(found.changes).argmax()) == 0
    assert found.statistics.bit_balance[0] > 0.9


def test_shift_and_clip_follow_their_formulas(database: Database) -> None:
    collection, vectors = database.collection("codes"), realistic(700, seed=9) + np.float32(0.3)
    calibration = collection.calibration
    prepared = calibration.prepared(vectors).astype(np.float64)
    expected = np.linalg.norm(prepared.mean(axis=0) - calibration.mean) / np.linalg.norm(calibration.std)
    found = drift_of_vectors(collection, vectors, "new.npy")
    assert found.shift == pytest.approx(expected, rel=1e-4)
    beyond = np.abs(prepared - calibration.threshold) > calibration.radius
    assert found.clip == pytest.approx(beyond.mean() - 1e-4, abs=1e-5)  # less the 1e-4 that the quantile 0.9999 clips


def test_constant_dimension_is_not_drift(database: Database) -> None:
    vectors = realistic(600)
    vectors[:, 7] = 0
    calibration = Calibration.fit(vectors)
    vectors[:, 7] = 1e-12  # like a rounding error: infinitely many standard deviations
    collection = database.create_collection("constant", calibration=calibration)
    try:
        found = drift_of_vectors(collection, vectors, "new.npy")
    finally:
        database.drop_collection("constant")
    assert np.isinf(found.statistics.mean_shift[7])
    assert found.shift < 0.01
    assert found.beyond(LIMITS) == []
    json.dumps(found.as_dict(), allow_nan=False)


def test_too_narrow_ranges_lose_recall(database: Database) -> None:
    """The loss is relative to a calibration that is refitted by the same method."""
    calibration = Calibration.fit(realistic(ROWS) * 0.5, metric="ip", ranges=RangeMethod("minmax"))
    collection = database.create_collection("narrow", calibration=calibration)
    try:
        found = drift_of_vectors(collection, realistic(1000, seed=2), "new.npy")
    finally:
        database.drop_collection("narrow")
    assert found.loss is not None
    if collection.settings["rescore"] == "int8":
        assert found.beyond(LIMITS) == ["clip", "loss"]
        assert found.loss.difference.low > 0
        assert found.loss.p_value < 0.01
    else:
        assert found.beyond(LIMITS) == ["clip"]  # floats still rank the candidates exactly


def test_values_clipped_by_quantile_are_not_drift(database: Database) -> None:
    """The range for int4 clips one value in a hundred on purpose."""
    calibration = Calibration.fit(realistic(ROWS), ranges=RangeMethod("quantile", quantile=0.99))
    collection = database.create_collection("quantile", calibration=calibration)
    try:
        found = drift_of_vectors(collection, realistic(ROWS), "old.npy")
    finally:
        database.drop_collection("quantile")
    assert found.statistics.clip_rate.mean() == pytest.approx(0.01, abs=0.001)
    assert found.clip == pytest.approx(0, abs=0.001)
    assert "clip" not in found.beyond(LIMITS)


def test_no_drift_of_rows_in_collection(database: Database) -> None:
    for name in ("codes", "floats"):
        collection = database.collection(name)
        found = drift_of_rows(collection)
        assert found.statistics.count == ROWS
        assert found.shift < 0.02
        assert (found.clip is None) == (found.recall is None) == (not collection.keeps_floats)
        expected = collection.calibration.drift(realistic(ROWS)).bit_balance
        assert found.statistics.bit_balance == pytest.approx(expected, abs=0.005)
        assert found.beyond(LIMITS) == []


def test_collection_statistics_describe_stored_rows(database: Database) -> None:
    collection = database.collection("floats")
    found = collection_statistics(collection, None)
    assert found.bit_balance == pytest.approx(collection.calibration.drift(realistic(ROWS)).bit_balance, abs=0.005)


def test_recall_is_omitted_for_few_vectors(database: Database) -> None:
    found = drift_of_vectors(database.collection("codes"), realistic(99, seed=3), "new.npy")
    assert found.recall is None
    assert found.clip is not None


def test_empty_collection_raises(database: Database) -> None:
    collection = database.create_collection("empty", calibration=Calibration.fit(realistic(50)))
    try:
        with pytest.raises(InputError, match=r"^collection 'empty' has no rows$"):
            drift_of_rows(collection)
    finally:
        database.drop_collection("empty")


# The command


def test_exit_codes(url: str, tmp_path: Path) -> None:
    fine = run_drift(url, "-c", "codes", "--source", save_vectors(tmp_path, realistic(800, seed=4)))
    assert fine.exit_code == 0
    assert "Collection 'codes': the calibration fits." in fine.output
    drifted = run_drift(url, "-c", "codes", "--source", save_vectors(tmp_path, shifted(realistic(800, seed=4))))
    assert drifted.exit_code == EXIT_DRIFTED
    assert "drifted: shift" in drifted.output
    assert run_drift(url, "-c", "codes", "--source", tmp_path / "none.npy").exit_code == 1
    assert run_drift(url, "-c", "none").exit_code == 1


def test_allow_option_sets_limits(url: str, tmp_path: Path) -> None:
    source = save_vectors(tmp_path, shifted(realistic(800, seed=4)))
    lenient = run_drift(
        url, "-c", "codes", "--source", source, "--allow", "shift=9", "--allow", "clip=1", "--allow", "loss=1"
    )
    assert lenient.exit_code == 0
    strict = run_drift(url, "-c", "floats", "--allow", "shift=0", "-q")
    assert (strict.exit_code, strict.output) == (EXIT_DRIFTED, "")
    for given, message in (
        ("size=1", "'size' is unknown, expected one of: shift, clip, loss"),
        ("shift", "'shift' is not NAME=NUMBER"),
    ):
        wrong = run_drift(url, "-c", "codes", "--allow", given)
        assert wrong.exit_code == 2
        assert message in wrong.output


def test_json_output(url: str, tmp_path: Path) -> None:
    result = run_drift(
        url, "-c", "floats", "--source", save_vectors(tmp_path, shifted(realistic(800, seed=4))), "--json"
    )
    found = json.loads(result.output)
    assert result.exit_code == EXIT_DRIFTED
    assert "shift" in found["drifted"]
    assert found["limits"] == LIMITS
    assert found["rows"] == 800
    assert found["recall_interval"][0] <= found["recall"] <= found["recall_interval"][1]
    assert len(found["dimensions"]["bit_balance"]) == 64


def test_unusable_sources_fail(url: str, tmp_path: Path) -> None:
    wide = run_drift(url, "-c", "codes", "--source", save_vectors(tmp_path, realistic(50, dimensions=16)))
    assert wide.exit_code == 1
    assert "has 16 dimensions, but collection 'codes' takes 64" in wide.output
    zeros = run_drift(url, "-c", "codes", "--source", save_vectors(tmp_path, np.zeros((50, 64), np.float32)))
    assert zeros.exit_code == 1
    assert "has no usable rows" in zeros.output
    (tmp_path / "texts.jsonl").write_text('{"id": 1, "text": "one"}\n')
    texts = run_drift(url, "-c", "codes", "--source", tmp_path / "texts.jsonl")
    assert texts.exit_code == 1
    assert "has no vectors; embed its texts first" in texts.output
