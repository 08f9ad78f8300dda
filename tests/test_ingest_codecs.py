"""Quantized embeddings from file to hits in both databases: codes stay exact, and float queries search them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Vectors, realistic, unit
from ingest_helpers import codes_by_id, run_command
from numpy.typing import NDArray

import qvec
from qvec import Calibration
from qvec.codecs import PRESETS, preset
from qvec.errors import CalibrationError, InputError
from qvec.ingest import FitOptions, LoadOptions, Summary, ingest
from qvec.ingest.fit import fit_for, settings_for
from qvec.ranges import RangeMethod
from qvec.sources import Columns, open_source

ROWS, DIMENSIONS, K = 2000, 128, 10
FLOATS = unit(realistic(ROWS, DIMENSIONS))
QUERIES = unit(realistic(30, DIMENSIONS, seed=1))
SIGNS = np.where(FLOATS > 0, 1, -1).astype(np.int8)
NEAREST = np.argsort(-(QUERIES @ FLOATS.T), axis=1)[:, :K]

STORED: dict[str, NDArray[Any]] = {
    "ubinary": np.packbits(SIGNS > 0, axis=1),
    "binary": (np.packbits(SIGNS > 0, axis=1).astype(np.int16) - 128).astype(np.int8),
    "ubinary-lsb": np.packbits(SIGNS > 0, axis=1, bitorder="little"),
    "sign": SIGNS,
    "int8": np.clip(np.round(FLOATS * 127 / np.abs(FLOATS).max()), -127, 127).astype(np.int8),
}
BITS = [name for name in STORED if PRESETS[name].bits]


@pytest.fixture(params=["postgres", "qdrant"])
def database(request: pytest.FixtureRequest, tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Any]:
    url = new_database() if request.param == "postgres" else f"qdrant:{tmp_path / 'qdrant'}"
    with qvec.connect(url) as opened:
        opened.install()
        yield opened


def load(database: Any, folder: Path, name: str, stored: NDArray[Any] | None = None, **options: Any) -> Summary:
    """Load an array in an encoding, by default into a collection named like the encoding."""
    np.save(folder / f"{name}.npy", STORED[name] if stored is None else stored)
    with open_source(folder / f"{name}.npy", columns=Columns(codec=preset(name))) as source:
        return ingest(database, source, LoadOptions(**({"collection": name} | options)))


def search_ids_and_scores(
    collection: Any, queries: Vectors = QUERIES, **options: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ids and scores of the hits, (queries, K) each."""
    hits = collection.search(queries, k=K, **options)
    ids, scores = ([[getattr(hit, field) for hit in each] for each in hits] for field in ("id", "score"))
    return np.array(ids), np.array(scores)


def recall(ids: NDArray[Any]) -> float:
    return float(np.mean([len(set(a) & set(b)) / K for a, b in zip(ids.tolist(), NEAREST.tolist(), strict=True)]))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", BITS)
def test_bits_are_stored_as_bits_and_searched_with_floats(database: Any, tmp_path: Path, name: str) -> None:
    assert load(database, tmp_path, name).total_rows == ROWS
    collection = database.collection(name)
    assert collection.settings["rescore"] == collection.settings["prefilter"] == "binary"
    assert not collection.calibration.threshold.any()
    ids, scores = search_ids_and_scores(collection, exact=True)
    expected = QUERIES @ SIGNS.T / np.sqrt(DIMENSIONS)  # cosines of float queries with signs
    best = -np.sort(-expected, axis=1)[:, :K]
    assert np.abs(scores - best).max() < 1e-4
    assert np.abs(np.take_along_axis(expected, ids, axis=1) - best).max() < 1e-4


def test_asymmetric_search_of_bits_beats_hamming(database: Any, tmp_path: Path) -> None:
    load(database, tmp_path, "ubinary")
    distances = (DIMENSIONS - np.where(QUERIES > 0, 1, -1) @ SIGNS.T) // 2
    symmetric = recall(np.argsort(distances, axis=1, kind="stable")[:, :K])
    asymmetric = recall(search_ids_and_scores(database.collection("ubinary"))[0])
    assert asymmetric > symmetric + 0.03


