"""The Rust functions agree with the numpy specification: codes bit for bit, scores within 1e-5."""

from __future__ import annotations

import numpy as np
import pytest
import specification
from hypothesis import assume, given
from hypothesis import strategies as st
from property_tests import examples
from quantizer_cases import DIMENSIONS, Case, cases

from qvec import _native
from qvec.prefilter_levels import LEVEL_THRESHOLDS, level_planes

plane_counts = st.integers(1, specification.MAX_PLANES)


def codes_of(case: Case, *, cosine: bool = False) -> np.ndarray:
    return specification.codes(case.vectors, case.threshold, case.radius, cosine=cosine)


def long_codes_of(case: Case, *, cosine: bool = False) -> np.ndarray:
    return specification.long_codes(case.vectors, case.threshold, case.radius, cosine=cosine)


@given(cases(), plane_counts)
@examples(300)
def test_quantize_equals_specification(case: Case, planes: int) -> None:
    found = _native.quantize(case.vectors, case.threshold, case.radius, planes, False)
    np.testing.assert_array_equal(found, specification.to_planes(long_codes_of(case), planes))


@given(cases(), plane_counts)
@examples(200)
def test_quantize_under_cosine_equals_specification(case: Case, planes: int) -> None:
    assume(case.vectors[:, : case.dimensions].any(axis=1).all())
    found = _native.quantize(case.vectors, case.threshold, case.radius, planes, True)
    np.testing.assert_array_equal(found, specification.to_planes(long_codes_of(case, cosine=True), planes))


@given(cases())
def test_top_bits_of_long_codes_are_the_codes(case: Case) -> None:
    np.testing.assert_array_equal(long_codes_of(case) >> (specification.MAX_PLANES - 8), codes_of(case))


@given(cases())
def test_normalize_equals_specification(case: Case) -> None:
    assume(case.vectors[:, : case.dimensions].any(axis=1).all())
    wanted = specification.unit_rows(case.vectors, case.dimensions)
    np.testing.assert_array_equal(_native.normalize(case.vectors, case.dimensions), wanted)


@pytest.mark.parametrize(("squared", "kept"), [(1 + 1.9e-4, True), (1 - 1.9e-4, True), (1 + 2.1e-4, False)])
def test_normalized_rows_are_unchanged(squared: float, kept: bool) -> None:
    row = np.full((1, 16), np.sqrt(squared / 16), np.float32)
    assert np.array_equal(_native.normalize(row, 16), row) is kept


@given(cases())
def test_top_plane_is_value_above_threshold(case: Case) -> None:
    found = _native.quantize(case.vectors, case.threshold, case.radius, 1, False)
    above = case.vectors[:, : case.dimensions].astype(np.float32) > case.threshold
    np.testing.assert_array_equal(found, np.packbits(above, axis=1))


@given(cases(), st.lists(st.integers(1, 255), min_size=1, max_size=9))
def test_comparison_with_thresholds_equals_numpy(case: Case, thresholds: list[int]) -> None:
    codes = codes_of(case)
    found = _native.compare(specification.to_planes(codes, 8), case.dimensions, thresholds)
    wanted = [np.packbits(codes >= threshold, axis=1) for threshold in thresholds]
    np.testing.assert_array_equal(found, np.concatenate(wanted, axis=1))


@given(cases(), st.sampled_from(list(specification.THRESHOLDS)), st.integers(0, 8))
def test_levels_equal_specification(case: Case, count: int, more: int) -> None:
    codes = codes_of(case)
    stored = specification.to_planes(codes, min(level_planes(count) + more, 8))
    found = _native.compare(stored, case.dimensions, LEVEL_THRESHOLDS[count])
    np.testing.assert_array_equal(found, specification.levels(codes, count))


@given(cases(extreme=False), plane_counts, plane_counts)
@examples(200)
def test_dequantize_equals_specification(case: Case, stored: int, read: int) -> None:
    assume(read <= stored)
    rows = specification.to_planes(long_codes_of(case), stored)
    found = _native.dequantize(rows, case.threshold, case.radius, case.deviation, read)
    np.testing.assert_array_equal(found, decoded(case, read))


def decoded(case: Case, planes: int) -> np.ndarray:
    return specification.decoded(long_codes_of(case), case.threshold, case.radius, case.deviation, planes)


