"""Calibrations: fitting, equality, files and errors."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import realistic, unit
from numpy.typing import NDArray
from safetensors.numpy import save as save_safetensors

from qvec import Calibration, CalibrationError, InputError, RangeMethod, RowError, dequantize, quantize
from qvec.calibration import FORMAT

Vectors = NDArray[np.float32]


def tiny(**changes: object) -> Calibration:
    """Return a calibration of three dimensions with fixed values."""
    given: dict[str, object] = {
        "threshold": [0.5, -0.25, 0],
        "radius": [1, 2, 0.125],
        "deviation": [0.25, 0.5, 0.03125],
        "mean": [1, -0.5, 0],
        "std": [0.3, 0.6, 0.04],
        "metric": "cosine",
        "description": {"model": "modèle", "method": {"name": "quantile", "threshold": 0.5}},
    }
    return Calibration(**{**given, **changes})  # type: ignore[arg-type]


# Fitting


@pytest.fixture(scope="module")
def rows() -> Vectors:
    return realistic(900, 20)


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("metric", ["cosine", "ip"])
def test_fitted_statistics_equal_numpy(rows: Vectors, metric: str, share: float) -> None:
    fitted = Calibration.fit(rows, metric=metric, threshold=share)
    seen = (unit(rows) if metric == "cosine" else rows).astype(np.float64)
    np.testing.assert_allclose(fitted.mean, seen.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted.std, seen.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fitted.threshold, share * seen.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fitted.deviation, np.abs(seen - fitted.threshold).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(fitted.radius, np.quantile(np.abs(seen - fitted.threshold), 0.9999, axis=0), rtol=1e-4)


def test_default_threshold_and_ranges(rows: Vectors) -> None:
    explicit = Calibration.fit(rows, metric="cosine", threshold=0.5, ranges=RangeMethod("quantile", quantile=0.9999))
    assert Calibration.fit(rows) == explicit
    assert explicit.metadata() == {
        "dimensions": 20,
        "format": 1,
        "method": {"name": "quantile", "per_dimension": True, "quantile": 0.9999, "threshold": 0.5},
        "metric": "cosine",
        "model": None,
        "normalized": False,
        "qvec": "0.1.0",
        "sample": {"drawn": "all", "seed": 0, "size": 900},
    }


def test_every_option_changes_id(rows: Vectors) -> None:
    options: list[dict[str, object]] = [
        {},
        {"metric": "ip"},
        {"threshold": 0},
        {"ranges": RangeMethod("minmax")},
        {"dimensions": 8},
        {"model": "m"},
        {"seed": 1},
        {"sample_size": 300},
        {"drawn": "by hand"},
    ]
    assert len({Calibration.fit(rows, **option).id for option in options}) == len(options)  # type: ignore[arg-type]


def test_option_number_types_do_not_change_id(rows: Vectors) -> None:
    wanted = Calibration.fit(rows, threshold=0.0, seed=3)
    assert Calibration.fit(rows, threshold=0, seed=np.int64(3)).id == wanted.id  # type: ignore[arg-type]
    assert Calibration.fit(rows, threshold=np.float32(0)).threshold.tolist() == [0] * 20  # type: ignore[arg-type]


def test_unit_length_is_detected(rows: Vectors) -> None:
    assert Calibration.fit(unit(rows)).description["normalized"] is True
    assert Calibration.fit(rows).description["normalized"] is False
    one_is_longer = unit(rows)
    one_is_longer[7] *= 1.01
    assert Calibration.fit(one_is_longer).description["normalized"] is False


def test_fit_does_not_depend_on_float_type(rows: Vectors) -> None:
    half = rows.astype(np.float16)
    assert Calibration.fit(half) == Calibration.fit(half.astype(np.float32)) == Calibration.fit(half.astype(np.float64))
    assert Calibration.fit(half.tolist()) == Calibration.fit(half)


# Batches and samples


@pytest.mark.parametrize("batch_rows", [1, 7, 450, 900])
def test_fit_on_batches_equals_fit_on_array(rows: Vectors, batch_rows: int) -> None:
    batches = [rows[start : start + batch_rows] for start in range(0, 900, batch_rows)]
    assert Calibration.fit(iter(batches)) == Calibration.fit(batches) == Calibration.fit(rows)
    assert Calibration.fit(iter(batches), sample_size=200) == Calibration.fit(rows, sample_size=200)


@pytest.mark.parametrize("batched", [False, True])
def test_sample_of_sorted_source_is_uniform(batched: bool) -> None:
    # Rows ascend from 0 to 1: the first rows have a small mean, a uniform sample has 1/2 ± 1/sqrt(12 n).
    ascending = np.linspace(0, 1, 40_000, dtype=np.float32)[:, None]
    given = iter(np.split(ascending, 40)) if batched else ascending
    fitted = Calibration.fit(given, metric="ip", sample_size=2000, ranges=RangeMethod("minmax"))
    assert fitted.mean[0] == pytest.approx(0.5, abs=4 / np.sqrt(12 * 2000))
    assert fitted.std[0] == pytest.approx(1 / np.sqrt(12), rel=0.05)
    assert fitted.description["sample"] == {"drawn": "uniform", "seed": 0, "size": 2000}


def test_seed_determines_sample(rows: Vectors) -> None:
    first, again, other = (Calibration.fit(rows, sample_size=100, seed=seed) for seed in (5, 5, 6))
    assert first == again
    assert first.mean.tolist() != other.mean.tolist()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "NaN at dimension 2"),
        (np.inf, "infinity at dimension 2"),
        (-np.inf, "infinity at dimension 2"),
    ],
)
@pytest.mark.parametrize("sample_size", [20_000, 10])
def test_non_finite_value_error_names_row(rows: Vectors, value: float, reason: str, sample_size: int) -> None:
    bad = rows.copy()
    bad[777, 2] = value
    for given in (bad, iter(np.split(bad, 9)), np.split(bad, 9)):
        with pytest.raises(RowError, match=f"^vectors: row 777: .*{reason}") as caught:
            Calibration.fit(given, sample_size=sample_size)
        assert caught.value.row == 777


def test_zero_vector_raises_only_for_cosine(rows: Vectors) -> None:
    bad = rows.copy()
    bad[600] = 0
    with pytest.raises(RowError, match=r"^vectors: row 600: zero vector"):
        Calibration.fit(np.split(bad, 3))
    assert Calibration.fit(bad, metric="ip").dimensions == 20


def test_zero_prefix_raises(rows: Vectors) -> None:
    bad = rows.copy()
    bad[5, :8] = 0
    assert Calibration.fit(bad).dimensions == 20
    with pytest.raises(RowError, match=r"^vectors: row 5: zero vector"):
        Calibration.fit(bad, dimensions=8)


def test_float32_overflow_error_names_row(rows: Vectors) -> None:
    bad = rows.astype(np.float64)
    bad[450, 1] = 1e39
    with pytest.raises(RowError, match=r"^vectors: row 450: 1e\+39 at dimension 1 is beyond float32$"):
        Calibration.fit(np.split(bad, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Calibration.fit(x[:0]), "no vectors to calibrate on"),
        (lambda _: Calibration.fit([]), "no vectors to calibrate on"),
        (lambda _: Calibration.fit(iter([])), "no vectors to calibrate on"),
        (lambda x: Calibration.fit([x, x[:, :8]]), "batches have 8 and 20 dimensions, expected one number"),
        (lambda x: Calibration.fit(x[None]), "vectors: 3 axes found"),
        (lambda x: Calibration.fit(x, dimensions=21), "dimensions is 21, but the vectors have 20"),
        (lambda x: Calibration.fit(x, dimensions=-1), "dimensions is -1, but the vectors have 20"),
        (lambda x: Calibration.fit(x, metric="l2"), "metric is 'l2', expected one of: cosine, ip"),
        (lambda x: Calibration.fit(x, threshold=1.5), "threshold is 1.5, expected a share of the mean from 0 to 1"),
        (lambda x: Calibration.fit(x, threshold=float("nan")), "threshold is nan"),
        (lambda x: Calibration.fit(x, sample_size=0), "sample_size is 0, expected at least 1"),
        (lambda x: Calibration.fit(x, seed=-1), "seed is -1, expected at least 0"),
        (lambda _: Calibration.fit(np.array([["a"]])), "vectors: dtype <U1 found"),
    ],
)
def test_invalid_vectors_and_options_raise(rows: Vectors, call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError) as caught:
        call(rows)
    assert message in str(caught.value)


# Matryoshka prefixes


def test_prefix_is_normalized_after_truncation(rows: Vectors) -> None:
    cut = Calibration.fit(rows, dimensions=8)
    alone = Calibration.fit(np.ascontiguousarray(rows[:, :8]))
    assert cut.dimensions == 8
    np.testing.assert_array_equal(cut.threshold, alone.threshold)
    np.testing.assert_array_equal(cut.radius, alone.radius)


def test_prefix_calibration_accepts_full_and_truncated_vectors(rows: Vectors) -> None:
    cut = Calibration.fit(rows, dimensions=8)
    assert cut.accepted_dimensions == (8, 20)
    assert Calibration.from_bytes(cut.to_bytes()).accepted_dimensions == (8, 20)
    np.testing.assert_array_equal(quantize(rows, cut), quantize(rows[:, :8], cut))
    assert cut.drift(rows).count == cut.drift(rows[:, :8]).count == 900
    with pytest.raises(InputError, match="9 dimensions found, 8 or 20 wanted"):
        quantize(rows[:, :9], cut)


def test_prefix_of_all_dimensions_changes_nothing(rows: Vectors) -> None:
    assert Calibration.fit(rows, dimensions=20) == Calibration.fit(rows)
    assert Calibration.fit(rows).accepted_dimensions == (20,)


# Dimensions without spread


@pytest.mark.parametrize("share", [0, 0.5, 1])
@pytest.mark.parametrize("method", ["quantile", "minmax", "rolling"])
def test_constant_dimension_keeps_its_value(share: float, method: str) -> None:
    constant = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    constant[:, 1], constant[:, 2] = 0.7, 0
    fitted = Calibration.fit(constant, metric="ip", threshold=share, ranges=RangeMethod(method))
    assert fitted.std[1] == fitted.std[2] == 0
    decoded = dequantize(quantize(constant, fitted), fitted)
    # The value is at the edge of the range around share·mean: half a step from its decoded value.
    np.testing.assert_allclose(decoded[:, 1], 0.7, atol=0.7 * (1 - share) / 256 + 1e-6)
    np.testing.assert_allclose(decoded[:, 2], 0, atol=1e-30)
    assert np.isfinite(fitted.drift(constant).mean_shift).all()


# Ranges from sentence-transformers


def test_from_ranges_with_midpoint_matches_sentence_transformers(rows: Vectors) -> None:
    ranges = np.stack([rows.min(axis=0), rows.max(axis=0)])
    fitted = Calibration.from_ranges(ranges, metric="ip", midpoint=True)
    ours = np.zeros(rows.shape, np.int64)
    for plane, bits in enumerate(np.split(quantize(rows, fitted), 8, axis=1)):
        ours += np.unpackbits(bits, axis=1, count=20).astype(np.int64) << (7 - plane)
    starts, steps = ranges[0], (ranges[1] - ranges[0]) / 255
    theirs = ((rows - starts) / steps - 128).astype(np.int8).astype(np.int64)  # the formula of quantize_embeddings
    assert np.abs(ours - 128 - theirs).max() <= 1
    assert len(np.unique(ours)) > 250


def test_from_ranges_without_midpoint_has_zero_threshold(rows: Vectors) -> None:
    ranges = np.stack([rows.min(axis=0), rows.max(axis=0)])
    fitted = Calibration.from_ranges(ranges.tolist(), metric="ip", model="m")
    assert not fitted.threshold.any()
    np.testing.assert_array_equal(fitted.radius, np.abs(ranges).max(axis=0))
    np.testing.assert_array_equal(quantize(rows, fitted, 1), np.packbits(rows > 0, axis=1))
    assert (fitted.model, fitted.description["normalized"]) == ("m", False)
    normal = np.random.default_rng(0).normal(fitted.mean, fitted.std, size=(100_000, 20))
    np.testing.assert_allclose(fitted.deviation, np.abs(normal).mean(axis=0), rtol=0.11)


@pytest.mark.parametrize(
    "ranges",
    [[[1, 1]], [[0, 0], [1, np.nan]], [[2, 0], [1, 1]], np.zeros((3, 4)), np.zeros((2, 0)), [[1], [1, 2]], "x"],
)
def test_invalid_ranges_raise(ranges: object) -> None:
    with pytest.raises(InputError, match=r"^ranges "):
        Calibration.from_ranges(ranges)  # type: ignore[arg-type]


# Values, copies and equality


def test_arrays_and_description_are_frozen() -> None:
    given = np.ones(3, np.float32)
    description: dict[str, object] = {"model": "m"}
    frozen = tiny(std=given, description=description)
    given[0], description["model"] = 9, "other"
    assert (frozen.std[0], frozen.model) == (1, "m")
    for array in (frozen.threshold, frozen.radius, frozen.deviation, frozen.mean, frozen.std):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        frozen.description["model"] = "other"  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.metric = "ip"  # type: ignore[misc]


@pytest.mark.parametrize(
    "make_copy",
    [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), lambda c: Calibration.from_bytes(c.to_bytes())],
    ids=["copy", "deepcopy", "pickle", "bytes"],
)
def test_copies_are_equal_and_read_only(make_copy: object) -> None:
    assert callable(make_copy)
    copied = make_copy(tiny())
    assert copied == tiny()
    assert hash(copied) == hash(tiny())
    assert copied.metadata() == tiny().metadata()
    assert not copied.radius.flags.writeable


def test_equality_follows_id() -> None:
    assert tiny() == tiny()
    assert len({tiny(), tiny()}) == 1
    assert tiny() != tiny(metric="ip")
    assert tiny() != tiny(radius=[1, 2, 0.25])
    assert tiny() != "a calibration"
    assert repr(tiny()) == f"Calibration({tiny().id}, dimensions=3, metric='cosine', model='modèle')"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": [1, 2]}, r"radius has shape \(2,\), expected \(3,\)"),
        ({"std": [1, np.nan, 1]}, "std holds NaN or infinity"),
        ({"mean": [1, np.inf, 1]}, "mean holds NaN or infinity"),
        ({"radius": [1, -2, 1]}, "radius holds a negative value"),
    ],
)
def test_invalid_arrays_raise(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        tiny(**changes)


# Files


GOLDEN_ID = "c6ebdd68e13594f8"
GOLDEN_BYTES = (
    "f0010000000000007b225f5f6d657461646174615f5f223a7b2271766563223a227b5c2264696d656e73696f6e735c223a33"
    "2c5c22666f726d61745c223a312c5c2269645c223a5c22633665626464363865313335393466385c222c5c226d6574686f64"
    "5c223a7b5c226e616d655c223a5c227175616e74696c655c222c5c227468726573686f6c645c223a302e357d2c5c226d6574"
    "7269635c223a5c22636f73696e655c222c5c226d6f64656c5c223a5c226d6f645c5c75303065386c655c227d227d2c226465"
    "76696174696f6e223a7b226474797065223a22463332222c227368617065223a5b335d2c22646174615f6f66667365747322"
    "3a5b302c31325d7d2c226d65616e223a7b226474797065223a22463332222c227368617065223a5b335d2c22646174615f6f"
    "666673657473223a5b31322c32345d7d2c22726164697573223a7b226474797065223a22463332222c227368617065223a5b"
    "335d2c22646174615f6f666673657473223a5b32342c33365d7d2c22737464223a7b226474797065223a22463332222c2273"
    "68617065223a5b335d2c22646174615f6f666673657473223a5b33362c34385d7d2c227468726573686f6c64223a7b226474"
    "797065223a22463332222c227368617065223a5b335d2c22646174615f6f666673657473223a5b34382c36305d7d7d202020"
    "202020200000803e0000003f0000003d0000803f000000bf000000000000803f000000400000003e9a99993e9a99193f0ad7"
    "233d0000003f000080be00000000"
)


def test_golden_file_format() -> None:
    assert tiny().id == GOLDEN_ID
    assert tiny().to_bytes().hex() == GOLDEN_BYTES
    assert Calibration.from_bytes(bytes.fromhex(GOLDEN_BYTES)) == tiny()


def test_id_is_same_in_another_process(tmp_path: Path) -> None:
    tiny().save(tmp_path / "c.safetensors")
    program = "import sys, qvec; print(qvec.Calibration.load(sys.argv[1]).id)"
    command = [sys.executable, "-c", program, str(tmp_path / "c.safetensors")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert printed.stdout.strip() == GOLDEN_ID


def test_save_and_load(rows: Vectors, tmp_path: Path) -> None:
    fitted = Calibration.fit(rows, model="model/名前")
    fitted.save(tmp_path / "c.safetensors")
    loaded = Calibration.load(tmp_path / "c.safetensors")
    assert loaded == fitted
    assert loaded.metadata() == fitted.metadata()
    for name in ("threshold", "radius", "deviation", "mean", "std"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def raises_or_changes_id(data: bytes) -> bool:
    try:
        return Calibration.from_bytes(data).id != tiny().id
    except CalibrationError:
        return True


@pytest.mark.parametrize("flip", [0x01, 0x04, 0x20, 0x80, 0xFF])
def test_every_changed_byte_is_detected(flip: int) -> None:
    data = tiny().to_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= flip
        assert raises_or_changes_id(bytes(damaged)), f"byte {position} of {data[position - 20 : position + 20]!r}"


def test_every_changed_header_byte_is_detected() -> None:
    data = tiny().to_bytes()
    for position in range(8 + int.from_bytes(data[:8], "little")):
        for other in b' \t"\\{}[]:,0123456789abcdefABCDEFu':
            if other != data[position]:
                assert raises_or_changes_id(data[:position] + bytes([other]) + data[position + 1 :]), position


def test_truncated_bytes_raise() -> None:
    data = tiny().to_bytes()
    for length in range(len(data)):
        with pytest.raises(CalibrationError, match=r"^calibration is (damaged|not a calibration)"):
            Calibration.from_bytes(data[:length])


def test_trailing_bytes_raise() -> None:
    with pytest.raises(CalibrationError, match="is damaged"):
        Calibration.from_bytes(tiny().to_bytes() + b"\0")


ARRAYS = {name: getattr(tiny(), name) for name in ("threshold", "radius", "deviation", "mean", "std")}
METADATA = {**tiny().metadata(), "id": tiny().id}


def build_file(arrays: dict[str, NDArray[np.generic]] = ARRAYS, **metadata: object) -> bytes:  # type: ignore[assignment]
    stored = json.dumps({**METADATA, **metadata}, sort_keys=True, separators=(",", ":"))
    return save_safetensors(dict(arrays), metadata={"qvec": stored})


def with_header_length(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def test_hand_built_file_loads() -> None:
    assert Calibration.from_bytes(build_file()) == tiny()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cal.bin is not a calibration: it does not begin like a safetensors file"),
        (b"id,vector\n1,0.5\n" * 30, "cal.bin is not a calibration: it does not begin"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "cal.bin is not a calibration: it does not begin"),
        (with_header_length(b"[1]"), "cal.bin is not a calibration: it does not begin"),
        (with_header_length(b"null"), "cal.bin is not a calibration: it does not begin"),
        (with_header_length(b"[" * 100_000), "cal.bin is not a calibration: it does not begin"),
        (with_header_length(b'{"__metadata__": 5}'), "cal.bin is not a calibration: it does not begin"),
        (with_header_length(b'{"__metadata__": {"qvec": 5}}'), "cal.bin is damaged: its metadata cannot be read"),
        (with_header_length(b'{"__metadata__": {"qvec": "[1]"}}'), "cal.bin is damaged: its metadata cannot be read"),
        (
            with_header_length(b'{"__metadata__": {"qvec": "{\\"format\\":NaN}"}}'),
            "cal.bin is damaged: its metadata cannot be read",
        ),
        (save_safetensors(ARRAYS), "cal.bin is not a calibration: a safetensors file, but not one that qvec wrote"),
        (
            build_file(format=FORMAT + 1),
            "cal.bin has format 3, but this qvec reads formats up to 2; run: pip install -U",
        ),
        (build_file(format="1"), "cal.bin is damaged"),
        (build_file(metric="l2"), "cal.bin is damaged: metric is 'l2'"),
        (build_file(dimensions=4), "cal.bin is damaged: its content hashes to"),
        (build_file(model="other"), "cal.bin is damaged: its content hashes to"),
        (build_file(id=None), "cal.bin is damaged: its content hashes to"),
        (build_file({**ARRAYS, "extra": ARRAYS["mean"]}), "cal.bin is damaged: expected the float32 arrays"),
        (
            build_file({k: v for k, v in ARRAYS.items() if k != "std"}),
            "cal.bin is damaged: expected the float32 arrays",
        ),
        (build_file({**ARRAYS, "std": np.ones(3)}), "cal.bin is damaged: expected the float32 arrays"),
        (
            build_file({**ARRAYS, "std": np.ones(4, np.float32)}),
            "cal.bin is damaged: std has shape (4,), expected (3,)",
        ),
        (build_file({**ARRAYS, "std": -ARRAYS["std"]}), "cal.bin is damaged: std holds a negative value"),
        (build_file({**ARRAYS, "mean": ARRAYS["mean"] * np.float32("nan")}), "cal.bin is damaged: mean holds NaN"),
        (build_file({**ARRAYS, "mean": ARRAYS["std"]}), "cal.bin is damaged: its content hashes to"),
    ],
)
def test_invalid_files_raise(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cal.bin"
    path.write_bytes(data)
    with pytest.raises(CalibrationError) as caught:
        Calibration.load(path)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)


def test_unreadable_and_unwritable_files_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read calibration .*none\.safetensors: No such file or directory$"):
        Calibration.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"^cannot write calibration .*: No such file or directory$"):
        tiny().save(tmp_path / "none" / "c.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^cannot write calibration .*: Not a directory$"):
        tiny().save(tmp_path / "file" / "c.safetensors")


def test_failed_save_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(InputError, match=r"^cannot write calibration"):
        tiny().save(tmp_path / "c")
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
