"""The torch quantizers against the specification and the stored codes, bit for bit (on CPU)."""

from __future__ import annotations

import numpy as np
import pytest
import specification as spec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from property_tests import examples

import qvec
from qvec import Calibration, InputError, RangeMethod
from qvec.codes import PLANES

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from qvec.training import Scale, dequantize_embeddings, quantize_embeddings, quantize_ste  # noqa: E402

CODES = ["int8", "int4", "binary"]
PRECISIONS = [*CODES, "ternary"]


def calibration_of(dimensions: int, metric: str, seed: int = 0) -> Calibration:
    vectors = np.random.default_rng(seed).normal(0.1, 1, (200, dimensions)).astype(np.float32)
    return Calibration.fit(vectors, metric=metric, ranges=RangeMethod(quantile=0.98))  # type: ignore[arg-type]


def stored(vectors: np.ndarray, calibration: Calibration, precision: str) -> np.ndarray:
    """The codes that qvec stores, by the specification."""
    codes = spec.codes(vectors, calibration.threshold, calibration.radius, cosine=calibration.metric == "cosine")
    return spec.ternary(codes) if precision == "ternary" else spec.to_planes(codes, PLANES[precision])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("dimensions", [1, 7, 8, 20, 129])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_codes_equal_specification_and_stored_codes(precision: str, dimensions: int, metric: str) -> None:
    calibration = calibration_of(dimensions, metric)
    vectors = np.random.default_rng(1).normal(0.1, 1.2, (300, dimensions)).astype(np.float32)
    vectors[:100] = spec.unit_rows(vectors[:100], dimensions)
    codes = quantize_embeddings(torch.from_numpy(vectors), calibration, precision).numpy()
    np.testing.assert_array_equal(codes, stored(vectors, calibration, precision))
    whole = qvec.quantize(vectors, calibration)
    native = qvec.ternary(whole, calibration) if precision == "ternary" else whole[:, : codes.shape[1]]
    np.testing.assert_array_equal(codes, native)


@pytest.mark.parametrize("precision", CODES)
def test_decoded_codes_equal_dequantize(precision: str) -> None:
    calibration = calibration_of(21, "ip")
    vectors = np.random.default_rng(2).normal(0.1, 1, (100, 21)).astype(np.float32)
    codes = stored(vectors, calibration, precision)
    decoded = dequantize_embeddings(torch.from_numpy(codes), calibration, precision).numpy()
    planes = PLANES[precision]
    expected = spec.decoded(
        spec.from_planes(codes, 21, planes), calibration.threshold, calibration.radius, calibration.deviation, planes
    )
    assert decoded.tobytes() == expected.tobytes() == qvec.dequantize(codes, calibration, planes).tobytes()


def test_ternary_decodes_to_three_levels() -> None:
    scale = Scale(torch.tensor([0.5] * 3), torch.tensor([2.0] * 3), torch.ones(3), "ip")
    # Borders: 0.5 - 2/8 and 0.5 + 2/8; a value on the border is below it.
    rows = torch.tensor([[0.25, 0.2500001, 0.75], [0.7500001, -9.0, 9.0]])
    decoded = quantize_ste(rows, scale, "ternary")
    assert decoded.tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 1.0]]


