"""Codes in SQL: bits equal to the numpy specification for every finite input; decoding, scores and distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
import specification
from conftest import realistic, unit
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from property_tests import examples
from sql_helpers import fetch_value, import_calibration, install_schema, pack_bits, vector_text

import qvec
from qvec import Calibration

Connection = psycopg.Connection[Any]
Floats = NDArray[np.float32]

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
RADII = st.floats(width=32, min_value=0, allow_infinity=False)


@pytest.fixture(scope="module")
def sql(new_database: Callable[..., str]) -> Iterator[Connection]:
    with install_schema(new_database()) as connection:
        yield connection


def make_calibration(
    threshold: Any, radius: Any, deviation: Any = None, metric: Any = "ip", **more: Any
) -> Calibration:
    threshold = np.array(threshold, np.float32)
    zeros = np.zeros_like(threshold)
    deviation = zeros if deviation is None else deviation
    return Calibration(threshold, np.array(radius, np.float32), deviation, zeros, zeros, metric, more)


def assert_codes_equal_specification(sql: Connection, vector: Floats, calibration: Calibration) -> None:
    """Assert that planes, binary code, ternary code and levels equal the specification."""
    cosine = calibration.metric == "cosine"
    codes = specification.codes(vector[None], calibration.threshold, calibration.radius, cosine=cosine)
    long_codes = specification.long_codes(vector[None], calibration.threshold, calibration.radius, cosine=cosine)
    found = sql.execute(
        "SELECT qvec.quantize(v, id, 10)::text, qvec.quantize(v, id, 9)::text, qvec.quantize(v, id)::text,"
        " qvec.quantize(v, id, 3)::text, qvec.binary(v, id)::text, qvec.ternary(v, id)::text"
        " FROM (SELECT %s::vector AS v, %s AS id) AS q",
        [vector_text(vector), import_calibration(sql, calibration)],
    ).fetchone()
    assert found is not None
    expected_codes = [specification.to_planes(long_codes, planes)[0] for planes in (10, 9)]
    expected_codes += [specification.to_planes(codes, planes)[0] for planes in (8, 3, 1)]
    expected_codes += [specification.ternary(codes)[0]]
    for bits, expected in zip(found, expected_codes, strict=True):
        assert pack_bits(bits).tolist() == expected.tolist()
    name = import_calibration(sql, calibration)
    for count in specification.THRESHOLDS:
        bits = fetch_value(sql, "SELECT qvec.levels(%s::vector, %s, %s)::text", vector_text(vector), name, count)
        assert pack_bits(bits).tolist() == specification.levels(codes, count)[0].tolist()


@examples(300, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(FLOATS, FLOATS, RADII), min_size=1, max_size=20))
@example([(3.4e38, -3.4e38, 0.0)])  # the difference overflows
@example([(9.9e37, 0.0, 128.0), (-3.1, 0.0, 128.0), (2.9, 0.0, 128.0)])  # the largest norm of the fast path
@example([(1e-45, 0.0, 3.4e38), (-1e-45, 0.0, 3.4e38)])  # the product underflows, but the top bit is right
@example([(1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 0.0)])  # zero radius
@example([(0.0078125 * step, 0.0, 1.0) for step in range(-20, 20)])  # at the quantization steps
@example([(0.001953125 * step, 0.0, 1.0) for step in range(-20, 20)])  # at those of codes of 10 bits
@example(
    [(0.001953125 * step, 0.0, 1.0) for step in (-513, -512, -511, -510, 508, 509, 510, 511, 512, 513)]
)  # at the ends
def test_codes_equal_specification_for_every_finite_vector(
    sql: Connection, numbers: list[tuple[float, float, float]]
) -> None:
    vector, threshold, radius = np.array(numbers, np.float32).T
    assert_codes_equal_specification(sql, vector, make_calibration(threshold, radius))


@examples(200, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=40).filter(lambda pairs: any(x for x, _ in pairs)))
@example([(1e-45, 0.0), (1.0, 0.0), (3.0, 0.1)])  # a quotient that rounds to zero
@example([(3.4e38, 0.0)] * 9)
def test_normalization_rounds_like_specification(sql: Connection, numbers: list[tuple[float, float]]) -> None:
    vector, threshold = np.array(numbers, np.float32).T
    prepared = fetch_value(
        sql,
        "SELECT qvec._prepare(%s::vector, %s)::real[]",
        vector_text(vector),
        import_calibration(sql, make_calibration(threshold, np.ones_like(threshold), metric="cosine")),
    )
    expected = specification.unit_rows(vector[None], len(vector))[0]
    assert np.array(prepared, np.float32).tobytes() == expected.tobytes()
    assert_codes_equal_specification(sql, vector, make_calibration(threshold, np.ones_like(threshold), metric="cosine"))


@pytest.mark.parametrize("deviation", [1.9e-4, 1.99999e-4, 2.00001e-4, 2.1e-4, -1.99999e-4, -2.00001e-4])
def test_norm_at_the_edge_of_the_tolerance(sql: Connection, deviation: float) -> None:
    vector = (unit(realistic(1, 100))[0].astype(np.float64) * np.sqrt(1 + deviation)).astype(np.float32)
    assert_codes_equal_specification(sql, vector, Calibration.fit(realistic(50, 100)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("dimensions", [1, 7, 8, 9, 33, 384, pytest.param(1024, marks=pytest.mark.slow)])
def test_codes_of_realistic_vectors_equal_specification(sql: Connection, dimensions: int, metric: Any) -> None:
    vectors = realistic(60, dimensions)
    calibration = Calibration.fit(vectors[:40], metric=metric)
    for vector in vectors[30:]:
        assert_codes_equal_specification(sql, vector, calibration)


@pytest.mark.parametrize("planes", [8, 10])
def test_fast_and_exact_quantization_agree(sql: Connection, planes: int) -> None:
    """Quantizing realistic vectors takes the fast path; call both paths directly."""
    vectors = realistic(40, 100)
    for metric in ("cosine", "ip"):
        name = import_calibration(sql, Calibration.fit(vectors, metric=metric))  # type: ignore[arg-type]
        for vector in vectors:
            fast, slow = sql.execute(
                "SELECT qvec._fast_planes(x, k.threshold, k.scale, %(planes)s)::text,"
                " qvec._exact_planes(x, k.threshold, k.scale, %(planes)s)::text"
                " FROM qvec.calibration AS k, qvec._prepare(%(vector)s::vector, id) AS x"
                " WHERE id = %(name)s AND vector_norm(x) <= k.safe_norm",
                {"vector": vector_text(vector), "name": name, "planes": planes},
            ).fetchone()  # type: ignore[misc]
            assert fast == slow


def test_vectors_are_truncated_to_a_matryoshka_prefix(sql: Connection) -> None:
    vectors = realistic(60, 32)
    calibration = Calibration.fit(vectors, dimensions=12)
    name = import_calibration(sql, calibration)
    for vector in (vectors[3], vectors[3, :12]):
        bits = fetch_value(sql, "SELECT qvec.quantize(%s::vector, %s)::text", vector_text(vector), name)
        assert pack_bits(bits).tolist() == qvec.quantize(vector, calibration)[0].tolist()


def test_codes_and_scores_of_halfvec(sql: Connection) -> None:
    halves = realistic(3, 20).astype(np.float16)
    calibration = Calibration.fit(realistic(50, 20))
    name = import_calibration(sql, calibration)
    codes = qvec.quantize(halves, calibration)
    expected_codes = (codes, qvec.quantize(halves, calibration, 1), qvec.ternary(codes, calibration))
    for row, half in enumerate(halves):
        found = sql.execute(
            "SELECT qvec.quantize(v, id)::text, qvec.binary(v, id)::text, qvec.ternary(v, id)::text,"
            " qvec.score(qvec.quantize(v, id), v, id) FROM (SELECT %s::halfvec AS v, %s AS id) AS q",
            [vector_text(half), name],
        ).fetchone()
        assert found is not None
        for bits, expected in zip(found[:3], expected_codes, strict=True):
            assert pack_bits(bits).tolist() == expected[row].tolist()
        assert found[3] == pytest.approx(
            qvec.score(codes[row], unit(half[None].astype(np.float32)), calibration)[0, 0], abs=1e-5
        )


@examples(100, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(
            st.floats(-(2.0**100), 2.0**100, width=32),
            st.floats(0, 2.0**100, width=32),
            st.floats(0, 2.0**100, width=32),
            st.integers(0, 2**specification.MAX_PLANES - 1),
        ),
        min_size=1,
        max_size=20,
    ),
    st.integers(1, specification.MAX_PLANES),
)
def test_decoding_rounds_like_specification(
    sql: Connection, numbers: list[tuple[float, float, float, int]], planes: int
) -> None:
    threshold, radius, deviation = np.array([row[:3] for row in numbers], np.float32).T
    codes = np.array([[row[3] for row in numbers]], np.uint16)
    calibration = make_calibration(threshold, radius, deviation)
    with np.errstate(under="ignore"):
        expected = specification.decoded(codes, threshold, radius, deviation, planes)[0]
    bits = "".join(f"{byte:08b}" for byte in specification.to_planes(codes, planes)[0])
    found = fetch_value(
        sql, "SELECT qvec.dequantize(%s::varbit, %s)::real[]", bits, import_calibration(sql, calibration)
    )
    assert np.array(found, np.float32).tolist() == expected.tolist()


@pytest.mark.parametrize("planes", [1, 2, 4, 8, 9, 10])
def test_scores_equal_native_scores(sql: Connection, planes: int) -> None:
    vectors = unit(realistic(30, 65))
    calibration = Calibration.fit(vectors)
    name = import_calibration(sql, calibration)
    expected = qvec.score(qvec.quantize(vectors, calibration, planes), vectors[:1], calibration)[0]
    for vector, score in zip(vectors, expected, strict=True):
        found = fetch_value(
            sql,
            "SELECT qvec.score(qvec.quantize(%s::vector, %s, %s), %s::vector, %s)",
            vector_text(vector),
            name,
            planes,
            vector_text(vectors[0]),
            name,
        )
        assert found == pytest.approx(score, abs=1e-5)


def test_hamming_compares_the_prefix_of_longer_codes(sql: Connection) -> None:
    assert fetch_value(sql, "SELECT qvec.hamming(B'1010', B'0110')") == 2
    assert fetch_value(sql, "SELECT qvec.hamming(B'10101111', B'1001')") == 2


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("qvec.quantize('[1,2]', %(id)s)", "the vector has 2 dimensions, expected 3"),
        ("qvec.quantize('[1,2,3]'::vector, 'none')", "no calibration 'none'"),
        ("qvec.quantize('[1,2,3]'::vector, %(id)s, 11)", "planes is 11, expected 1 to 10"),
        ("qvec.quantize('[0,0,0]'::vector, %(id)s)", "zero vector, which has no direction under cosine"),
        ("qvec.quantize('[1,NaN,3]'::vector, %(id)s)", "NaN not allowed in vector"),
        ("qvec.quantize('[1,Infinity,3]'::vector, %(id)s)", "infinite value not allowed in vector"),
        ("qvec.dequantize(B'1010', %(id)s)", "the codes have 4 bits, expected 1 to 10 planes of 8"),
        ("qvec.dequantize(repeat('0', 88)::varbit, %(id)s)", "the codes have 88 bits, expected 1 to 10 planes of 8"),
        ("qvec.dequantize(B'1010', 'none')", "no calibration 'none'"),
    ],
)
def test_invalid_arguments_are_errors(sql: Connection, expression: str, message: str) -> None:
    name = import_calibration(sql, Calibration.fit(realistic(20, 3)))
    expression = expression.replace("'[1,2]'", "'[1,2]'::vector")
    with pytest.raises(psycopg.Error) as caught:
        sql.execute(f"SELECT {expression}".encode(), {"id": name})
    assert caught.value.diag.message_primary == message


def test_null_arguments_give_null(sql: Connection) -> None:
    assert fetch_value(sql, "SELECT qvec.quantize(NULL::vector, 'none')") is None
    assert fetch_value(sql, "SELECT qvec.ternary(NULL::halfvec, 'none')") is None
