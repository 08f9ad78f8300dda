"""Learned bits trained on vectors alone, and the command `qvec adapt`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import low_rank

from qvec.calibration import Calibration
from qvec.cli import main
from qvec.codes import learned, quantize, ternary
from qvec.errors import InputError, MissingExtraError
from qvec.projection import quantize_projection
from qvec.training.initial_projection import itq, projection_from, random_rotation
from qvec.training.learned_bits import AdaptOptions, RecallEvaluator, adapt

DIMENSIONS = 16


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    return low_rank(1500, DIMENSIONS)


@pytest.fixture(scope="module")
def fitted(sample: np.ndarray) -> Calibration:
    return Calibration.fit(sample)


def test_directions_are_orthonormal(sample: np.ndarray) -> None:
    for directions in (random_rotation(DIMENSIONS, 0), itq(sample, DIMENSIONS, 0), itq(sample, 8, 0)):
        assert np.allclose(directions @ directions.T, np.eye(len(directions)), atol=1e-4)


def test_fewer_directions_span_principal_subspace(sample: np.ndarray) -> None:
    directions = itq(sample, 6, 0)
    kept = sample @ directions.T
    assert (kept**2).sum() > 0.9 * (sample**2).sum()


def test_two_bits_per_direction_equal_ternary_code(sample: np.ndarray, fitted: Calibration) -> None:
    """With the original dimensions as directions, two bits each are the ternary code, except for the thresholds."""
    centred = fitted.prepared(sample) - fitted.threshold
    projection = projection_from(np.eye(DIMENSIONS, dtype=np.float32), centred, 2 * DIMENSIONS)
    levels = np.concatenate([-projection.bias[::2], projection.bias[1::2]])
    spread = np.sqrt((centred**2).mean(axis=0))
    assert np.allclose(levels, -0.4307 * np.tile(spread, 2), rtol=1e-3)
    projection = replace(projection, bias=np.tile([1, -1], DIMENSIONS) * np.repeat(fitted.radius / 8, 2))
    adapted = fitted.with_learned(*quantize_projection(projection.weights, projection.bias, fitted.radius), {})
    codes = quantize(sample, fitted)
    wanted = np.unpackbits(ternary(codes, fitted), axis=1).reshape(-1, 2, DIMENSIONS)[:, ::-1]
    assert np.array_equal(
        np.unpackbits(learned(codes, adapted), axis=1), wanted.transpose(0, 2, 1).reshape(len(codes), -1)
    )


def test_bits_are_spread_over_directions(sample: np.ndarray) -> None:
    projection = projection_from(np.eye(DIMENSIONS, dtype=np.float32), sample, 40)
    counts = projection.weights.sum(axis=0)
    assert counts.tolist() == [3] * 8 + [2] * 8


@pytest.mark.parametrize(("method", "more"), [("itq", 0), ("learned", 0.02)])
def test_learned_bits_have_higher_recall_than_ternary(
    method: str, more: float, sample: np.ndarray, fitted: Calibration
) -> None:
    done = adapt(sample, fitted, AdaptOptions(method=method, steps=60))
    assert [(each.name, each.bits) for each in done.before] == [("binary", 16), ("ternary", 32), ("levels6", 80)]
    own = done.before[1]
    assert done.after.bits == 32
    assert done.gains
    assert done.after.recall.mean > own.recall.mean + more
    assert done.calibration.learned_bits == 32
    assert done.calibration.description["learned"]["rows"] == 1200
    assert np.array_equal(quantize(sample, done.calibration), quantize(sample, fitted))


def test_reported_recall_is_that_of_stored_bits(sample: np.ndarray, fitted: Calibration) -> None:
    done = adapt(sample, fitted, AdaptOptions(method="itq"))
    order = np.random.default_rng(0).permutation(len(sample))
    held_out = RecallEvaluator(sample[order[300:]], sample[order[150:300]], fitted)
    assert held_out.recall(lambda codes: learned(codes, done.calibration)) == done.after.recall


def test_recall_equals_numpy() -> None:
    rows = low_rank(300, DIMENSIONS)
    fitted = Calibration.fit(rows)
    exact = RecallEvaluator(rows, rows[:20], fitted)
    nearest = np.argsort(-(fitted.prepared(rows[:20]) @ fitted.prepared(rows).T), axis=1, kind="stable")[:, :40]
    by_bits = ternary(quantize(rows, fitted), fitted)
    distances = np.unpackbits(by_bits[:20, None] ^ by_bits[None], axis=2).sum(axis=2)
    found = np.argsort(distances, axis=1, kind="stable")[:, :40]
    for count, share in zip(
        (20, 40),
        (exact.recall(lambda c: ternary(c, fitted)).of_20, exact.recall(lambda c: ternary(c, fitted)).of_40),
        strict=True,
    ):
        wanted = np.mean([np.isin(n[:10], f[:count]).mean() for n, f in zip(nearest, found, strict=True)])
        assert share == pytest.approx(wanted)


def test_inner_product_recall_ignores_query_length() -> None:
    """The bits of a very short query are those of its direction, not those of zero, as in a search."""
    rows = low_rank(600, DIMENSIONS)
    fitted = Calibration.fit(rows[:500], metric="ip")
    long, short = (RecallEvaluator(rows[:500], rows[500:] * np.float32(length), fitted) for length in (1, 2**-8))
    found = [held_out.recall(lambda codes: ternary(codes, fitted)) for held_out in (long, short)]
    assert found[0] == found[1]
    assert found[0].mean > 0.5


def test_training_uses_queries(sample: np.ndarray, fitted: Calibration) -> None:
    done = adapt(sample, fitted, AdaptOptions(steps=20), queries=low_rank(30, DIMENSIONS, seed=5))
    assert (done.queries, done.rows) == (10, 1500)


def test_same_seed_gives_same_bits(sample: np.ndarray, fitted: Calibration) -> None:
    options = AdaptOptions(method="itq", bits=8, seed=3)
    assert adapt(sample, fitted, options).calibration == adapt(sample, fitted, options).calibration


def test_random_rotation_method(sample: np.ndarray, fitted: Calibration) -> None:
    done = adapt(sample, fitted, AdaptOptions(method="rotation", bits=16))
    assert done.after.name == "rotation"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 12}, "bits is 12, expected a multiple of 8"),
        ({"bits": 0}, "bits is 0"),
        ({"method": "pca"}, "'pca'"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_invalid_options_raise(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AdaptOptions(**options)


def test_too_few_rows_or_queries_raise(sample: np.ndarray, fitted: Calibration) -> None:
    with pytest.raises(InputError, match="sample: 199 rows found, at least 200 wanted"):
        adapt(sample[:199], fitted)
    with pytest.raises(InputError, match="queries: 2 found, at least 3 wanted"):
        adapt(sample, fitted, queries=sample[:2])


def test_missing_torch_error_names_extra(
    sample: np.ndarray, fitted: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "qvec.training.learned_bits_training", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"torch is not installed; run: pip install 'qvec\[models\]'"):
        adapt(sample, fitted)
    assert adapt(sample, fitted, AdaptOptions(method="itq")).gains


def test_adapt_command(tmp_path: Path, sample: np.ndarray) -> None:
    source, output = tmp_path / "v.npy", tmp_path / "cal.safetensors"
    np.save(source, sample)
    run = CliRunner().invoke(main, ["adapt", str(source), "-o", str(output), "--method", "itq", "--bits", "24"])
    assert run.exit_code == 0, run.output
    assert "itq" in run.output
    assert "1,200 rows" in run.output
    adapted = Calibration.load(output)
    assert adapted.learned_bits == 24
    again = ["adapt", str(source), "-o", str(tmp_path / "b"), "--calibration", str(output), "--method", "itq", "--json"]
    found = json.loads(CliRunner().invoke(main, again).stdout)
    assert [each["bits"] for each in found["recall"]] == [16, 32, 80, 32]
    assert Calibration.load(tmp_path / "b").id == found["id"] != adapted.id
    assert np.array_equal(Calibration.load(tmp_path / "b").radius, adapted.radius)


def test_command_rejects_options_conflicting_with_calibration(tmp_path: Path, sample: np.ndarray) -> None:
    source, given = tmp_path / "v.npy", tmp_path / "cal.safetensors"
    np.save(source, sample)
    Calibration.fit(sample).save(given)
    run = CliRunner().invoke(
        main, ["adapt", str(source), "-o", "x", "--calibration", str(given), "--threshold", "zero"]
    )
    assert run.exit_code == 1
    assert "--threshold is 0.0, but calibration" in run.output
    assert not (tmp_path / "x").exists()
