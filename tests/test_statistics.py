"""Streaming statistics, deviations and quantiles compared with numpy on the whole array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from property_tests import examples
from quantizer_cases import Case, cases

from qvec import _native


def normal(rows: int, dimensions: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (rows, dimensions)).astype(np.float32)


def assert_describes(statistics: _native.Statistics, vectors: np.ndarray) -> None:
    exact = vectors.astype(np.float64)
    assert statistics.count == len(vectors)
    np.testing.assert_allclose(statistics.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.variance, exact.var(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(statistics.minimum, vectors.min(axis=0))
    np.testing.assert_array_equal(statistics.maximum, vectors.max(axis=0))


@pytest.mark.parametrize("mean", [0, 1, 1e4])
@pytest.mark.parametrize(("rows", "dimensions"), [(1, 1), (63, 7), (65, 8), (3000, 100), (70_001, 16)])
def test_statistics_equal_numpy(rows: int, dimensions: int, mean: float) -> None:
    vectors = normal(rows, dimensions, mean)
    statistics = _native.Statistics(dimensions)
    statistics.update(vectors)
    assert_describes(statistics, vectors)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=5), st.sampled_from((1, 9)), st.integers(0, 1000))
def test_batches_and_merges_equal_whole(sizes: list[int], dimensions: int, seed: int) -> None:
    vectors = normal(sum(sizes) + 1, dimensions, 100, seed)
    batches = np.split(vectors, np.cumsum(sizes))
    streamed, left, right = (_native.Statistics(dimensions) for _ in range(3))
    for batch in batches:
        streamed.update(batch)
    left.update(batches[0])
    for batch in batches[1:]:
        right.update(batch)
    left.merge(right)
    assert_describes(streamed, vectors)
    assert_describes(left, vectors)


def test_variance_of_constant_dimension_is_exactly_zero() -> None:
    statistics = _native.Statistics(2)
    for _ in range(3):
        statistics.update(np.full((1000, 2), 0.1, np.float32))
    np.testing.assert_array_equal(statistics.variance, 0)
    np.testing.assert_array_equal(statistics.mean, np.float64(np.float32(0.1)))


def test_largest_values_do_not_overflow() -> None:
    vectors = np.full((1000, 3), np.finfo(np.float32).max)
    statistics = _native.Statistics(3)
    statistics.update(vectors)
    np.testing.assert_array_equal(statistics.mean, vectors[0].astype(np.float64))


def test_bad_row_raises_and_leaves_statistics_unchanged() -> None:
    vectors = normal(5000, 4)
    statistics = _native.Statistics(4)
    statistics.update(vectors)
    broken = vectors.copy()
    broken[[4000, 4999], 2] = np.inf
    with pytest.raises(_native.BadRow) as caught:
        statistics.update(broken)
    assert caught.value.args == (4000, "infinity at dimension 2")
    assert_describes(statistics, vectors)


def test_wrong_dimensions_raise() -> None:
    statistics = _native.Statistics(4)
    with pytest.raises(ValueError, match="3 columns found, 4 wanted"):
        statistics.update(normal(2, 3))
    with pytest.raises(ValueError, match="3 dimensions found, 4 wanted"):
        statistics.merge(_native.Statistics(3))


@given(cases())
def test_absolute_deviation_equals_numpy(case: Case) -> None:
    vectors = np.vstack([case.threshold, case.vectors[:, : case.dimensions]]).astype(np.float32)
    with np.errstate(over="ignore"):
        wanted = np.abs(vectors.astype(np.float64) - case.threshold).mean(axis=0).astype(np.float32)
    statistics = _native.Statistics(case.dimensions, case.threshold)
    for batch in np.array_split(vectors, 2):
        statistics.update(np.ascontiguousarray(batch))
    np.testing.assert_allclose(statistics.absolute_deviation, wanted, rtol=1e-7, atol=1e-45)


def test_absolute_deviation_requires_matching_threshold() -> None:
    with pytest.raises(ValueError, match="no threshold was given"):
        _ = _native.Statistics(2).absolute_deviation
    with pytest.raises(ValueError, match="3 values found, 2 wanted"):
        _native.Statistics(2, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="their thresholds differ"):
        _native.Statistics(1, np.zeros(1, np.float32)).merge(_native.Statistics(1))


@given(cases(), st.sampled_from((0.0, 0.25, 0.5, 0.9, 0.9999, 1.0)) | st.floats(0, 1))
@examples(200)
def test_quantiles_equal_numpy_bit_for_bit(case: Case, quantile: float) -> None:
    vectors = np.vstack([case.threshold, case.vectors[:, : case.dimensions]]).astype(np.float32)
    with np.errstate(over="ignore"):
        differences = np.abs(vectors - case.threshold)
    within = np.isfinite(differences).all(axis=0)
    wanted = np.quantile(differences[:, within].astype(np.float64), quantile, axis=0, method="linear")
    found = _native.deviation_quantile(vectors, case.threshold, quantile)[within]
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


@pytest.mark.parametrize("quantile", [0.5, 0.9999])
def test_quantiles_of_large_sample_equal_numpy(quantile: float) -> None:
    vectors, threshold = normal(20_000, 37), np.full(37, 0.05, np.float32)
    wanted = np.quantile(np.abs(vectors - threshold).astype(np.float64), quantile, axis=0)
    found = _native.deviation_quantile(vectors, threshold, quantile)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def test_invalid_quantile_arguments_raise() -> None:
    zero, broken = np.zeros(2, np.float32), np.array([[0, 0], [0, np.nan]], np.float32)
    with pytest.raises(_native.BadRow) as caught:
        _native.deviation_quantile(broken, zero, 0.5)
    assert caught.value.args == (1, "NaN at dimension 1")
    with pytest.raises(ValueError, match="no rows found"):
        _native.deviation_quantile(broken[:0], zero, 0.5)
    with pytest.raises(ValueError, match=r"1\.5 found, 0 to 1 wanted"):
        _native.deviation_quantile(broken[:1], zero, 1.5)
