"""The public functions on codes: golden values, scores, accepted inputs and errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import specification

from qvec import codes
from qvec.errors import InputError, RowError


@dataclass
class Ranges:
    """The part of a calibration that functions on codes need."""

    threshold: np.ndarray
    radius: np.ndarray
    deviation: np.ndarray
    metric: str = "ip"
    accepted_dimensions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.accepted_dimensions = self.accepted_dimensions or (self.dimensions,)

    @property
    def dimensions(self) -> int:
        return len(self.threshold)


def random_ranges(dimensions: int, metric: str = "ip", **others: tuple[int, ...]) -> Ranges:
    random = np.random.default_rng(dimensions)
    threshold = random.normal(0, 0.1, dimensions).astype(np.float32)
    ones = np.ones(dimensions, np.float32)
    return Ranges(threshold, 3 * ones, ones, metric, **others)


def normal_vectors(rows: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dimensions)).astype(np.float32)


def golden_ranges() -> Ranges:
    """Return nine dimensions with threshold 1 and radius 128: a step is 1, and a plane has two bytes."""
    return Ranges(*(np.full(9, value, np.float32) for value in (1, 128, 40)))


GOLDEN_VECTOR = [1, 2, 0, 1.5, 129, -127, 500, -500, 17]
GOLDEN_CODES = [127, 128, 126, 128, 255, 0, 255, 0, 143]
GOLDEN_LONG_CODES = [511, 515, 507, 513, 1023, 0, 1023, 0, 575]
GOLDEN_LEVELS = {
    2: "5a80",
    3: "0a00" + "fa80",
    4: "0a00" + "5a80" + "fa80",
    5: "0a00" + "0a00" + "fa80" + "fa80",
    6: "0a00" + "0a00" + "5a80" + "fa80" + "fa80",
    8: "0a00" + "0a00" + "0a00" + "5a80" + "fa80" + "fa80" + "fa80",
}
GOLDEN_PLANES = ["5a80", "aa00", "aa00", "aa00", "aa80", "aa80", "aa80", "8a80", "ea80", "fa80"]


def test_golden_codes() -> None:
    arguments = (np.array([GOLDEN_VECTOR], np.float32), golden_ranges().threshold, golden_ranges().radius)
    assert specification.codes(*arguments, cosine=False).tolist() == [GOLDEN_CODES]
    assert specification.long_codes(*arguments, cosine=False).tolist() == [GOLDEN_LONG_CODES]
    assert codes.quantize(GOLDEN_VECTOR, golden_ranges()).tobytes().hex() == "".join(GOLDEN_PLANES[:8])
    assert codes.quantize(GOLDEN_VECTOR, golden_ranges(), 10).tobytes().hex() == "".join(GOLDEN_PLANES)


@pytest.mark.parametrize("planes", [1, 4, 8, 9])
def test_fewer_planes_are_prefix(planes: int) -> None:
    assert codes.quantize(GOLDEN_VECTOR, golden_ranges(), planes).tobytes().hex() == "".join(GOLDEN_PLANES[:planes])


def test_golden_decoded_values() -> None:
    stored = codes.quantize(GOLDEN_VECTOR, golden_ranges(), 10)
    assert codes.dequantize(stored, golden_ranges()).tolist() == [
        [0.875, 1.875, -0.125, 1.375, 128.875, -126.875, 128.875, -126.875, 16.875]
    ]
    assert codes.dequantize(stored, golden_ranges(), 8).tolist() == [
        [0.5, 1.5, -0.5, 1.5, 128.5, -126.5, 128.5, -126.5, 16.5]
    ]
    assert codes.dequantize(stored, golden_ranges(), 4).tolist() == [[-7, 9, -7, 9, 121, -119, 121, -119, 9]]
    assert codes.dequantize(stored, golden_ranges(), 1).tolist() == [[-39, 41, -39, 41, 41, -39, 41, -39, 41]]


@pytest.mark.parametrize("planes", [8, 10])
@pytest.mark.parametrize(("count", "wanted"), GOLDEN_LEVELS.items())
def test_golden_levels(count: int, wanted: str, planes: int) -> None:
    stored = codes.quantize(GOLDEN_VECTOR, golden_ranges(), planes)
    assert codes.levels(stored, golden_ranges(), count).tobytes().hex() == wanted


@pytest.mark.parametrize("count", specification.THRESHOLDS)
def test_levels_of_every_code_equal_specification(count: int) -> None:
    every = np.arange(256, dtype=np.uint8)[None]
    found = codes.levels(specification.to_planes(every, 8), random_ranges(256), count)
    np.testing.assert_array_equal(found, specification.levels(every, count))


def test_golden_ternary() -> None:
    stored = codes.quantize(GOLDEN_VECTOR, golden_ranges())
    assert codes.ternary(stored, golden_ranges()).tobytes().hex() == "0a00" + "fa80"


def test_quantization_error_is_at_most_half_a_step() -> None:
    vectors = np.clip(normal_vectors(100, 37), -2.5, 2.5)
    for planes in (2, 4, 8, 9, 10):
        step = 2 * 3 / 2**planes
        decoded = codes.dequantize(codes.quantize(vectors, random_ranges(37), planes), random_ranges(37))
        assert np.abs(decoded - vectors).max() <= step / 2 + 1e-6


def test_scores_are_inner_products_with_decoded_rows() -> None:
    stored, queries = codes.quantize(normal_vectors(50, 37), random_ranges(37), 10), normal_vectors(3, 37, seed=1)
    for planes in (None, 1, 4, 8, 9):
        wanted = queries @ codes.dequantize(stored, random_ranges(37), planes).T
        np.testing.assert_allclose(
            codes.score(stored, queries, random_ranges(37), planes), wanted, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("metric", "planes", "by_length"),
    [
        ("cosine", 1, True),
        ("cosine", 4, True),
        ("cosine", 7, True),
        ("cosine", 8, True),
        ("cosine", 10, True),
        ("ip", 4, False),
        ("ip", 8, False),
        ("ip", 10, False),
    ],
)
def test_cosine_scores_are_divided_by_length(metric: str, planes: int, by_length: bool) -> None:
    calibration = random_ranges(37, metric)
    stored, queries = codes.quantize(normal_vectors(50, 37), calibration, 10), normal_vectors(3, 37, seed=1)
    decoded = codes.dequantize(stored, calibration, planes)
    wanted = specification.scores(decoded, queries, by_length=by_length)
    np.testing.assert_allclose(codes.score(stored, queries, calibration, planes), wanted, rtol=1e-4, atol=1e-4)
    of_prefix = np.ascontiguousarray(stored[:, : 5 * planes])
    np.testing.assert_allclose(codes.score(of_prefix, queries, calibration), wanted, rtol=1e-4, atol=1e-4)


def test_queries_are_not_normalized_under_cosine() -> None:
    cosine = random_ranges(37, "cosine")
    stored, query = codes.quantize(normal_vectors(5, 37), cosine), normal_vectors(1, 37, seed=1)
    doubled = codes.score(stored, 2 * query, cosine)
    np.testing.assert_array_equal(doubled, 2 * codes.score(stored, query, cosine))


def test_cosine_prefix_is_normalized_after_truncation() -> None:
    cosine = random_ranges(8, "cosine", accepted_dimensions=(8, 20))
    vectors = 7 * normal_vectors(10, 20)
    wanted = specification.codes(vectors, cosine.threshold, cosine.radius, cosine=True)
    np.testing.assert_array_equal(codes.quantize(vectors, cosine), specification.to_planes(wanted, 8))
    np.testing.assert_array_equal(codes.quantize(vectors[:, :8], cosine), codes.quantize(vectors, cosine))
    queries = normal_vectors(2, 20, seed=1)
    stored = codes.quantize(vectors, cosine)
    np.testing.assert_array_equal(codes.score(stored, queries, cosine), codes.score(stored, queries[:, :8], cosine))


@pytest.mark.parametrize(
    "convert",
    [
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
        lambda a: a.tolist(),
    ],
    ids=["float64", "big-endian", "column-major", "strided", "reversed", "unaligned", "list"],
)
def test_memory_layout_and_type_do_not_change_codes(convert: object) -> None:
    vectors = normal_vectors(11, 37)
    assert callable(convert)
    np.testing.assert_array_equal(
        codes.quantize(convert(vectors), random_ranges(37)), codes.quantize(vectors, random_ranges(37))
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, np.float16])
def test_number_type_does_not_change_codes(dtype: type) -> None:
    vectors = np.arange(74).reshape(2, 37) % 5
    wanted = codes.quantize(vectors.astype(np.float32), random_ranges(37))
    np.testing.assert_array_equal(codes.quantize(vectors.astype(dtype), random_ranges(37)), wanted)


def test_read_only_arrays_are_accepted() -> None:
    vectors = normal_vectors(3, 37)
    vectors.flags.writeable = False
    assert codes.quantize(vectors, random_ranges(37)).shape == (3, 40)


def test_empty_arrays() -> None:
    empty = codes.quantize(np.zeros((0, 37), np.float32), random_ranges(37))
    assert empty.shape == (0, 40)
    assert codes.ternary(empty, random_ranges(37)).shape == (0, 10)
    assert codes.dequantize(empty, random_ranges(37)).shape == (0, 37)
    assert codes.score(empty, normal_vectors(2, 37), random_ranges(37)).shape == (2, 0)
    assert codes.hamming(empty, empty).shape == (0, 0)
    some = codes.quantize(normal_vectors(2, 37), random_ranges(37))
    assert codes.hamming(empty, some).shape == (2, 0)
    assert codes.hamming_top_k(empty, some, 3)[0].shape == (2, 0)
    assert codes.hamming_top_k(some, empty, 3)[0].shape == (0, 2)


def test_hamming_top_k_with_sign_bit_queries() -> None:
    stored = codes.quantize(normal_vectors(50, 37), random_ranges(37))
    rows, distances = codes.hamming_top_k(stored, codes.quantize(normal_vectors(50, 37), random_ranges(37), 1), 1)
    assert rows[:, 0].tolist() == list(range(50))
    assert not distances.any()


def test_hamming_top_k_with_k_above_row_count() -> None:
    assert codes.hamming_top_k(np.zeros((3, 1), np.uint8), np.zeros((1, 1), np.uint8), 10)[0].tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_non_finite_vector_error_names_row(metric: str) -> None:
    vectors = normal_vectors(5, 37)
    vectors[3, 4] = np.nan
    with pytest.raises(RowError, match=r"^vectors: row 3: NaN at dimension 4$") as caught:
        codes.quantize(vectors, random_ranges(37, metric))
    assert caught.value.row == 3


def test_non_finite_query_error_names_row() -> None:
    stored = codes.quantize(normal_vectors(5, 2), random_ranges(2))
    with pytest.raises(RowError, match=r"^queries: row 1: infinity at dimension 0$"):
        codes.score(stored, [[0, 1], [np.inf, 1]], random_ranges(2))


def test_zero_vector_raises_for_cosine() -> None:
    with pytest.raises(RowError, match=r"^vectors: row 0: zero vector, which has no direction under cosine$"):
        codes.quantize(np.zeros(37), random_ranges(37, "cosine"))


def test_float32_overflow_error_names_row() -> None:
    vectors = np.zeros((2, 37))
    vectors[1, 5] = 1e300
    with pytest.raises(RowError, match=r"^vectors: row 1: 1e\+300 at dimension 5 is beyond float32$"):
        codes.quantize(vectors, random_ranges(37))


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((2, 37), bool),
        np.ones((2, 37), complex),
        np.full((2, 37), "1"),
        np.full((2, 37), 1.0, object),
        [[1], []],
    ],
    ids=["bool", "complex", "text", "object", "ragged"],
)
def test_non_numeric_values_raise(vectors: object) -> None:
    with pytest.raises(
        InputError, match=r"^vectors: (dtype .* found, floats or integers wanted|not an array of numbers)"
    ):
        codes.quantize(vectors, random_ranges(37))  # type: ignore[arg-type]


STORED = np.zeros((2, 40), np.uint8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: codes.quantize(normal_vectors(2, 36), random_ranges(37)), "vectors: 36 dimensions found, 37 wanted"),
        (lambda: codes.quantize(normal_vectors(2, 38), random_ranges(37)), "vectors: 38 dimensions found, 37 wanted"),
        (lambda: codes.quantize(np.zeros((1, 1, 37)), random_ranges(37)), "vectors: 3 axes found, 2 wanted"),
        (lambda: codes.quantize(normal_vectors(2, 37), random_ranges(37), 0), "planes: 0 found, 1 to 10 wanted"),
        (lambda: codes.quantize(normal_vectors(2, 37), random_ranges(37), 11), "planes: 11 found, 1 to 10 wanted"),
        (
            lambda: codes.dequantize(STORED[:, :39], random_ranges(37)),
            "39 bytes a row found, 1 to 10 planes of 5 bytes wanted",
        ),
        (lambda: codes.dequantize(np.zeros((2, 55), np.uint8), random_ranges(37)), "codes: 55 bytes a row found"),
        (lambda: codes.levels(STORED, random_ranges(37), 7), "count: 7 levels found, one of 2, 3, 4, 5, 6, 8 wanted"),
        (lambda: codes.levels(STORED[:, :15], random_ranges(37), 6), "codes: 3 planes found, at least 4 wanted"),
        (lambda: codes.dequantize(STORED[:, :20], random_ranges(37), 8), "codes: 4 planes found, 8 wanted"),
        (lambda: codes.dequantize(STORED.astype(int), random_ranges(37)), "codes: dtype int64 found, uint8 wanted"),
        (
            lambda: codes.ternary(STORED[:, :15], random_ranges(37)),
            "codes: 3 planes found, at least 4 wanted for 3 levels",
        ),
        (
            lambda: codes.score(STORED, normal_vectors(1, 8), random_ranges(37)),
            "queries: 8 dimensions found, 37 wanted",
        ),
        (lambda: codes.hamming(STORED[:, :5], STORED), "queries: 40 bytes a row found, 1 to 5"),
        (lambda: codes.hamming_top_k(STORED, STORED, 0), "k: 0 found, at least 1 wanted"),
    ],
)
def test_wrong_shape_error_states_found_and_expected(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(InputError) as caught:
        call()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("dimensions", "planes", "wanted"), [(1, 1, 1), (8, 8, 8), (9, 4, 8), (1024, 8, 1024), (1024, 10, 1280)]
)
def test_code_bytes(dimensions: int, planes: int, wanted: int) -> None:
    assert codes.code_bytes(dimensions, planes) == wanted
