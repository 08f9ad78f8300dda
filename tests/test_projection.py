"""Learned bits: the integer projection, the calibration that stores it, and the resulting bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import specification
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples

from qvec import _native
from qvec.calibration import Calibration
from qvec.codes import learned, quantize
from qvec.errors import CalibrationError, InputError
from qvec.projection import EXACT, quantize_projection


def calibration(dimensions: int = 3) -> Calibration:
    zeros, ones = np.zeros(dimensions, np.float32), np.ones(dimensions, np.float32)
    return Calibration(zeros, ones, ones, zeros, ones, "ip", {"model": "tiny"})


def with_learned(dimensions: int = 3, bits: int = 8) -> Calibration:
    random = np.random.default_rng(dimensions)
    weights = random.integers(-128, 128, (bits, dimensions)).astype(np.int8)
    bias = random.integers(-5000, 5000, bits).astype(np.int32)
    return calibration(dimensions).with_learned(weights, bias, {"method": "itq"})


GOLDEN_ID = "307134b002362700"


def golden() -> Calibration:
    weights = np.array([[j, -3, 1] for j in range(8)], np.int8)
    return calibration().with_learned(weights, np.arange(-4, 4, dtype=np.int32), {"method": "itq", "seed": 0})


def test_golden_id_and_bits() -> None:
    rows = quantize([[0.01, 0.01, 0.01], [-0.5, 0.25, 1], [1, 0, -1]], golden())
    assert golden().id == GOLDEN_ID
    assert golden().metadata()["format"] == 2
    assert learned(rows, golden()).tobytes().hex() == "1f803f"


@examples(60)
@given(
    rows=st.integers(0, 40), dimensions=st.integers(1, 40), bits=st.sampled_from([8, 16, 48]), seed=st.integers(0, 99)
)
def test_bits_equal_specification(rows: int, dimensions: int, bits: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, (rows, dimensions)).astype(np.uint8)
    weights = random.integers(-128, 128, (bits, dimensions)).astype(np.int8)
    # Biases that bring sums to 0 and just above it.
    bias = -(weights.astype(np.int64) @ (2 * codes[0].astype(np.int64) - 255)) if rows else np.zeros(bits)
    bias = (bias + random.integers(0, 2, bits)).astype(np.int32)
    found = _native.project(specification.to_planes(codes, 8), weights, bias)
    assert np.array_equal(found, specification.learned(codes, weights, bias))


def test_weight_bound_keeps_float32_sums_exact() -> None:
    """Postgres sums in float32; the bound on weights makes these sums equal to those of integers."""
    dimensions = 500
    weights = np.where(np.arange(dimensions) % 2, 127, -128).astype(np.int8)[None].repeat(8, axis=0)
    bias = np.full(8, EXACT - 1 - 255 * int(np.abs(weights[0].astype(int)).sum()), np.int32)
    adapted = calibration(dimensions).with_learned(weights, bias, {})
    codes = np.where(np.arange(dimensions) % 2, 255, 0).astype(np.uint8)
    steps = (2 * codes.astype(np.int64) - 255).astype(np.float32)
    assert adapted.learned_bits == 8
    assert float(np.cumsum(weights[0] * steps, dtype=np.float32)[-1]) + bias[0] == EXACT - 1
    with pytest.raises(CalibrationError, match=f"reach {EXACT} in a row, expected less than {EXACT}"):
        calibration(dimensions).with_learned(weights, bias + np.int32(1), {})


@examples(40)
@given(st.integers(1, 60), st.floats(1e-6, 1e6), st.integers(0, 99))
def test_integer_projection_keeps_bits_at_any_scale(dimensions: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    projection = random.normal(size=(16, dimensions)) * scale
    bias = random.normal(size=16) * scale / 10
    weights, offsets = quantize_projection(projection, bias, np.ones(dimensions, np.float32))
    adapted = calibration(dimensions).with_learned(weights, offsets, {})
    rows = random.uniform(-1, 1, (50, dimensions)).astype(np.float32)
    exact = rows @ projection.T + bias
    found = np.unpackbits(learned(quantize(rows, adapted), adapted), axis=1).astype(bool)
    wrong = found != (exact > 0)
    # A code is within radius / 128 of its number, a weight within half of 1/127 of the row's largest.
    slack = (np.abs(projection).sum(axis=1) + dimensions * np.abs(projection).max(axis=1)) / 127
    assert np.all(np.abs(exact[wrong]) <= np.broadcast_to(slack, exact.shape)[wrong])


def test_zero_weights_and_large_bias_stay_within_bounds() -> None:
    weights, bias = quantize_projection(np.zeros((8, 2)), np.full(8, -1e30), np.ones(2, np.float32))
    assert weights.any() == 0
    assert calibration(2).with_learned(weights, bias, {}).bias is not None
    assert bias.tolist() == [-(EXACT - 1)] * 8


def test_projection_survives_serialization() -> None:
    adapted = with_learned()
    loaded = Calibration.from_bytes(adapted.to_bytes())
    assert loaded == adapted
    assert np.array_equal(loaded.projection, adapted.projection)
    assert np.array_equal(loaded.bias, adapted.bias)
    assert loaded.description["learned"] == {"method": "itq"}
    assert not loaded.projection.flags.writeable


def test_learned_bits_change_id_but_not_codes() -> None:
    adapted, plain = with_learned(), calibration()
    other = replace(adapted, bias=adapted.bias + np.int32(1))
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert len({adapted.id, plain.id, other.id}) == 3
    assert plain.metadata()["format"] == 1
    assert plain.learned_bits is None
    assert np.array_equal(quantize(vectors, adapted), quantize(vectors, plain))
    assert np.array_equal(
        learned(quantize(vectors, adapted.for_form("centred")), adapted), learned(quantize(vectors, adapted), adapted)
    )


@pytest.mark.parametrize(
    ("projection", "bias", "message"),
    [
        (np.zeros((8, 3), np.int8), None, "needs a bias and a bias a projection, but one of them is missing"),
        (np.zeros((8, 3), np.float32), np.zeros(8, np.int32), "are float32 and int32, expected int8 and int32"),
        (np.zeros((8, 4), np.int8), np.zeros(8, np.int32), r"shape \(8, 4\), expected \(m, 3\)"),
        (np.zeros((9, 3), np.int8), np.zeros(9, np.int32), "m a multiple of 8"),
        (np.zeros((0, 3), np.int8), np.zeros(0, np.int32), "at least 8"),
        (np.zeros((8, 3), np.int8), np.zeros(7, np.int32), r"bias has shape \(7,\), expected \(8,\)"),
    ],
)
def test_invalid_projections_raise(projection: np.ndarray, bias: np.ndarray | None, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        replace(calibration(), projection=projection, bias=bias)


def test_learned_requires_projection_and_eight_planes() -> None:
    with pytest.raises(InputError, match="has no learned bits; make a calibration that has them: qvec adapt"):
        learned(np.zeros((1, 8), np.uint8), calibration())
    with pytest.raises(InputError, match="4 planes found, at least 8 wanted"):
        learned(np.zeros((1, 4), np.uint8), with_learned())


def test_wrong_shapes_raise() -> None:
    codes, weights, bias = np.zeros((1, 8), np.uint8), np.zeros((8, 3), np.int8), np.zeros(8, np.int32)
    for call in (
        lambda: _native.project(codes[:, :4].copy(), weights, bias),
        lambda: _native.project(codes, weights[:7], bias[:7]),
        lambda: _native.project(codes, weights, bias[:7]),
        lambda: _native.project(codes, weights[:, :0].copy(), bias),
    ):
        with pytest.raises(ValueError, match="wanted"):
            call()