def test_dimension_without_spread_decodes_to_threshold() -> None:
    threshold, zeros = np.array([0.3, -2], np.float32), np.zeros(2, np.float32)
    rows = _native.quantize(np.array([[0.3, 5]], np.float32), threshold, zeros, specification.MAX_PLANES, False)
    for planes in range(1, specification.MAX_PLANES + 1):
        assert _native.dequantize(rows, threshold, zeros, zeros, planes).tolist() == [threshold.tolist()]


@given(cases(extreme=False), plane_counts, st.integers(0, 4), st.booleans(), st.integers(0, 2**32 - 1))
@examples(200)
def test_scores_are_inner_products_with_decoded_rows(
    case: Case, planes: int, count: int, by_length: bool, seed: int
) -> None:
    queries = np.random.default_rng(seed).normal(size=(count, case.dimensions)).astype(np.float32)
    rows = specification.to_planes(long_codes_of(case), specification.MAX_PLANES)
    found = _native.score(rows, queries, case.threshold, case.radius, case.deviation, planes, by_length)
    decoded_rows = decoded(case, planes)
    exact = specification.scores(decoded_rows, queries, by_length=by_length)
    magnitudes = np.abs(case.threshold) + np.abs(decoded_rows.astype(np.float64) - case.threshold)
    allowed = 1e-5 * specification.scores(magnitudes, np.abs(queries), by_length=False) + 1e-30
    if by_length:
        allowed = allowed / np.linalg.norm(decoded_rows, axis=1) + 1e-5 * np.abs(exact)
    assert found.shape == (count, len(case.vectors))
    assert np.all(np.abs(found - exact) <= allowed)


def test_rows_that_decode_to_zero_score_zero_by_length() -> None:
    """A zero vector has no length to divide by."""
    ranges = (np.full(9, 0.25, np.float32), np.ones(9, np.float32), np.full(9, 0.25, np.float32))
    codes = np.array([[0, 0], [255, 128]], np.uint8)
    found = _native.score(codes, np.ones((1, 9), np.float32), *ranges, 1, True)
    np.testing.assert_allclose(found, [[0, 3]], rtol=1e-6)


