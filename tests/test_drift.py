"""Drift statistics: no drift on the fitted vectors, and one statistic for each kind of change."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import realistic
from numpy.typing import NDArray

from qvec import Calibration, InputError, RowError

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def rows() -> Vectors:
    return realistic(2000, 16)


@pytest.fixture(scope="module")
def fitted(rows: Vectors) -> Calibration:
    return Calibration.fit(rows, metric="ip")


def test_no_drift_on_fitted_vectors(rows: Vectors, fitted: Calibration) -> None:
    drift = fitted.drift(rows)
    assert drift.count == 2000
    np.testing.assert_allclose(drift.mean_shift, 0, atol=1e-5)
    np.testing.assert_allclose(drift.spread_ratio, 1, rtol=1e-5)
    np.testing.assert_array_equal(drift.bit_balance, (rows > fitted.threshold).mean(axis=0, dtype=np.float32))
    np.testing.assert_allclose(drift.clip_rate, 1 / 2000)  # the row beyond the 0.9999 quantile of 2000


def test_hardly_any_drift_on_same_distribution(fitted: Calibration) -> None:
    summary = fitted.drift(realistic(2000, 16, seed=9)).summary()
    assert summary["count"] == 2000
    assert summary["largest_mean_shift"] < 0.15
    assert summary["median_spread_ratio"] == pytest.approx(1, abs=0.05)
    assert summary["largest_clip_rate"] < 0.01


def test_mean_shift_is_in_standard_deviations(rows: Vectors, fitted: Calibration) -> None:
    shifted = rows.copy()
    shifted[:, 3] += 2 * fitted.std[3]
    shifted[:, 5] -= 3 * fitted.std[5]
    drift = fitted.drift(shifted)
    wanted = np.zeros(16)
    wanted[3], wanted[5] = 2, -3
    np.testing.assert_allclose(drift.mean_shift, wanted, atol=1e-4)
    np.testing.assert_allclose(drift.spread_ratio, 1, rtol=1e-4)
    assert drift.summary()["largest_mean_shift"] == pytest.approx(3, abs=1e-4)
    assert drift.bit_balance[3] > fitted.drift(rows).bit_balance[3] + 0.2
    assert drift.bit_balance[5] < fitted.drift(rows).bit_balance[5] - 0.2


def test_wider_spread_changes_spread_ratio_and_clip_rate(rows: Vectors, fitted: Calibration) -> None:
    wider = fitted.mean + 3 * (rows - fitted.mean)
    drift = fitted.drift(wider)
    np.testing.assert_allclose(drift.spread_ratio, 3, rtol=1e-4)
    np.testing.assert_allclose(drift.mean_shift, 0, atol=1e-4)
    wanted = (np.abs(wider - fitted.threshold) > fitted.radius).mean(axis=0)
    np.testing.assert_allclose(drift.clip_rate, wanted, atol=1e-6)
    assert drift.summary()["mean_clip_rate"] == pytest.approx(wanted.mean(), abs=1e-6)
    assert drift.summary()["largest_clip_rate"] == pytest.approx(wanted.max(), abs=1e-6)
    assert wanted.max() > 0.05


def test_cosine_drift_ignores_vector_lengths(rows: Vectors) -> None:
    fitted = Calibration.fit(rows, metric="cosine")
    np.testing.assert_allclose(fitted.drift(7 * rows).mean_shift, 0, atol=1e-4)
    np.testing.assert_allclose(fitted.drift(7 * rows).spread_ratio, 1, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3333333])
def test_constant_dimension(value: float) -> None:
    constant = np.full((1001, 2), value, np.float32)
    constant[:, 0] += np.arange(1001)
    fitted = Calibration.fit(constant, metric="ip")
    same = fitted.drift(constant[:77])
    assert (same.mean_shift[1], same.spread_ratio[1]) == (0, 1)
    moved = constant + np.float32(1)
    assert fitted.drift(moved).mean_shift[1] == np.inf
    spread = constant.copy()
    spread[::2, 1] += 1
    assert fitted.drift(spread).spread_ratio[1] == np.inf


def test_drift_of_one_vector(rows: Vectors, fitted: Calibration) -> None:
    drift = fitted.drift(rows[0])
    assert drift.count == 1
    np.testing.assert_array_equal(drift.spread_ratio, 0)
    np.testing.assert_allclose(drift.mean_shift, (rows[0] - fitted.mean) / fitted.std, rtol=1e-4, atol=1e-5)


def test_invalid_vectors_raise(rows: Vectors, fitted: Calibration) -> None:
    with pytest.raises(InputError, match=r"^no vectors to compare with the calibration$"):
        fitted.drift(rows[:0])
    with pytest.raises(InputError, match=r"^vectors: 15 dimensions found, 16 wanted$"):
        fitted.drift(rows[:, :15])
    bad = rows.copy()
    bad[12, 3] = np.nan
    with pytest.raises(RowError, match=r"^vectors: row 12: NaN at dimension 3$"):
        fitted.drift(bad)
