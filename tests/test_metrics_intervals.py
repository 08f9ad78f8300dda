"""Intervals hold what they promise, and the paired test is the exact one where that can be counted."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from qvec import InputError
from qvec.evaluation import metrics
from qvec.evaluation.metrics import compare, confidence_interval, lower_bound


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 800)
    monkeypatch.setattr(metrics, "FLIPS", 2_000)


@pytest.mark.usefixtures("fast")
def test_intervals_hold_the_true_mean_as_often_as_they_say() -> None:
    """Recalls as they are: tenths, most of them 1."""
    rng = np.random.default_rng(0)
    samples = [rng.binomial(10, 0.93, 200) / 10 for _ in range(400)]
    found = [confidence_interval(sample, 0.9, seed) for seed, sample in enumerate(samples)]
    assert 0.85 <= np.mean([each.low <= 0.93 <= each.high for each in found]) <= 0.94
    bounds = [lower_bound(sample, 0.9, seed) for seed, sample in enumerate(samples)]
    assert 0.85 <= np.mean([bound <= 0.93 for bound in bounds]) <= 0.95


def test_an_interval_is_about_its_mean_and_narrows_with_more_queries() -> None:
    values = np.random.default_rng(1).random(400)
    few, many = confidence_interval(values[:100]), confidence_interval(values)
    assert many.value == pytest.approx(values.mean())
    assert many.low < lower_bound(values) < many.value < many.high
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert few.high - few.low == pytest.approx(2 * (many.high - many.low), rel=0.25)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(2).random(50)
    assert confidence_interval(values) == confidence_interval(values)
    assert confidence_interval(np.ones(30)) == (1, 1, 1)


def test_queries_without_a_loss_are_no_promise_that_others_have_none() -> None:
    """Where one query of 40 loses a tenth, the mean is 0.9975: most samples of 20 show no loss at all."""
    assert lower_bound(np.ones(20)) < 0.9975
    assert 0.998 < lower_bound(np.ones(1000)) < 1
    assert lower_bound(np.ones(20), k=100) > lower_bound(np.ones(20))


def exact_p_value(differences: np.ndarray) -> float:
    """Over all ways to exchange the two within their pairs."""
    signs = np.array(list(product([-1, 1], repeat=len(differences))))
    means = abs(signs @ differences)
    return float(np.mean(means >= abs(differences.sum()) - 1e-12))


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_is_that_of_all_exchanges(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 11, (2, 10)) / 10
    found = compare(first, second)
    assert found.p_value == pytest.approx(exact_p_value(first - second), abs=0.012)
    assert found.difference.value == pytest.approx((first - second).mean())
    ties = (first == second).sum()
    assert (found.better, found.worse, found.equal) == ((first > second).sum(), (first < second).sum(), ties)


@pytest.mark.usefixtures("fast")
def test_chance_alone_is_not_taken_for_a_difference() -> None:
    rng = np.random.default_rng(3)
    values = [compare(*rng.integers(0, 11, (2, 60)) / 10, seed=seed).p_value for seed in range(200)]
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.1


def test_a_small_difference_is_seen_where_it_is_in_every_pair() -> None:
    """Unpaired it would drown in how much queries differ."""
    first = np.random.default_rng(4).random(100)
    found = compare(first, first - 0.001)
    assert found.p_value < 0.001
    assert found.difference.low > 0
    assert compare(first, first).p_value == 1


def test_a_comparison_with_ties_by_hand() -> None:
    """Exchanges of +0.2, -0.1 and 0 sum to ±0.1 or ±0.3, each as often; a tie has no say."""
    found = compare(np.array([0.9, 0.5, 1.0]), np.array([0.7, 0.6, 1.0]))
    assert found.p_value == 1  # 0.1 / 3 is the least that can come about
    assert found.difference.value == pytest.approx(0.1 / 3)
    assert (found.better, found.worse, found.equal) == (1, 1, 1)
    assert compare(np.array([0.9, 0.6, 1.0]), np.array([0.7, 0.5, 1.0])).p_value == pytest.approx(0.5, abs=0.02)


def test_configurations_over_other_queries_are_not_compared() -> None:
    with pytest.raises(InputError, match=r"^configurations were measured over 3 and 4 queries, expected the same$"):
        compare(np.ones(3), np.ones(4))
    with pytest.raises(InputError, match=r"^there are no queries to take a mean over$"):
        confidence_interval(np.empty(0))
