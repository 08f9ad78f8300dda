"""Reranking: hits ordered by a second, slower model of question and text, such as a cross-encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from qvec.errors import InputError
from qvec.results import Hit

Reranker = Callable[[str, Sequence[str]], Sequence[float]]
"""A function of a question and texts that returns a score for each text, higher for better: for a sentence-transformers
cross-encoder `lambda question, texts: model.predict([(question, text) for text in texts])`."""


def rerank(question: str, hits: Sequence[Hit], reranker: Reranker) -> list[Hit]:
    """Return hits by the scores that `reranker` gives their documents, best first; hits without a document come last,
    in their former order.

    Raise InputError unless it returns one number for each text.
    """
    scored = [hit for hit in hits if hit.document is not None]
    scores = _numbers(reranker(question, [hit.document or "" for hit in scored]))
    if len(scores) != len(scored):
        raise InputError(f"the reranker gave {len(scores)} scores for {len(scored)} texts")
    ordered = sorted(zip(scored, scores, strict=True), key=lambda pair: -pair[1])
    return [replace(hit, score=score) for hit, score in ordered] + [hit for hit in hits if hit.document is None]


def _numbers(given: Iterable[Any]) -> list[float]:
    try:
        scores = [float(score) for score in given]
    except (TypeError, ValueError):
        raise InputError(f"the reranker gave {_shown(given)}, expected a number for each text") from None
    for position, score in enumerate(scores):
        if math.isnan(score):
            raise InputError(f"the reranker gave NaN for text {position}, expected a number")
    return scores


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 60 else text[:60] + "…"
