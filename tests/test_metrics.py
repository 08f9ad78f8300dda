"""Ranking metrics compared with worked examples and trec_eval; intervals and the paired test by simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from qvec import InputError
from qvec.evaluation import metrics
from qvec.evaluation.metrics import (
    compare,
    confidence_interval,
    confidence_intervals,
    judged_recall,
    lower_bound,
    ndcg,
    reciprocal_rank,
)

GRADES = {"a": 3, "b": 2, "c": 0, "d": 1}


def test_ndcg_of_worked_examples() -> None:
    # gains 2, 0, 3 at ranks 1, 2, 3, whose weights are 1, 1 / log2(3) and 1/2; ideal is 3, 2, 1
    found, ideal = 2 + 0 + 3 / 2, 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(["b", "c", "a"], GRADES) == pytest.approx(found / ideal)
    assert ndcg(["b", "c", "a"], GRADES, 1) == pytest.approx(2 / 3)
    assert ndcg(["a", "b", "d", "c"], GRADES) == 1
    assert ndcg([], GRADES) == 0
    assert ndcg(["a"], {"a": 0}) == 0
    assert ndcg(["a", "b"], {"a": -1, "b": 1}) == pytest.approx(1 / math.log2(3))


def test_ndcg_uses_ranking_order() -> None:
    assert ndcg(["z", "a"], {"a": 1}) == pytest.approx(1 / math.log2(3))
    assert ndcg(["a", "z"], {"a": 1}) == 1


def test_reciprocal_rank() -> None:
    assert reciprocal_rank(["c", "x", "d", "a"], GRADES) == pytest.approx(1 / 3)
    assert reciprocal_rank(["c", "x", "d"], GRADES, 2) == 0
    assert reciprocal_rank([], GRADES) == 0


def test_judged_recall() -> None:
    assert judged_recall(["a", "x", "c"], GRADES) == pytest.approx(1 / 3)
    assert judged_recall(["a", "b", "d"], GRADES, 2) == pytest.approx(2 / 3)
    assert judged_recall(["a"], {"a": 0}) == 0


DOCUMENTS = [f"d{number:02}" for number in range(15)]


@given(
    st.lists(st.sampled_from(DOCUMENTS), unique=True, min_size=1),
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(0, 3), min_size=1),
    st.sampled_from([1, 3, 5, 10]),
)
def test_metrics_agree_with_trec_eval(ranking: list[str], grades: dict[str, int], k: int) -> None:
    """trec_eval sorts by score, so scores descend along the ranking."""
    run = {"q": {name: float(-rank) for rank, name in enumerate(ranking)}}
    first = {"q": {name: float(-rank) for rank, name in enumerate(ranking[:k])}}
    if not any(grade > 0 for grade in grades.values()):
        assert ndcg(ranking, grades, k) == judged_recall(ranking, grades, k) == 0
        return
    evaluator = pytrec_eval.RelevanceEvaluator({"q": grades}, {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"})
    theirs = evaluator.evaluate(run)["q"]
    assert ndcg(ranking, grades, k) == pytest.approx(theirs[f"ndcg_cut_{k}"])
    assert judged_recall(ranking, grades, k) == pytest.approx(theirs[f"recall_{k}"])
    assert reciprocal_rank(ranking, grades, k) == pytest.approx(evaluator.evaluate(first)["q"]["recip_rank"])


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resample less often, so that simulations are fast."""
    monkeypatch.setattr(metrics, "RESAMPLES", 800)
    monkeypatch.setattr(metrics, "FLIPS", 2_000)


@pytest.mark.usefixtures("few_resamples")
def test_intervals_have_nominal_coverage() -> None:
    """Typical recalls: multiples of a tenth, most of them 1."""
    rng = np.random.default_rng(0)
    samples = [rng.binomial(10, 0.93, 200) / 10 for _ in range(400)]
    found = [confidence_interval(sample, 0.9, seed) for seed, sample in enumerate(samples)]
    assert 0.85 <= np.mean([each.low <= 0.93 <= each.high for each in found]) <= 0.94
    bounds = [lower_bound(sample, 0.9, seed) for seed, sample in enumerate(samples)]
    assert 0.85 <= np.mean([bound <= 0.93 for bound in bounds]) <= 0.95


