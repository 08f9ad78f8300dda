"""From the ids that a way found to its figures, and from those of several ways to where recall is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.evaluation.intervals import interval
from qvec.evaluation.metrics import judged_recall, ndcg, reciprocal_rank
from qvec.evaluation.qrels import Qrels
from qvec.evaluation.queries import Queries
from qvec.evaluation.results import NONE, Interval, Loss, Result
from qvec.evaluation.searches import Found, Measured
from qvec.evaluation.truth import Truth
from qvec.evaluation.ways import Way

Steps = tuple[str, str, float | None]
"""Prefilter, rescoring and oversampling."""


@dataclass(frozen=True)
class Judge:
    """What is found is held against the truth and, where there are any, against judgements."""

    truth: Truth
    k: int
    confidence: float
    names: tuple[str, ...] = ()
    """Ids of the queries, by which they are judged."""
    qrels: Qrels | None = None

    def result(self, way: Way, found: Found, measured: Measured | None = None) -> Result:
        """The figures of a way, with milliseconds where it was `measured`."""
        recalls = self.truth.recalls(found)
        p50, p95, p99 = measured.percentiles() if measured else (None, None, None)
        ndcgs = self._judged(ndcg, found)
        return Result(
            way.prefilter,
            way.rescore,
            way.oversampling,
            way.exact,
            self._interval(recalls),
            way.bytes_per_vector,
            ndcg=None if ndcgs is None else self._interval(ndcgs),
            mrr=self._mean(reciprocal_rank, found),
            judged_recall=self._mean(judged_recall, found),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            recalls=recalls,
            ndcgs=ndcgs,
        )

    def _interval(self, values: NDArray[np.float64]) -> Interval:
        return interval(values, self.confidence)

    def _mean(self, metric: Callable[..., float], found: Found) -> Interval | None:
        values = self._judged(metric, found)
        return None if values is None else self._interval(values)

    def _judged(self, metric: Callable[..., float], found: Found) -> NDArray[np.float64] | None:
        if self.qrels is None:
            return None
        pairs = zip(self.names, found, strict=True)
        judged = [(self.qrels[name], ids) for name, ids in pairs if is_judged(self.qrels, name)]
        return np.array([metric([str(id) for id in ids], grades, self.k) for grades, ids in judged])


def is_judged(qrels: Qrels, name: str) -> bool:
    """Whether a query has a relevant document: without one no ranking is better than another."""
    return any(grade > 0 for grade in qrels.get(name, {}).values())


def count_judged(queries: Queries, qrels: Qrels) -> int:
    """How many of the queries have a relevant document. Raises InputError where none has."""
    count = sum(is_judged(qrels, name) for name in queries.names)
    if not count:
        raise InputError(
            f"no query of {queries.described} is judged: its ids are like {queries.names[0]!r}, those of the "
            f"judgements like {next(iter(qrels))!r}"
        )
    return count


def with_losses(results: Sequence[Result], scanned: Mapping[Steps, Result]) -> list[Result]:
    """Results with where their recall is lost, by what the same steps find when they read every row."""
    exact = {result.rescore: result.recall.value for result in results if result.prefilter == NONE}
    return [replace(result, loss=_loss(result, scanned, exact)) for result in results]


def _loss(result: Result, scanned: Mapping[Steps, Result], exact: Mapping[str, float]) -> Loss:
    recall = result.recall.value
    if result.prefilter == NONE:
        return Loss(0.0, 0.0, 1 - recall)
    best = 1.0 if result.rescore == NONE else exact[result.rescore]
    scan = scanned.get((result.prefilter, result.rescore, result.oversampling))
    if scan is None:
        return Loss(None, best - recall, 1 - best)
    by_index = 0.0 if result.exact else scan.recall.value - recall
    return Loss(by_index, best - scan.recall.value, 1 - best)