@examples(150)
@given(
    arrays(np.float32, (3, 9), elements=st.floats(-(2.0**127), 2.0**127, width=32)),
    arrays(np.float32, 9, elements=st.floats(0, 2.0**127, width=32)),
    arrays(np.float32, 9, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.sampled_from(PRECISIONS),
)
def test_any_finite_values_equal_specification(
    vectors: np.ndarray, radius: np.ndarray, threshold: np.ndarray, precision: str
) -> None:
    scale = Scale(torch.from_numpy(threshold), torch.from_numpy(radius), torch.ones(9), "ip")
    codes = spec.codes(vectors, threshold, radius, cosine=False)
    expected = spec.ternary(codes) if precision == "ternary" else spec.to_planes(codes, PLANES[precision])
    np.testing.assert_array_equal(quantize_embeddings(torch.from_numpy(vectors), scale, precision).numpy(), expected)


@examples(100)
@given(arrays(np.float32, (4, 11), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_normalization_equals_specification(vectors: np.ndarray) -> None:
    vectors = vectors[np.any(vectors != 0, axis=1)]
    scale = Scale(torch.zeros(11), torch.ones(11), torch.ones(11), "cosine")
    expected = spec.to_planes(spec.codes(vectors, np.zeros(11, np.float32), np.ones(11, np.float32), cosine=True), 8)
    np.testing.assert_array_equal(quantize_embeddings(torch.from_numpy(vectors), scale, "int8").numpy(), expected)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_straight_through_estimator(precision: str) -> None:
    calibration = calibration_of(20, "ip")
    rows = torch.randn(30, 20, generator=torch.Generator().manual_seed(3), requires_grad=True)
    decoded = quantize_ste(rows, calibration, precision)
    codes = quantize_embeddings(rows, calibration, precision)
    assert torch.equal(decoded, dequantize_embeddings(codes, calibration, precision))
    gradient = torch.randn(30, 20, generator=torch.Generator().manual_seed(4))
    decoded.backward(gradient)
    assert torch.equal(rows.grad, gradient)


def test_cosine_gradient_includes_normalization() -> None:
    calibration = calibration_of(12, "cosine")
    rows = torch.randn(8, 12, generator=torch.Generator().manual_seed(5), requires_grad=True)
    gradient = torch.randn(8, 12, generator=torch.Generator().manual_seed(6))
    quantize_ste(rows, calibration, "binary").backward(gradient)
    again = rows.detach().requires_grad_()
    torch.nn.functional.normalize(again).backward(gradient)
    torch.testing.assert_close(rows.grad, again.grad)


def test_zero_row_has_finite_gradient() -> None:
    rows = torch.zeros(2, 12, requires_grad=True)
    quantize_ste(rows, calibration_of(12, "cosine"), "int8").sum().backward()
    assert torch.isfinite(rows.grad).all()


def test_nan_embeddings_stay_nan() -> None:
    rows = torch.tensor([[0.1, float("nan")]])
    scale = Scale(torch.zeros(2), torch.ones(2), torch.ones(2), "ip")
    assert quantize_ste(rows, scale, "int8").isnan().tolist() == [[False, True]]
    with pytest.raises(InputError, match=r"^embeddings hold NaN or infinity$"):
        quantize_embeddings(rows, scale)


def test_longer_embeddings_are_truncated_and_normalized() -> None:
    vectors = np.random.default_rng(8).normal(size=(50, 24)).astype(np.float32)
    calibration = Calibration.fit(vectors, dimensions=10)
    codes = quantize_embeddings(torch.from_numpy(vectors), calibration).numpy()
    np.testing.assert_array_equal(codes, qvec.quantize(vectors, calibration))


def test_float32_is_copy() -> None:
    rows = torch.ones(2, 3)
    quantize_ste(rows, calibration_of(3, "ip"), "float32").mul_(2)
    assert torch.equal(rows, torch.ones(2, 3))


def test_invalid_precisions_and_shapes_raise() -> None:
    calibration = calibration_of(8, "ip")
    with pytest.raises(InputError, match="'int2' is unknown; known: float32, int8, int4, ternary, binary"):
        quantize_embeddings(torch.zeros(1, 8), calibration, "int2")
    with pytest.raises(InputError, match="float32, which has no codes"):
        quantize_embeddings(torch.zeros(1, 8), calibration, "float32")
    with pytest.raises(InputError, match=r"shape \(1, 5\) found, \(n, 8 or more\) wanted"):
        quantize_embeddings(torch.zeros(1, 5), calibration)
    with pytest.raises(InputError, match=r"uint8 of shape \(n, 2\) wanted for ternary of 8 dimensions"):
        dequantize_embeddings(torch.zeros(1, 8, dtype=torch.uint8), calibration, "ternary")
