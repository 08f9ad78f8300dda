"""Hits near a question's vector and hits that hold its words, in one ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.hits import Hit
from qvec.retrieval.fusion import reciprocal_rank, weighted_scores
from qvec.retrieval.reranking import Reranker, rerank
from qvec.retrieval.steps import Compute, Search, Steps, Words, considered, with_texts
from qvec.stores import check_count
from qvec.tracing import span

Fusion = Literal["ranks", "scores"]
_FUSIONS: dict[Fusion, Callable[[Sequence[Sequence[Hit]], Sequence[float]], list[Hit]]] = {
    "ranks": reciprocal_rank,
    "scores": weighted_scores,
}
LEAST_AMONG = 50
"""Hits of each kind that are fused at least, unless told: few of them and one kind alone decides."""


def hybrid(
    question: str,
    vector: NDArray[np.float32],
    k: int,
    among: int | None,
    fusion: Fusion,
    weights: tuple[float, float],
    reranker: Reranker | None,
    options: Mapping[str, Any],
) -> Steps[list[Hit]]:
    """The k best of the `among` nearest rows and the `among` that match the words best, fused and perhaps reranked.

    Only texts that are returned or reranked are fetched.
    """
    if fusion not in get_args(Fusion):
        raise InputError(f"fusion is {fusion!r}, expected one of: {', '.join(get_args(Fusion))}")
    check_count("k", k)
    wanted = considered(among, k, max(k, LEAST_AMONG))
    near = yield Search(vector, wanted, {**options, "texts": False})
    worded = yield Words(question, wanted, {"filter": options.get("filter"), "texts": False})
    fused = _FUSIONS[fusion]([near, worded], weights)
    if reranker is None:
        return (yield from with_texts(fused[:k]))
    judged = yield from with_texts(fused[:wanted])
    with span("rerank", texts=len(judged)):
        ranked: list[Hit] = yield Compute(partial(rerank, question, judged, reranker))
    return ranked[:k]
