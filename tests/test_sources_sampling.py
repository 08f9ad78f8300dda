"""Samples are uniform: every row is as likely as any other, wherever it stands."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from qvec.sampling import Screen, draw_rows, sample_rows

# 99.99% point of chi-square with 99 degrees of freedom; draws without replacement spread less than that.
LIMIT = 161.3


def chi_square(counts, expected):
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("size", [5, 40, 70])
def test_drawn_rows_are_equally_likely(size):
    counts = np.zeros(100)
    for seed in range(2000):
        counts[draw_rows(100, size, np.random.default_rng(seed))] += 1
    assert chi_square(counts, 20 * size) < LIMIT


def test_replacements_of_bad_rows_leave_the_good_ones_equally_likely():
    good = np.arange(100) % 4 != 0
    matrix = np.where(good, np.arange(100), np.nan)[:, None]
    counts = np.zeros(100)
    for seed in range(2000):
        counts[sample_rows(100, 30, seed, lambda rows: matrix[rows], Screen())[:, 0].astype(int)] += 1
    assert not counts[~good].any()
    assert chi_square(counts[good], counts.sum() / good.sum()) < LIMIT
    assert counts.sum() == 2000 * 30


@given(st.data())
def test_drawn_rows_ascend_and_are_new(data):
    population = data.draw(st.integers(1, 1000))
    drawn = np.array(sorted(data.draw(st.sets(st.integers(0, population - 1)))), np.int64)
    size = data.draw(st.integers(0, population - len(drawn)))
    rows = draw_rows(population, size, np.random.default_rng(0), drawn)
    assert len(rows) == size
    assert (np.diff(rows) > 0).all()
    assert not np.isin(rows, drawn).any()


def test_few_rows_of_very_many_take_little_memory():
    rows = draw_rows(10**15, 1000, np.random.default_rng(0))
    assert len(rows) == 1000
    assert rows.mean() == pytest.approx(5e14, rel=0.1)
