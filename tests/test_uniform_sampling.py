"""Uniform sampling: every row is equally likely, wherever it is in the source."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from qvec.sampling import Reservoir, Screen, draw_rows, sample_rows

# 99.99% point of chi-square with 99 degrees of freedom; draws without replacement spread less than that.
LIMIT = 161.3


def chi_square(counts, expected):
    return ((counts - expected) ** 2 / expected).sum()


# Samples of a stream


def reservoir_sample(population, size, seed, batch_rows):
    reservoir = Reservoir(size, seed)
    rows = np.arange(population, dtype=np.float32)[:, None]
    for first in range(0, population, batch_rows):
        reservoir.add(rows[first : first + batch_rows])
    return reservoir.rows()[:, 0].astype(int)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("batch_rows", [1, 7, 30, 100])
def test_reservoir_keeps_every_row_equally_often(batch_rows):
    counts = np.zeros(100)
    for seed in range(2000 if batch_rows > 1 else 500):
        np.add.at(counts, reservoir_sample(100, 20, seed, batch_rows), 1)
    assert chi_square(counts, counts.sum() / 100) < LIMIT


def test_reservoir_does_not_favour_first_rows():
    # The first tenth of a source sorted by value: its share of the sample is a tenth.
    shares = [np.mean(reservoir_sample(10_000, 500, seed, 512) < 1000) for seed in range(50)]
    assert abs(np.mean(shares) - 0.1) < 0.01


@given(st.integers(1, 300), st.integers(1, 400), st.integers(1, 90), st.integers(0, 9))
def test_reservoir_holds_distinct_rows_up_to_its_size(population, size, batch_rows, seed):
    rows = reservoir_sample(population, size, seed, batch_rows).tolist()
    assert len(rows) == len(set(rows)) == min(size, population)


@given(st.integers(1, 300), st.integers(1, 100), st.integers(1, 90), st.integers(1, 90))
def test_batch_size_does_not_change_reservoir(population, size, one, another):
    drawn = reservoir_sample(population, size, 0, one).tolist()
    assert drawn == reservoir_sample(population, size, 0, another).tolist()


def test_reservoir_stores_float32():
    reservoir = Reservoir(3, 0)
    reservoir.add(np.ones((2, 1), np.float16))
    reservoir.add(np.full((1, 1), 1.0001, np.float32))
    assert reservoir.rows().dtype == np.float32
    assert reservoir.rows()[2, 0] == np.float32(1.0001)


def test_empty_reservoir():
    assert Reservoir(3, 0).rows().shape == (0, 0)
    assert Reservoir(3, 0).rows(7).shape == (0, 7)


# Samples of numbered rows


@pytest.mark.parametrize("size", [5, 40, 70])
def test_draw_rows_is_uniform(size):
    counts = np.zeros(100)
    for seed in range(2000):
        counts[draw_rows(100, size, np.random.default_rng(seed))] += 1
    assert chi_square(counts, 20 * size) < LIMIT


def test_sample_rows_is_uniform_over_good_rows():
    good = np.arange(100) % 4 != 0
    matrix = np.where(good, np.arange(100), np.nan)[:, None]
    counts = np.zeros(100)
    for seed in range(2000):
        counts[sample_rows(100, 30, seed, lambda rows: matrix[rows], Screen())[:, 0].astype(int)] += 1
    assert not counts[~good].any()
    assert chi_square(counts[good], counts.sum() / good.sum()) < LIMIT
    assert counts.sum() == 2000 * 30


@given(st.data())
def test_draw_rows_is_sorted_and_excludes_given_rows(data):
    population = data.draw(st.integers(1, 1000))
    drawn = np.array(sorted(data.draw(st.sets(st.integers(0, population - 1)))), np.int64)
    size = data.draw(st.integers(0, population - len(drawn)))
    rows = draw_rows(population, size, np.random.default_rng(0), drawn)
    assert len(rows) == size
    assert (np.diff(rows) > 0).all()
    assert not np.isin(rows, drawn).any()


def test_draw_rows_from_huge_population():
    rows = draw_rows(10**15, 1000, np.random.default_rng(0))
    assert len(rows) == 1000
    assert rows.mean() == pytest.approx(5e14, rel=0.1)
