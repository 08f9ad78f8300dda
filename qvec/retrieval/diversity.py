"""Maximal marginal relevance: hits that are near the query and unlike each other."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.errors import InputError
from qvec.hits import Hit
from qvec.retrieval.steps import Search, Steps, Vectors, considered, with_texts
from qvec.stores import check_count


def mmr(query: ArrayLike, vectors: ArrayLike, k: int, balance: float = 0.5) -> list[int]:
    """Positions of k vectors (n, d) in the order of maximal marginal relevance to a query (d,).

    Each next one maximizes balance * <query, x> - (1 - balance) * max <x, chosen> (Carbonell and Goldstein, 1998), so
    1 ranks by relevance alone and 0 by novelty after the most relevant one. Ties go to the lower position; a row that
    is not finite is never chosen. Under cosine query and vectors have to be at unit length.

    Raises InputError for a k below 1 or a balance outside 0 to 1.
    """
    _check(k, balance)
    rows = np.asarray(vectors, np.float32)
    if not len(rows):
        return []
    relevance = rows @ np.asarray(query, np.float32)
    open_rows = np.isfinite(relevance)
    chosen: list[int] = []
    nearest = np.full(len(rows), -np.inf, np.float32)
    while len(chosen) < k and open_rows.any():
        gain = relevance if not chosen else balance * relevance - (1 - balance) * nearest
        position = int(np.argmax(np.where(open_rows, gain, -np.inf)))
        chosen.append(position)
        open_rows[position] = False
        nearest = np.maximum(nearest, rows @ rows[position])
    return chosen


def _check(k: int, balance: float) -> None:
    check_count("k", k)
    if not isinstance(balance, Real) or not 0 <= balance <= 1:
        raise InputError(f"balance is {balance!r}, expected 0 (novelty) to 1 (relevance)")


def diverse(
    query: NDArray[np.float32], k: int, among: int | None, balance: float, metric: str, options: Mapping[str, Any]
) -> Steps[list[Hit]]:
    """The k of the `among` nearest rows that `mmr` chooses, by their vectors as the collection holds them."""
    _check(k, balance)
    wanted = considered(among, k, 5 * k)
    hits = yield Search(query, wanted, {**options, "texts": False})
    vectors = yield Vectors([hit.id for hit in hits])
    if metric == "cosine":
        query, vectors = _at_unit_length(query), _at_unit_length(vectors)
    return (yield from with_texts([hits[position] for position in mmr(query, vectors, k, balance)]))


def _at_unit_length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    divided: NDArray[np.float32] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return divided
