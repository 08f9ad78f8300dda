"""Range methods: each compared with its formula in numpy, options, and errors."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import realistic
from numpy.typing import NDArray

from qvec import Calibration, InputError, RangeMethod

Vectors = NDArray[np.float32]

SAMPLE = realistic(700, 12)
THRESHOLD = (SAMPLE.mean(axis=0) / 2).astype(np.float32)
DISTANCE = np.abs(SAMPLE.astype(np.float64) - THRESHOLD)


def radius(method: RangeMethod) -> Vectors:
    found = method.radius(SAMPLE, THRESHOLD)
    assert found.dtype == np.float32
    assert found.shape == (12,)
    return found


@pytest.mark.parametrize("quantile", [0.5, 0.99, 0.9999, 1])
def test_quantile_equals_numpy(quantile: float) -> None:
    wanted = np.quantile(DISTANCE, quantile, axis=0)
    np.testing.assert_allclose(radius(RangeMethod("quantile", quantile=quantile)), wanted, rtol=1e-4)


@pytest.mark.parametrize("quantile", [0.5, 0.9999])
def test_quantile_over_all_dimensions(quantile: float) -> None:
    found = radius(RangeMethod("quantile", quantile=quantile, per_dimension=False))
    np.testing.assert_allclose(found, np.full(12, np.quantile(DISTANCE, quantile)), rtol=1e-4)


def test_minmax_equals_numpy() -> None:
    np.testing.assert_allclose(radius(RangeMethod("minmax")), DISTANCE.max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(
        radius(RangeMethod("minmax", per_dimension=False)), np.full(12, DISTANCE.max()), rtol=1e-6
    )


def rolling(spread: float, momentum: float, batch_size: int) -> NDArray[np.float64]:
    mean = std = None
    for start in range(0, len(SAMPLE), batch_size):
        batch = SAMPLE[start : start + batch_size].astype(np.float64)
        new_mean, new_std = batch.mean(axis=0), batch.std(axis=0)
        mean = new_mean if mean is None else momentum * mean + (1 - momentum) * new_mean
        std = new_std if std is None else momentum * std + (1 - momentum) * new_std
    low, high = mean - spread * std, mean + spread * std
    return np.maximum(np.abs(high - THRESHOLD), np.abs(low - THRESHOLD))


@pytest.mark.parametrize(("spread", "momentum", "batch_size"), [(4, 0.95, 256), (2.5, 0, 100), (3, 0.5, 1000)])
def test_rolling_equals_formula(spread: float, momentum: float, batch_size: int) -> None:
    options = {"spread": spread, "momentum": momentum, "batch_size": batch_size}
    wanted = rolling(**options)  # type: ignore[arg-type]
    np.testing.assert_allclose(radius(RangeMethod("rolling", **options)), wanted, rtol=1e-5)  # type: ignore[arg-type]
    one = radius(RangeMethod("rolling", per_dimension=False, **options))  # type: ignore[arg-type]
    np.testing.assert_allclose(one, np.full(12, wanted.max()), rtol=1e-5)


def test_fixed_values() -> None:
    assert radius(RangeMethod("fixed", value=0.18)).tolist() == [np.float32(0.18)] * 12
    given = np.linspace(0.1, 1.2, 12)
    np.testing.assert_array_equal(radius(RangeMethod("fixed", value=given)), given.astype(np.float32))
    np.testing.assert_array_equal(radius(RangeMethod("fixed", value=given.tolist())), given.astype(np.float32))
    assert radius(RangeMethod("fixed", value=given, per_dimension=False)).tolist() == [np.float32(1.2)] * 12


@pytest.mark.parametrize("method", ["quantile", "minmax", "rolling"])
def test_one_row_and_no_spread(method: str) -> None:
    one = np.array([[1, 0, -2]], np.float32)
    half = one[0] / 2
    np.testing.assert_allclose(RangeMethod(method).radius(one, half), [0.5, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(RangeMethod(method).radius(one, one[0]), [0, 0, 0])


@pytest.mark.parametrize("per_dimension", [True, False])
@pytest.mark.parametrize("method", ["quantile", "minmax", "rolling", "fixed"])
def test_calibration_uses_range_method(method: str, per_dimension: bool) -> None:
    ranges = RangeMethod(method, value=3.0 if method == "fixed" else None, per_dimension=per_dimension)
    fitted = Calibration.fit(SAMPLE, metric="ip", ranges=ranges)
    np.testing.assert_array_equal(fitted.radius, ranges.radius(SAMPLE, fitted.threshold))
    assert fitted.description["method"] == {"threshold": 0.5, **ranges.parameters()}
    assert len(set(fitted.deviation.tolist())) == (12 if per_dimension else 1)
    assert Calibration.from_bytes(fitted.to_bytes()) == fitted


def test_parameters_contain_only_used_options() -> None:
    assert RangeMethod().parameters() == {"name": "quantile", "per_dimension": True, "quantile": 0.9999}
    assert RangeMethod("minmax").parameters() == {"name": "minmax", "per_dimension": True}
    assert RangeMethod("rolling", per_dimension=False).parameters() == {
        "name": "rolling",
        "per_dimension": False,
        "spread": 4.0,
        "momentum": 0.95,
        "batch_size": 256,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "entropy"}, "range method 'entropy' is unknown; known: quantile, minmax, rolling, fixed"),
        ({"quantile": 0}, "quantile is 0, expected a number above 0 and at most 1"),
        ({"quantile": 1.1}, "quantile is 1.1"),
        ({"quantile": float("nan")}, "quantile is nan"),
        ({"name": "rolling", "spread": 0}, "spread is 0, expected a positive number of standard deviations"),
        ({"name": "rolling", "spread": float("inf")}, "spread is inf"),
        ({"name": "rolling", "momentum": 1}, "momentum is 1, expected at least 0 and below 1"),
        ({"name": "rolling", "batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"name": "fixed"}, "a fixed range needs its value, and only a fixed range takes one"),
        ({"value": 1.0}, "a fixed range needs its value, and only a fixed range takes one"),
    ],
)
def test_invalid_options_raise(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        RangeMethod(**options)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0] * 11, "a fixed range of 11 values does not fit 12 dimensions; give one number or one for each"),
        (np.ones((1, 12)), "a fixed range has shape (1, 12), expected one number"),
        (0.0, "a fixed range must be positive and finite"),
        ([1.0] * 11 + [-1.0], "a fixed range must be positive and finite"),
        (float("nan"), "a fixed range must be positive and finite"),
        (1e39, "a fixed range must be positive and finite"),
        ("wide", "a fixed range must be one number or one for each dimension"),
    ],
)
def test_invalid_fixed_ranges_raise(value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        radius(RangeMethod("fixed", value=value))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_methods_with_arrays_are_comparable() -> None:
    given = np.linspace(0.1, 1.2, 12)
    assert RangeMethod("fixed", value=given) == RangeMethod("fixed", value=given.tolist())
    assert RangeMethod("fixed", value=given) != RangeMethod("fixed", value=2 * given)
    assert len({RangeMethod("fixed", value=given), RangeMethod("fixed", value=given), RangeMethod()}) == 2
