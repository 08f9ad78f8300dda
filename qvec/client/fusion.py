"""Fusion: one ranking from several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from qvec.errors import InputError
from qvec.results import Hit

RANK_CONSTANT = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)."""


def reciprocal_rank(rankings: Sequence[Sequence[Hit]], weights: Sequence[float] | None = None) -> list[Hit]:
    """Return the hits of all rankings by the sum of weight / (60 + rank) over the rankings that hold them, rank from
    1."""
    shares = [[1 / (RANK_CONSTANT + rank) for rank in range(1, len(hits) + 1)] for hits in rankings]
    return _summed(rankings, shares, weights)


def weighted_scores(rankings: Sequence[Sequence[Hit]], weights: Sequence[float] | None = None) -> list[Hit]:
    """Return the hits of all rankings by the weighted sum of their scores, scaled in each ranking to 0 for the lowest
    and 1 for the best; a ranking without the row adds 0."""
    return _summed(rankings, [_scaled([hit.score for hit in hits]) for hits in rankings], weights)


def _scaled(scores: Sequence[float]) -> list[float]:
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]


def _summed(
    rankings: Sequence[Sequence[Hit]], shares: Sequence[Sequence[float]], weights: Sequence[float] | None
) -> list[Hit]:
    """Return rows by their summed shares, ties in the order of their first occurrence."""
    factors = [1.0] * len(rankings) if weights is None else list(weights)
    if len(factors) != len(rankings) or any(not 0 <= factor < math.inf for factor in factors):
        raise InputError(f"weights are {weights}, expected {len(rankings)} numbers of at least 0")
    rows: dict[int | str, Hit] = {}
    sums: dict[int | str, float] = {}
    for hits, parts, factor in zip(rankings, shares, factors, strict=True):
        for hit, part in zip(hits, parts, strict=True):
            rows.setdefault(hit.id, hit)
            sums[hit.id] = sums.get(hit.id, 0.0) + factor * part
    return [replace(rows[id], score=total) for id, total in sorted(sums.items(), key=lambda pair: -pair[1])]


Fusion = Literal["ranks", "scores"]
FUSIONS: dict[Fusion, Callable[[Sequence[Sequence[Hit]], Sequence[float]], list[Hit]]] = {
    "ranks": reciprocal_rank,
    "scores": weighted_scores,
}
MIN_FETCH_K = 50
"""Hits of each ranking that are fused at least by default: with few of them, one ranking alone decides."""


def check_fusion(fusion: str) -> None:
    """Raise InputError unless `fusion` is a known method."""
    if fusion not in FUSIONS:
        raise InputError(f"fusion is {fusion!r}, expected one of: {', '.join(FUSIONS)}")
