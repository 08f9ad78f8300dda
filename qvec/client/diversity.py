"""Maximal marginal relevance: rows that are near the query and unlike each other."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.client.arguments import check_count
from qvec.errors import InputError


def mmr(query: ArrayLike, vectors: ArrayLike, k: int, lambda_mult: float = 0.5) -> list[int]:
    """Return the positions of k vectors (n, d) in the order of maximal marginal relevance to a query (d,).

    Each next one maximizes lambda_mult * <query, x> - (1 - lambda_mult) * max <x, chosen> (Carbonell and Goldstein,
    1998), so 1 ranks by relevance alone and 0 by novelty after the most relevant one. Ties go to the lower position; a
    row that is not finite is never chosen. Under cosine, query and vectors must have unit length.

    Raise InputError unless k is at least 1 and lambda_mult is in 0 to 1.
    """
    check_mmr(k, lambda_mult)
    rows = np.asarray(vectors, np.float32)
    if not len(rows):
        return []
    relevance = rows @ np.asarray(query, np.float32)
    open_rows = np.isfinite(relevance)
    chosen: list[int] = []
    nearest = np.full(len(rows), -np.inf, np.float32)
    while len(chosen) < k and open_rows.any():
        gain = relevance if not chosen else lambda_mult * relevance - (1 - lambda_mult) * nearest
        position = int(np.argmax(np.where(open_rows, gain, -np.inf)))
        chosen.append(position)
        open_rows[position] = False
        nearest = np.maximum(nearest, rows @ rows[position])
    return chosen


def check_mmr(k: int, lambda_mult: float) -> None:
    """Raise InputError unless k is at least 1 and lambda_mult is in 0 to 1."""
    check_count("k", k)
    if not isinstance(lambda_mult, Real) or not 0 <= lambda_mult <= 1:
        raise InputError(f"lambda_mult is {lambda_mult!r}, expected 0 (novelty) to 1 (relevance)")


def unit_length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows divided by their length; rows of zeros stay."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    divided: NDArray[np.float32] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return divided
