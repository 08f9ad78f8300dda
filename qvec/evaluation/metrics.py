"""Rankings against relevance judgements, as trec_eval computes them, but in the order in which they were found.

trec_eval sorts what it is given by score, and equal scores by document id; here the order is the search's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Grades = Mapping[str, int]
"""Grades of the judged documents of one query; those above 0 are relevant."""


def ndcg(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """nDCG@k (Järvelin and Kekäläinen 2002): gains are the grades, halved at rank 3, by 1 / log2(1 + rank).

    trec_eval's ndcg_cut, and so BEIR's. 0 where nothing is relevant.
    """
    ideal = _gain(sorted(grades.values(), reverse=True)[:k])
    return _gain([grades.get(name, 0) for name in ranking[:k]]) / ideal if ideal else 0.0


def reciprocal_rank(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """1 / the rank of the first relevant document among k; 0 where none is. Its mean is the MRR@k."""
    ranks = (rank for rank, name in enumerate(ranking[:k], 1) if grades.get(name, 0) > 0)
    return 1 / next(ranks, math.inf)


def judged_recall(ranking: Sequence[str], grades: Grades, k: int = 10) -> float:
    """The share of all relevant documents that is among the first k: trec_eval's recall. 0 where none is relevant."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def _gain(grades: Sequence[int]) -> float:
    return sum(max(grade, 0) / math.log2(1 + rank) for rank, grade in enumerate(grades, 1))
