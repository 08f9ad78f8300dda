"""Calibrations fitted to the first vectors that a framework stores, however few these are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from conftest import realistic
from numpy.typing import NDArray

from qvec import Calibration, RangeMethod, RowError, hamming, quantize, score, ternary
from qvec.integrations.first_calibration import SHRINK_BELOW, WARN_BELOW, first_calibration

Vectors = NDArray[np.float32]


def fit_quietly(vectors: Vectors, **options: str) -> Calibration:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return first_calibration(vectors, **{"metric": "cosine", "model": None, **options})  # type: ignore[arg-type]


def recall(calibration: Calibration, vectors: Vectors, queries: Vectors) -> float:
    """Return recall@10 in percent, with int8 codes rescoring the 40 closest by ternary bits."""
    true = np.argsort(-calibration.prepared(queries) @ calibration.prepared(vectors).T, axis=1)[:, :10]
    codes = quantize(vectors, calibration)
    near = hamming(ternary(codes, calibration), ternary(quantize(queries, calibration), calibration))
    scores = score(codes, queries, calibration)
    beyond = np.argsort(near, axis=1, kind="stable")[:, 40:]
    np.put_along_axis(scores, beyond, -np.inf, axis=1)
    found = np.argsort(-scores, axis=1)[:, :10]
    hits = [len(set(a) & set(b)) for a, b in zip(true.tolist(), found.tolist(), strict=True)]
    return 10 * float(np.mean(hits))


def test_few_vectors_give_nearly_full_recall(vectors: Vectors, queries: Vectors) -> None:
    best = recall(Calibration.fit(vectors), vectors, queries)
    for count, lost in ((10, 4), (30, 2), (300, 1)):
        draws = [realistic(count, seed=seed) for seed in range(2, 6)]
        few = np.mean([recall(fit_quietly(drawn), vectors, queries) for drawn in draws])
        assert few > best - lost
    ten = [realistic(10, seed=seed) for seed in range(2, 6)]
    fitted = np.mean([recall(Calibration.fit(drawn), vectors, queries) for drawn in ten])
    assert np.mean([recall(fit_quietly(drawn), vectors, queries) for drawn in ten]) > fitted + 4


def test_one_vector_sets_only_scale() -> None:
    for metric, length in (("cosine", 1.0), ("ip", 5.0)):
        one = np.zeros((1, 100), np.float32)
        one[0, 0] = 5
        calibration = fit_quietly(one, metric=metric)
        assert not calibration.threshold.any()
        np.testing.assert_allclose(calibration.std, length / 10, rtol=1e-6)
        np.testing.assert_allclose(calibration.radius, 3.89 * length / 10, rtol=1e-6)
        np.testing.assert_allclose(
            fit_quietly(one, metric=metric, rescore="int4").radius, 2.58 * length / 10, rtol=1e-6
        )


def test_mean_and_spread_shrink_for_few_vectors() -> None:
    random = np.random.default_rng(0)
    spread = np.linspace(0.5, 2, 400)
    mean = np.where(np.arange(400) < 4, 10, 0)
    draws = [
        fit_quietly((mean + spread * random.normal(size=(12, 400))).astype(np.float32), metric="ip") for _ in range(40)
    ]
    plain = np.mean([np.sum((mean + spread * random.normal(size=(12, 400)).mean(0) - mean) ** 2) for _ in range(40)])
    shrunk = np.mean([np.sum((draw.mean - mean) ** 2) for draw in draws])
    assert shrunk < plain
    found = np.mean([draw.std for draw in draws], axis=0)
    assert found[0] > spread[0]
    assert found[-1] < spread[-1]
    assert np.corrcoef(found, spread)[0, 1] > 0.9
    np.testing.assert_allclose(draws[0].threshold, draws[0].mean / 2, rtol=1e-5)


def test_equal_vectors_give_finite_ranges() -> None:
    calibration = fit_quietly(np.ones((5, 8), np.float32))
    assert np.isfinite(calibration.radius).all()
    decoded = quantize(np.ones((1, 8), np.float32), calibration)
    assert decoded.shape == (1, 8)


@pytest.mark.parametrize("count", [1, WARN_BELOW - 1])
def test_few_vectors_warn(count: int) -> None:
    with pytest.warns(UserWarning, match=rf"^the calibration is made from the first {count} vectors; if they are not"):
        first_calibration(realistic(count), "cosine", None)


def test_enough_vectors_do_not_warn(vectors: Vectors) -> None:
    assert first_calibration(vectors[:WARN_BELOW], "cosine", None).description["method"]["name"] == "normal"
    assert len(vectors) == SHRINK_BELOW
    assert first_calibration(vectors, "cosine", "m") == Calibration.fit(vectors, model="m")
    narrow = Calibration.fit(vectors, ranges=RangeMethod(quantile=0.99))
    assert first_calibration(vectors, "cosine", None, "int4") == narrow


def test_save_and_load(tmp_path) -> None:  # type: ignore[no-untyped-def]
    calibration = fit_quietly(realistic(3), model="m")
    assert calibration.model == "m"
    calibration.save(tmp_path / "c")
    assert Calibration.load(tmp_path / "c") == calibration


def test_nan_raises_row_error() -> None:
    with pytest.raises(RowError, match="row 1: NaN"):
        fit_quietly(np.array([[1, 1], [1, np.nan]], np.float32))