def test_both_databases_give_equal_scores(tmp_path: Path, new_database: Callable[[], str]) -> None:
    with qvec.connect(new_database()) as postgres, qvec.connect(f"qdrant:{tmp_path / 'qdrant'}") as qdrant:
        for database in (postgres, qdrant):
            database.install()
            load(database, tmp_path, "ubinary")
        collections = postgres.collection("ubinary"), qdrant.collection("ubinary")
        assert collections[0].calibration == collections[1].calibration
        scores = [search_ids_and_scores(collection, exact=True)[1] for collection in collections]
    assert np.abs(scores[0] - scores[1]).max() < 1e-4


def test_packed_and_unpacked_bits_are_stored_alike(tmp_path: Path, url: str) -> None:
    with qvec.connect(url) as database:
        database.install()
        for name in BITS:
            load(database, tmp_path, name)
        for name in BITS:
            assert codes_by_id(database, name) == {row: bits.tobytes() for row, bits in enumerate(STORED["ubinary"])}


def test_collection_accepts_bits_in_several_encodings(database: Any, tmp_path: Path) -> None:
    load(database, tmp_path, "ubinary", STORED["ubinary"][:1000], collection="docs")
    load(database, tmp_path, "sign", STORED["sign"][1000:], collection="docs", id_start="auto")
    ids, _ = search_ids_and_scores(database.collection("docs"), np.asarray(SIGNS[[3, 1500]], np.float32))
    assert ids[:, 0].tolist() == [3, 1500]


