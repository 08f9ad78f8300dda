"""Nearest rows with ties: worked examples, and comparison with all scores in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qvec import InputError
from qvec.evaluation import ground_truth
from qvec.evaluation.ground_truth import nearest_rows

Floats = NDArray[np.float32]


def batches(vectors: Floats, ids: NDArray[np.generic] | None = None, size: int = 7) -> Iterator[tuple[NDArray, Floats]]:
    names = np.arange(len(vectors)) if ids is None else ids
    for start in range(0, len(vectors), size):
        yield names[start : start + size], vectors[start : start + size]


def rows_with_scores(*scores: float) -> Floats:
    """Return rows that have these scores with the query (1, 0)."""
    return np.array([[score, 1] for score in scores], np.float32)


QUERY = np.array([[1, 0]], np.float32)


def test_nearer_and_tied_rows() -> None:
    found = nearest_rows(batches(rows_with_scores(3, 5, 2, 3, 3, 1)), QUERY, 3)
    assert found.nearer == ((1,),)
    assert found.tied == (frozenset({0, 3, 4}),)
    assert found.rows == 6


def test_tied_rows_count_but_do_not_replace_nearer_ones() -> None:
    found = nearest_rows(batches(rows_with_scores(3, 5, 2, 3, 3, 1)), QUERY, 3)
    assert found.recalls([[1, 0, 3]]) == [1]
    assert found.recalls([[1, 4, 3]]) == [1]
    assert found.recalls([[0, 3, 4]]) == [pytest.approx(2 / 3)]  # the third tied row does not count
    assert found.recalls([[1, 2, 5]]) == [pytest.approx(1 / 3)]
    assert found.recalls([[]]) == [0]


def test_recall_counts_each_row_once_and_only_the_first_k() -> None:
    found = nearest_rows(batches(rows_with_scores(4, 3, 2, 1)), QUERY, 2)
    assert found.recalls([[0, 0]]) == [0.5]
    assert found.recalls([[3, 2, 0, 1]]) == [0]


def test_fewer_rows_than_k() -> None:
    found = nearest_rows(batches(rows_with_scores(1, 2)), QUERY, 5)
    assert found.recalls([[0]]) == [0.5]
    assert found.recalls([[1, 0]]) == [1]


def test_all_rows_tied() -> None:
    found = nearest_rows(batches(rows_with_scores(*[2.0] * 30)), QUERY, 10)
    assert found.nearer == ((),)
    assert found.recalls([list(range(20, 30))]) == [1]
    assert found.recalls([list(range(25, 30))]) == [0.5]


def test_excluded_row_does_not_count() -> None:
    found = nearest_rows(batches(rows_with_scores(9, 3, 5, 4)), np.repeat(QUERY, 2, axis=0), 2, excluded=[0, 2])
    assert found.nearest() == [[2, 3], [0, 3]]
    assert found.recalls([[2, 3], [0, 3]]).tolist() == [1, 1]


def test_text_ids() -> None:
    found = nearest_rows(batches(rows_with_scores(1, 3, 2), np.array(["x", "y", "z"], object)), QUERY, 2)
    assert found.nearest() == [["y", "z"]]
    assert found.ids() == {"y", "z"}


def test_equal_vectors_tie_across_batches() -> None:
    """The order of a float32 summation depends on the position in a batch."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(1000, 333)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    same = [3, 250, 251, 700, 999]
    vectors[same] = vectors[3]
    found = nearest_rows(batches(vectors, size=97), vectors[[3]], 3)
    assert found.tied == (frozenset(same),)


@given(
    st.integers(1, 60),
    st.integers(1, 12),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_batch_size_does_not_change_result(rows: int, k: int, size: int, seed: int, exclude: bool) -> None:
    """Small integers have exact scores and many ties."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (rows, 3)).astype(np.float32)
    queries = rng.integers(-2, 3, (4, 3)).astype(np.float32)
    excluded_rows = rng.integers(0, rows, 4).tolist() if exclude and rows > 1 else None
    found = nearest_rows(batches(vectors, size=size), queries, k, excluded_rows)
    scores = queries.astype(np.float64) @ vectors.T
    for query in range(4):
        order = [
            row
            for row in np.argsort(-scores[query], kind="stable")
            if excluded_rows is None or row != excluded_rows[query]
        ]
        last = scores[query, order[min(k, len(order)) - 1]]
        assert set(found.nearer[query]) == {row for row in order if scores[query, row] > last}
        assert found.tied[query] == {row for row in order if scores[query, row] == last}
    wanted = np.argsort(-scores, axis=1, kind="stable").tolist()
    if excluded_rows is not None:
        wanted = [[row for row in line if row != out] for line, out in zip(wanted, excluded_rows, strict=True)]
    assert found.recalls(wanted).tolist() == [1] * 4


def test_block_size_does_not_change_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = rng.normal(size=(500, 16)).astype(np.float32), rng.normal(size=(9, 16)).astype(np.float32)
    whole = nearest_rows(batches(vectors, size=500), queries, 10)
    monkeypatch.setattr(ground_truth, "_BLOCK_SCORES", 100)
    assert nearest_rows(batches(vectors, size=500), queries, 10) == whole


def test_tie_limit_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ground_truth, "MAX_TIES", 20)
    assert nearest_rows(batches(rows_with_scores(*[2.0] * 30)), QUERY, 10).capped
    assert not nearest_rows(batches(rows_with_scores(*[2.0] * 20)), QUERY, 10).capped


def test_invalid_input_raises() -> None:
    with pytest.raises(InputError, match=r"^there are no rows to compare the queries with$"):
        nearest_rows(batches(np.empty((0, 2), np.float32)), QUERY, 3)
    with pytest.raises(InputError, match=r"^there are no queries$"):
        nearest_rows(batches(rows_with_scores(1)), QUERY[:0], 3)
    with pytest.raises(InputError, match=r"^k is 0, expected at least 1$"):
        nearest_rows(batches(rows_with_scores(1)), QUERY, 0)
    with pytest.raises(InputError, match=r"^a score is beyond float32, or a vector holds NaN or infinity$"):
        nearest_rows(batches(rows_with_scores(1, float("nan"))), QUERY, 1)
