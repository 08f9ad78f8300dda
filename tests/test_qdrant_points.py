"""Rows as Qdrant points: stored vectors, ids and metadata; rows that Qdrant could not return unchanged are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from quantizer_cases import Case, cases

from qvec import Calibration, InputError, RowError, quantize
from qvec.client.arguments import id_list
from qvec.qdrant.points import (
    ID,
    MAX_NESTING,
    encode,
    parse_metadata,
    point_id,
    row_id,
    row_ids,
    stored_vectors,
    unmanaged_point_id,
)
from qvec.qdrant.vector_layout import VectorLayout
from qvec.store.requests import RowColumns

Vectors = NDArray[np.float32]

UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"


def calibration_of(case: Case, metric: Any = "ip") -> Calibration:
    zero = np.zeros_like(case.threshold)
    return Calibration(case.threshold, case.radius, case.deviation, zero, zero, metric)


def sign_bits(stored: Vectors) -> NDArray[np.uint8]:
    return np.packbits(stored > 0, axis=1)


# Vectors


@pytest.mark.parametrize("rescore", ["float16", "float32", "turbo16", "turbo8", "binary"])
@given(case=cases(extreme=False))
def test_stored_signs_equal_the_bits_of_the_codes(rescore: Any, case: Case) -> None:
    """Some vectors are one float32 step from the threshold, a difference far below float16's precision."""
    calibration = calibration_of(case)
    layout = VectorLayout.of(case.dimensions, "bigint", rescore)
    vectors = np.ascontiguousarray(case.vectors[:, : case.dimensions])
    stored = stored_vectors(vectors, calibration, layout)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(sign_bits(stored), quantize(vectors, calibration, 1), strict=True)
    if rescore != "float32":
        np.testing.assert_array_equal(stored, stored.astype(np.float16).astype(np.float32))


def test_smallest_differences_keep_their_sign() -> None:
    threshold = np.array([1.0, 1.0, 0.0, 0.0, 0.0, -1e-45], np.float32)
    vector = np.array([np.nextafter(np.float32(1), np.float32(2)), 1.0, 1e-45, -1e-45, -0.0, 0.0], np.float32)
    spread = np.ones(6, np.float32)
    calibration = Calibration(threshold, spread, spread, threshold, spread, "ip")
    stored = stored_vectors(vector[None], calibration, VectorLayout(6))[0]
    assert stored.tolist() == [float(np.float16(vector[0] - 1)), 0, 2.0**-24, 0, 0, 2.0**-24]
    exact = stored_vectors(vector[None], calibration, VectorLayout(6, rescore="float32"))[0]
    assert exact.tolist() == [
        2.0**-23,
        0,
        float(np.float32(1e-45)),
        -float(np.float32(1e-45)),
        0,
        float(np.float32(1e-45)),
    ]


@pytest.mark.parametrize(
    ("rescore", "value", "is_storable"),
    [("float16", 65504, True), ("float16", 65505, False), ("turbo8", 70_000, False), ("float32", 3e38, True)],
)
def test_values_beyond_the_stored_type_are_an_error_naming_the_row(
    rescore: Any, value: float, is_storable: bool
) -> None:
    zero, one = np.zeros(8, np.float32), np.ones(8, np.float32)
    calibration = Calibration(zero, one, one, zero, one, "ip")
    vectors = np.ones((3, 8), np.float32)
    vectors[1, 5] = -value
    layout = VectorLayout(8, rescore=rescore)
    if is_storable:
        assert stored_vectors(vectors, calibration, layout)[1, 5] == np.float32(-value)
        return
    with pytest.raises(RowError, match=r"^row 1: dimension 5 is -\d+ from its threshold, and no more than 6.5504e4"):
        stored_vectors(vectors, calibration, layout)


def test_difference_beyond_float32_is_an_error_naming_the_row() -> None:
    far = np.full(4, -3e38, np.float32)
    one = np.ones(4, np.float32)
    calibration = Calibration(far, one, one, far, one, "ip")
    with pytest.raises(RowError, match=r"^row 0: dimension 0 is inf from its threshold, and no more than 3.40"):
        stored_vectors(-far[None], calibration, VectorLayout(4, rescore="float32"))


def test_raw_prepared_and_centred_vectors_are_stored_alike(calibration: Calibration, vectors: Vectors) -> None:
    layout = VectorLayout(64, rescore="float32")
    prepared = calibration.prepared(vectors[:50])
    expected = stored_vectors(vectors[:50], calibration, layout)
    np.testing.assert_array_equal(stored_vectors(prepared, calibration, layout, "prepared"), expected)
    np.testing.assert_array_equal(stored_vectors(expected, calibration, layout, "centred"), expected)


# Ids