def test_explicit_settings_override_the_defaults(database: Any, tmp_path: Path) -> None:
    load(database, tmp_path, "ubinary", rescore="float32")
    collection = database.collection("ubinary")
    assert collection.settings["rescore"] == "float32"
    _, scores = search_ids_and_scores(collection, np.asarray(SIGNS[:3], np.float32))
    assert np.allclose(scores[:, 0], 1, atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_int8_codes_decode_to_the_stored_integers(tmp_path: Path, url: str, metric: Any) -> None:
    """Each integer has a separate code, whose decoded value (times the row's length under cosine) rounds to it."""
    given = STORED["int8"].astype(np.float32)
    with qvec.connect(url) as database:
        database.install()
        load(database, tmp_path, "int8", fit=FitOptions(metric=metric))
        calibration = database.collection("int8").calibration
        codes = codes_by_id(database, "int8")
    assert calibration.description["method"]["name"] == "minmax"
    decoded = qvec.dequantize(np.stack([np.frombuffer(codes[row], np.uint8) for row in range(ROWS)]), calibration)
    lengths = np.linalg.norm(given, axis=1, keepdims=True) if metric == "cosine" else 1
    assert np.array_equal(np.round(decoded * lengths), given)


def test_int8_scores_equal_scores_of_the_integers(database: Any, tmp_path: Path) -> None:
    load(database, tmp_path, "int8")
    ids, scores = search_ids_and_scores(database.collection("int8"), exact=True)
    expected = QUERIES @ unit(STORED["int8"].astype(np.float32)).T
    assert np.abs(np.take_along_axis(expected, ids, axis=1) - scores).max() < 0.005
    assert recall(ids) > 0.97


@pytest.mark.slow
def test_commands_need_only_the_encoding(tmp_path: Path) -> None:
    url = f"qdrant:{tmp_path / 'qdrant'}"
    np.save(tmp_path / "bits.npy", STORED["ubinary"])
    np.save(tmp_path / "queries.npy", FLOATS[:3])
    loaded = run_command("ingest", tmp_path / "bits.npy", "--encoding", "ubinary", "--db", url, "-c", "docs", "-q")
    assert loaded.returncode == 0, loaded.stderr
    by_floats = run_command("search", "--vectors", tmp_path / "queries.npy", "--db", url, "-c", "docs", "--json")
    as_bits = ("search", "--vectors", tmp_path / "bits.npy", "--encoding", "ubinary")
    by_bits = run_command(*as_bits, "--db", url, "-c", "docs", "--json")
    for searched, rows in ((by_floats, 3), (by_bits, ROWS)):
        hits = [json.loads(line)["hits"] for line in searched.stdout.splitlines()]
        assert [each[0]["id"] for each in hits[:3]] == [0, 1, 2], searched.stderr
        assert len(hits) == rows
    without_encoding = run_command("ingest", tmp_path / "bits.npy", "--db", url, "-c", "docs")
    assert without_encoding.returncode == 1
    assert "bits.npy holds uint8; expected float16, float32 or float64; if the vectors are" in without_encoding.stderr
    assert "quantized already, name their encoding (--encoding)" in without_encoding.stderr


def test_calibrate_command_on_bits(tmp_path: Path) -> None:
    np.save(tmp_path / "bits.npy", STORED["binary"])
    result = run_command(
        "calibrate", tmp_path / "bits.npy", "--encoding", "binary", "-o", tmp_path / "bits.safetensors", "-q"
    )
    assert result.returncode == 0, result.stderr
    calibration = Calibration.load(tmp_path / "bits.safetensors")
    assert calibration.dimensions == DIMENSIONS
    assert not calibration.threshold.any()
    assert np.allclose(calibration.deviation, 1 / np.sqrt(DIMENSIONS))


# Errors


def test_bits_with_a_nonzero_threshold_are_refused(database: Any, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"ubinary\.npy holds bits \(ubinary\), which were decided at 0, but"):
        load(database, tmp_path, "ubinary", calibration=Calibration.fit(FLOATS))
    assert not database.has_collection("ubinary")
    database.create_collection("docs", calibration=Calibration.fit(FLOATS))
    with pytest.raises(CalibrationError, match="fitted with --threshold zero"):
        load(database, tmp_path, "ubinary", collection="docs")


def test_bits_load_with_a_calibration_of_threshold_zero(tmp_path: Path, url: str) -> None:
    with qvec.connect(url) as database:
        database.install()
        load(database, tmp_path, "ubinary", calibration=Calibration.fit(FLOATS, threshold=0))
        assert codes_by_id(database, "ubinary") == {row: bits.tobytes() for row, bits in enumerate(STORED["ubinary"])}


def test_packed_bits_with_wrong_dimensions_are_refused(database: Any, tmp_path: Path) -> None:
    load(database, tmp_path, "ubinary", collection="docs")
    with pytest.raises(InputError, match=f"has {8 * DIMENSIONS} dimensions, but collection 'docs' takes {DIMENSIONS}"):
        load(database, tmp_path, "ubinary", np.zeros((5, DIMENSIONS), np.uint8), collection="docs", id_start="auto")


# Defaults of new collections


def test_defaults_depend_on_the_encoding() -> None:
    for name, codec in PRESETS.items():
        fit = fit_for(codec, FitOptions())
        assert fit.threshold == (0 if name in BITS else 0.5)
        assert fit.ranges.name == ("minmax" if name in ("int8", "uint8") else "quantile")
        assert settings_for(codec) == ({"rescore": "binary"} if name in BITS else {})


def test_explicit_fit_options_are_kept() -> None:
    explicit = FitOptions(threshold=1, ranges=RangeMethod("rolling"))
    assert all(fit_for(codec, explicit) == explicit for codec in PRESETS.values())


@pytest.mark.slow
def test_commands_read_an_encoding_from_a_file(tmp_path: Path) -> None:
    """The encoding is integers with one scale per dimension."""
    steps = np.linspace(0.001, 0.01, DIMENSIONS)
    stored = np.clip(np.round(FLOATS / steps), -128, 127).astype(np.int8)
    np.save(tmp_path / "stored.npy", stored)
    np.save(tmp_path / "queries.npy", FLOATS[:3])
    (tmp_path / "own.json").write_text(json.dumps({"dtype": "int8", "scale": steps.tolist()}))
    url = f"qdrant:{tmp_path / 'qdrant'}"
    loaded = run_command(
        "ingest", tmp_path / "stored.npy", "--encoding", tmp_path / "own.json", "--db", url, "-c", "docs", "-q"
    )
    assert loaded.returncode == 0, loaded.stderr
    searched = run_command("search", "--vectors", tmp_path / "queries.npy", "--db", url, "-c", "docs", "--json")
    best = json.loads(searched.stdout.splitlines()[0])["hits"][0]
    expected = unit((stored[:1] * steps).astype(np.float32)) @ FLOATS[0]
    assert best["id"] == 0
    assert best["score"] == pytest.approx(float(expected[0]), abs=0.005)