def random_bits(random: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Return similar rows, so that distances repeat."""
    return np.packbits(random.random((rows, 8 * width)) < 0.1, axis=1)


@given(st.integers(0, 40), st.integers(0, 4), st.sampled_from((1, 7, 8, 9, 48, 128)), st.integers(0, 2**32 - 1))
def test_hamming_equals_specification(rows: int, count: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes, queries = random_bits(random, rows, width + seed % 3), random_bits(random, count, width)
    np.testing.assert_array_equal(_native.hamming(codes, queries), specification.hamming(codes, queries))


@given(
    st.integers(0, 200), st.integers(0, 4), st.sampled_from((1, 2, 48)), st.integers(1, 210), st.integers(0, 2**32 - 1)
)
def test_hamming_top_k_equals_specification(rows: int, count: int, width: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    codes, queries = random_bits(random, rows, width + seed % 3), random_bits(random, count, width)
    distances = specification.hamming(codes, queries)
    wanted = specification.nearest(distances, k)
    found, found_distances = _native.hamming_top_k(codes, queries, k)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found_distances, np.take_along_axis(distances, wanted, axis=1))


@pytest.mark.parametrize("dimensions", [9, 1000])
def test_parallel_results_equal_serial_results(dimensions: int) -> None:
    """Large inputs are cut into parts for threads; the last part is shorter."""
    random = np.random.default_rng(dimensions)
    rows = 5_000_011 // dimensions
    vectors = random.normal(size=(rows, dimensions)).astype(np.float32)
    threshold, radius = np.zeros(dimensions, np.float32), np.full(dimensions, 3, np.float32)
    deviation = np.full(dimensions, 0.8, np.float32)
    codes = _native.quantize(vectors, threshold, radius, 8, False)
    sample = np.unique(np.linspace(0, rows - 1, 200).astype(int))
    some = np.ascontiguousarray(codes[sample])
    wanted = specification.to_planes(specification.codes(vectors[sample], threshold, radius, cosine=False), 8)
    np.testing.assert_array_equal(some, wanted)
    for count in LEVEL_THRESHOLDS.values():
        large, small = _native.compare(codes, dimensions, count), _native.compare(some, dimensions, count)
        np.testing.assert_array_equal(large[sample], small)
    ranges = (threshold, radius, deviation)
    np.testing.assert_array_equal(_native.dequantize(codes, *ranges, 4)[sample], _native.dequantize(some, *ranges, 4))
    queries = vectors[:3]
    np.testing.assert_array_equal(
        _native.score(codes, queries, *ranges, 8, True)[:, sample],
        _native.score(some, queries, *ranges, 8, True),
    )
    distances = _native.hamming(codes, codes[:3])
    np.testing.assert_array_equal(distances[:, sample], _native.hamming(some, codes[:3]))
    np.testing.assert_array_equal(_native.hamming_top_k(codes, codes[:3], 20)[0], specification.nearest(distances, 20))


@pytest.mark.parametrize("dimensions", DIMENSIONS)
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("cosine", [False, True])
def test_error_names_first_bad_row(dimensions: int, value: float, name: str, dtype: type, cosine: bool) -> None:
    vectors = np.ones((7, dimensions), dtype)
    vectors[5, 0] = np.nan
    vectors[3, dimensions // 2 :] = value
    ones = np.ones(dimensions, np.float32)
    reason = f"{name} at dimension {dimensions // 2}"
    with pytest.raises(_native.BadRow) as caught:
        _native.quantize(vectors, ones, ones, 8, cosine)
    assert caught.value.args == (3, reason)
    assert _native.bad_rows(vectors, dimensions, cosine) == [(3, reason), (5, "NaN at dimension 0")]


def test_error_names_first_bad_row_of_large_input() -> None:
    vectors = np.ones((100_000, 16), np.float32)
    vectors[[99_999, 77_777, 50_001], 7] = np.nan
    with pytest.raises(_native.BadRow) as caught:
        _native.quantize(vectors, vectors[0], vectors[0], 8, False)
    assert caught.value.args == (50_001, "NaN at dimension 7")


def test_zero_vector_is_bad_only_for_cosine() -> None:
    vectors = np.array([[1, 0], [0, -0.0], [1e-45, 0]], np.float32)
    reason = "zero vector, which has no direction under cosine"
    assert _native.bad_rows(vectors, 2, True) == [(1, reason)]
    assert _native.bad_rows(vectors, 2, False) == []
    with pytest.raises(_native.BadRow, match=reason):
        _native.normalize(vectors, 2)


def test_values_after_prefix_are_ignored() -> None:
    vectors = np.array([[1, 2, np.nan]], np.float32)
    assert _native.bad_rows(vectors, 2, False) == []


def test_error_names_non_finite_query() -> None:
    ones = np.ones(2, np.float32)
    with pytest.raises(_native.BadRow) as caught:
        _native.score(
            np.zeros((1, 8), np.uint8), np.array([[1, 1], [1, np.inf]], np.float32), ones, ones, ones, 8, False
        )
    assert caught.value.args == (1, "infinity at dimension 1")


def test_wrong_shapes_raise_value_error() -> None:
    ones, codes = np.ones(9, np.float32), np.zeros((2, 16), np.uint8)
    for call in (
        lambda: _native.quantize(np.ones((2, 8), np.float32), ones, ones, 8, False),
        lambda: _native.quantize(np.ones((2, 9), np.float32), ones, ones[:8], 8, False),
        lambda: _native.quantize(np.ones((2, 9), np.float32), ones, ones, 11, False),
        lambda: _native.quantize(np.asfortranarray(np.ones((2, 9), np.float32)), ones, ones, 8, False),
        lambda: _native.dequantize(codes, ones, ones, ones, 11),
        lambda: _native.dequantize(codes[:, :14].copy(), ones, ones, ones, 8),
        lambda: _native.score(codes, np.ones((1, 8), np.float32), ones, ones, ones, 8, False),
        lambda: _native.compare(codes[:, :7].copy(), 9, [144]),
        lambda: _native.compare(codes, 9, []),
        lambda: _native.compare(codes, 9, [0]),
        lambda: _native.hamming(codes[:, :1].copy(), codes),
    ):
        with pytest.raises(ValueError, match=r"found|contiguous"):
            call()