def test_golden_point_ids() -> None:
    """They must not change: rows of existing collections are found by them."""
    assert [point_id(id) for id in (0, 7, 2**63 - 1, UUID)] == [0, 7, 2**63 - 1, UUID]
    assert point_id(-5) == point_id("-5") == "7d0bee4a-c135-5358-ad88-7eb12100c727"
    assert point_id("doc:1") == "5ae9bc57-ba23-518b-9caa-f0bf271370b5"
    assert point_id("") == "f0f026ee-f846-5361-be1f-2039b01dea6e"
    assert point_id(UUID.upper()) == "056ba395-2862-5974-9c51-cd38a8f66d33"


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-(2**63), 2**63 - 1) | st.uuids().map(str))
def test_ids_survive_the_conversion_to_points(id: int | str) -> None:
    id_type: Any = "text" if isinstance(id, str) else "bigint"
    zero = np.zeros(2, np.float32)
    calibration = Calibration(zero, zero + 1, zero + 1, zero, zero, "ip")
    ids = pa.array([id], pa.int64() if id_type == "bigint" else pa.large_string())
    points = encode(RowColumns(ids, np.ones((1, 2), np.float32)), calibration, VectorLayout(2, id_type))
    assert id_list([id], id_type) == row_ids(ids) == [id]
    assert row_id(points.ids[0], points.payloads[0].get(ID)) == id
    assert isinstance(points.ids[0], int) == (isinstance(id, int) and id >= 0)


@pytest.mark.parametrize(
    ("id", "id_type", "message"),
    [
        (2**63, "bigint", "id 9223372036854775808 is beyond bigint"),
        (-(2**63) - 1, "bigint", "id -9223372036854775809 is beyond bigint"),
        ("1", "bigint", "id '1' is str, but this collection's ids are bigint, as id_type was when it was created"),
        (True, "bigint", "id True is bool, but this collection's ids are bigint, as id_type was when it was created"),
        (1, "text", "id 1 is int, but this collection's ids are text, as id_type was when it was created"),
        ("\udc00", "text", "id '\\udc00' holds half of a surrogate pair, which is not Unicode text"),
        (None, "text", "an id is missing (null)"),
    ],
)
def test_invalid_ids_are_refused(id: Any, id_type: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        id_list([id], id_type)
    assert str(caught.value) == message


def test_columns_of_ids() -> None:
    assert id_list(np.array([3, 2**63 - 1], np.uint64), "bigint") == [3, 2**63 - 1]
    assert id_list(np.array(["a"]), "text") == ["a"]
    assert row_ids(pa.array(["a", "b"], pa.large_string())) == ["a", "b"]
    assert row_ids(np.array([3, 2**63 - 1], np.int64)) == [3, 2**63 - 1]


def test_point_ids_of_unmanaged_collections() -> None:
    assert [unmanaged_point_id(id) for id in (5, 2**64 - 1, UUID, UUID.upper())] == [5, 2**64 - 1, UUID, UUID]
    assert [unmanaged_point_id(id) for id in (-1, 2**64, "5", "", "x")] == [None] * 5


# Metadata


def nested(kind: str, depth: int) -> Any:
    """Return a 1 within `depth` nested objects or arrays."""
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if kind == "object" else [value]
    return value


@pytest.mark.parametrize("kind", ["object", "array"])
def test_nesting_has_a_limit(kind: str) -> None:
    """Deeper metadata would make the collection unreadable; test_qdrant_directory.py tests the engine's own limit."""
    deepest = nested(kind, MAX_NESTING)
    assert parse_metadata(0, json.dumps(deepest)) == deepest
    for depth in (MAX_NESTING + 1, 500, 100_000):
        text = '{"a":' * depth + "1" + "}" * depth if kind == "object" else "[" * depth + "]" * depth
        with pytest.raises(RowError, match=r"^row 7: metadata is nested more than 30 deep, which Qdrant does not hold"):
            parse_metadata(7, text)


@pytest.mark.parametrize("text", ['{"a":9223372036854775807,"b":[-9223372036854775808],"c":1e308,"d":"1e999"}', "[]"])
def test_64_bit_numbers_are_accepted(text: str) -> None:
    assert parse_metadata(0, text) == json.loads(text)


@pytest.mark.parametrize("number", ["9223372036854775808", "-9223372036854775809", "1e999", "-1E+400", "9" * 5000])
def test_numbers_that_qdrant_would_change_are_refused(number: str) -> None:
    with pytest.raises(RowError, match=r"^row 2: metadata (holds|cannot be read)"):
        parse_metadata(2, f'{{"a":[{number}]}}')


def test_invalid_row_is_named_by_its_position(calibration: Calibration, vectors: Vectors) -> None:
    metadata = pa.array([None, '{"a":1}', '{"a":1e999}'], pa.large_string())
    with pytest.raises(RowError, match=r"^row 2: metadata holds a number beyond float64; store it as a string$"):
        encode(RowColumns(np.arange(3), vectors[:3], None, metadata), calibration, VectorLayout(64))


@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("rescore", ["float16", "float32", "turbo8"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dimensions", [1, 7, 64, 129])
def test_stored_vectors_equal_numpys(metric: Any, rescore: Any, dtype: Any, dimensions: int) -> None:
    random = np.random.default_rng(dimensions)
    vectors = (random.normal(size=(3000, dimensions)) * 10.0 ** random.integers(-9, 3, (3000, 1))).astype(dtype)
    vectors = vectors[np.any(vectors != 0, axis=1)]
    calibration = Calibration.fit(vectors, metric=metric)
    exact = calibration.prepared(vectors) - calibration.threshold
    expected = exact
    if rescore != "float32":
        rounded = exact.astype(np.float16)
        rounded[(exact > 0) & (rounded == 0)] = 2.0**-24
        expected = rounded.astype(np.float32)
    found = stored_vectors(vectors, calibration, VectorLayout(dimensions, rescore=rescore))
    assert found.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(found > 0, exact > 0)