def test_interval_narrows_with_more_queries() -> None:
    values = np.random.default_rng(1).random(400)
    few, many = confidence_interval(values[:100]), confidence_interval(values)
    assert many.value == pytest.approx(values.mean())
    assert many.low < lower_bound(values) < many.value < many.high
    assert many.high - many.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert few.high - few.low == pytest.approx(2 * (many.high - many.low), rel=0.25)


def test_same_seed_gives_same_interval() -> None:
    values = np.random.default_rng(2).random(50)
    assert confidence_interval(values) == confidence_interval(values)
    assert confidence_interval(np.ones(30)) == (1, 1, 1)


def test_lower_bound_of_perfect_recalls_is_below_one() -> None:
    """If one query in 40 loses a tenth, the mean is 0.9975, but most samples of 20 queries show no loss."""
    assert lower_bound(np.ones(20)) < 0.9975
    assert 0.998 < lower_bound(np.ones(1000)) < 1
    assert lower_bound(np.ones(20), k=100) > lower_bound(np.ones(20))


def exact_p_value(differences: np.ndarray) -> float:
    """Return the p-value over all combinations of signs."""
    signs = np.array(list(product([-1, 1], repeat=len(differences))))
    means = abs(signs @ differences)
    return float(np.mean(means >= abs(differences.sum()) - 1e-12))


@pytest.mark.parametrize("seed", range(4))
def test_p_value_equals_exhaustive_permutation_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 11, (2, 10)) / 10
    found = compare(first, second)
    assert found.p_value == pytest.approx(exact_p_value(first - second), abs=0.012)
    assert found.difference.value == pytest.approx((first - second).mean())
    ties = (first == second).sum()
    assert (found.better, found.worse, found.equal) == ((first > second).sum(), (first < second).sum(), ties)


@pytest.mark.usefixtures("few_resamples")
def test_false_positive_rate() -> None:
    rng = np.random.default_rng(3)
    values = [compare(*rng.integers(0, 11, (2, 60)) / 10, seed=seed).p_value for seed in range(200)]
    assert 0.01 <= np.mean(np.array(values) <= 0.05) <= 0.1


def test_small_consistent_difference_is_significant() -> None:
    """An unpaired test would miss it, because queries differ much more."""
    first = np.random.default_rng(4).random(100)
    found = compare(first, first - 0.001)
    assert found.p_value < 0.001
    assert found.difference.low > 0
    assert compare(first, first).p_value == 1


def test_comparison_with_ties() -> None:
    """Sign flips of +0.2, -0.1 and 0 sum to ±0.1 or ±0.3 equally often; ties do not matter."""
    found = compare(np.array([0.9, 0.5, 1.0]), np.array([0.7, 0.6, 1.0]))
    assert found.p_value == 1  # 0.1 / 3 is the smallest possible difference
    assert found.difference.value == pytest.approx(0.1 / 3)
    assert (found.better, found.worse, found.equal) == (1, 1, 1)
    assert compare(np.array([0.9, 0.6, 1.0]), np.array([0.7, 0.5, 1.0])).p_value == pytest.approx(0.5, abs=0.02)


def test_different_numbers_of_queries_raise() -> None:
    with pytest.raises(InputError, match=r"^configurations were measured over 3 and 4 queries, expected the same$"):
        compare(np.ones(3), np.ones(4))
    with pytest.raises(InputError, match=r"^there are no queries to take a mean over$"):
        confidence_interval(np.empty(0))


def test_intervals_of_many_arrays_equal_single_intervals() -> None:
    values = list(np.random.default_rng(0).random((700, 60)))
    many = confidence_intervals(values, confidence=0.9, seed=3)
    assert len(many) == 700
    for position in (0, 511, 512, 699):
        assert many[position] == pytest.approx(confidence_interval(values[position], confidence=0.9, seed=3))
    assert confidence_intervals([]) == []


@pytest.mark.parametrize("queries", [7, 300])
def test_interval_equals_bootstrap_written_out(queries: int) -> None:
    """Few queries are resampled from draws that are kept, more of them in blocks."""
    values = np.random.default_rng(1).random(queries)
    drawn = np.random.default_rng(5).integers(0, queries, (4000, queries))
    expected = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    for _ in range(2):
        found = confidence_interval(values, seed=5)
        np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-12)
