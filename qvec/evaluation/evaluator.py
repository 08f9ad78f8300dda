"""Evaluation of a collection: the recall, time, bytes and losses of every way to search it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qvec.client import Collection
from qvec.evaluation.dataset import Qrels, Queries, Rows, count_judged, is_judged
from qvec.evaluation.evaluation_results import NONE, Evaluation, Loss, Result
from qvec.evaluation.ground_truth import MAX_TIES, GroundTruth, describe_ground_truth, find_ground_truth
from qvec.evaluation.metrics import CONFIDENCE, confidence_interval, judged_recall, ndcg, reciprocal_rank
from qvec.evaluation.scan import scan_codes
from qvec.evaluation.search_config import (
    OVERSAMPLINGS,
    WIDE_SEARCH,
    CodeBlock,
    HitIds,
    SearchConfig,
    Steps,
    TimedSearch,
    bytes_per_vector,
    candidate_count,
    rescore_precisions,
    scan_prefilters,
    search_configs,
    time_searches,
    warm_up,
    wide_search,
)
from qvec.ingest.load_options import Reporter

_SCAN_ROWS = 4096
_SUSPICIOUS_RECALL = 0.8


def evaluate(
    collection: Collection,
    queries: Queries,
    truth: Rows | None = None,
    *,
    k: int = 10,
    oversamplings: Sequence[float] = OVERSAMPLINGS,
    qrels: Qrels | None = None,
    confidence: float = CONFIDENCE,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measure every way to search a collection with these queries, one query at a time.

    Recall is against the k nearest of `truth`, the rows that the collection was loaded from, or else of what the
    collection itself keeps; `Evaluation.truth` tells which. With `qrels`, the metrics of rankings are measured too,
    over the queries that have a relevant document. Raise InputError if `truth` has other rows than the collection, or
    no query is judged.
    """
    reporter = reporter or Reporter()
    judged = None if qrels is None else count_judged(queries, qrels)
    nearest = find_ground_truth(collection, queries, truth, k, reporter)
    evaluator = _Evaluator(collection, queries, nearest, confidence, qrels, reporter)
    configs = list(search_configs(collection, oversamplings))
    searched = evaluator.search(configs)
    results = searched.copy()
    if truth is not None:
        exact = SearchConfig(NONE, "float32", None, True, 4 * truth.dimensions)
        results.append(evaluator.result(exact, nearest.nearest()))
    if collection.exposes_codes:
        scanned = evaluator.scan(oversamplings)
        results += scanned.values()
    else:
        wide = [wide_search(config) for config in configs if config.prefilter != NONE]
        scanned = {config.steps: result for config, result in zip(wide, evaluator.search(wide), strict=True)}
    return Evaluation(
        collection=collection.name,
        rows=collection.count(),
        queries=len(queries),
        k=k,
        results=tuple(_with_losses(results, scanned)),
        calibration=collection.calibration,
        truth=describe_ground_truth(collection, truth),
        confidence=confidence,
        notes=tuple(_notes(collection, queries, nearest, searched, judged)),
    )


@dataclass(frozen=True)
class _Evaluator:
    """Measures configurations of a collection against the ground truth and, if given, relevance judgements."""

    collection: Collection
    queries: Queries
    truth: GroundTruth
    confidence: float
    qrels: Qrels | None
    reporter: Reporter

    def search(self, configs: Sequence[SearchConfig]) -> list[Result]:
        """Search with each configuration, and time the searches."""
        self.reporter.stage("searching", len(configs) * len(self.queries))
        warm_up(self.collection, self.queries, max(configs, key=lambda one: one.oversampling or 0), self.truth.k)
        results = []
        for number, config in enumerate(configs, 1):
            timed = time_searches(self.collection, self.queries, config, self.truth.k)
            self.reporter.advance("searching", number * len(self.queries))
            results.append(self.result(config, timed.found, timed))
        self.reporter.finish("searching")
        return results

    def scan(self, oversamplings: Sequence[float]) -> dict[Steps, Result]:
        """Scan the collection's codes with each prefilter, including the one that the index does not hold."""
        collection, k = self.collection, self.truth.k
        rescores = rescore_precisions(collection)
        self.reporter.stage("scanning", collection.count())
        candidates = scan_codes(
            self._blocks(),
            self.queries.prepared(collection.calibration),
            collection.calibration,
            scan_prefilters(collection),
            rescores,
            max(candidate_count(k, oversampling) for oversampling in oversamplings) + 1,
        )
        self.reporter.finish("scanning")
        results = {}
        for prefilter, found in candidates.items():
            nearest = found if self.queries.row_ids is None else found.without(self.queries.row_ids)
            config = partial(SearchConfig, prefilter, exact=True)
            for rescore in rescores:
                size = bytes_per_vector(collection, prefilter, rescore)
                for oversampling in oversamplings:
                    two_steps = config(rescore, oversampling, bytes_per_vector=size)
                    ids = nearest.best(candidate_count(k, oversampling), rescore)
                    results[two_steps.steps] = self.result(two_steps, [line[:k] for line in ids])
            alone = config(NONE, None, bytes_per_vector=bytes_per_vector(collection, prefilter, NONE))
            results[alone.steps] = self.result(alone, nearest.best(k))
        return results

    def _blocks(self) -> Iterator[CodeBlock]:
        done = 0
        for block in self.collection.iter_codes(_SCAN_ROWS):
            yield block
            done += len(block[0])
            self.reporter.advance("scanning", done)

    def result(self, config: SearchConfig, found: HitIds, timed: TimedSearch | None = None) -> Result:
        """Return the result of a configuration that found these ids, with times if its searches were timed."""
        recalls = self.truth.recalls(found)
        judged = self._judged(found)
        intervals = {name: confidence_interval(values, self.confidence) for name, values in judged.items()}
        p50, p95, p99 = timed.percentiles() if timed else (None, None, None)
        return Result(
            config.prefilter,
            config.rescore,
            config.oversampling,
            config.exact,
            confidence_interval(recalls, self.confidence),
            config.bytes_per_vector,
            ndcg=intervals.get("ndcg"),
            mrr=intervals.get("mrr"),
            judged_recall=intervals.get("judged_recall"),
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            recalls=recalls,
            ndcgs=judged.get("ndcg"),
        )

    def _judged(self, found: HitIds) -> dict[str, NDArray[np.float64]]:
        """The metrics of each judged query; none without judgements."""
        if self.qrels is None:
            return {}
        pairs = zip(self.queries.ids, found, strict=True)
        judged = [([str(id) for id in ids], self.qrels[query]) for query, ids in pairs if is_judged(self.qrels, query)]
        return {name: np.array([metric(*each, self.truth.k) for each in judged]) for name, metric in _METRICS.items()}


_METRICS = {"ndcg": ndcg, "mrr": reciprocal_rank, "judged_recall": judged_recall}


def _with_losses(results: Sequence[Result], scanned: Mapping[Steps, Result]) -> Iterator[Result]:
    """Add the losses, given what the same steps find in a scan."""
    exact = {result.rescore: result.recall.value for result in results if result.prefilter == NONE}
    exact[NONE] = 1.0
    for result in results:
        recall = result.recall.value
        if result.prefilter == NONE:
            loss = Loss(0.0, 0.0, 1 - recall)
        else:
            best = exact[result.rescore]
            scan = scanned.get((result.prefilter, result.rescore, result.oversampling))
            if scan is None:
                loss = Loss(None, best - recall, 1 - best)
            else:
                by_index = 0.0 if result.exact else scan.recall.value - recall
                loss = Loss(by_index, best - scan.recall.value, 1 - best)
        yield replace(result, loss=loss)


def _notes(
    collection: Collection, queries: Queries, truth: GroundTruth, searched: Sequence[Result], judged: int | None
) -> Iterator[str]:
    yield from queries.notes()
    if judged is not None and judged < len(queries):
        yield f"nDCG is over the {judged} queries that have a relevant document"
    if truth.rows > collection.count():
        yield f"the truth has {truth.rows:,} rows, the collection {collection.count():,}; no nearest row is missing"
    if truth.capped:
        yield f"a query has more than {MAX_TIES:,} equally near rows; hits beyond those count as wrong"
    if not collection.has_index():
        yield "the collection has no index: every search reads all rows"
    if "query_encoding" in collection.settings and collection.settings["prefilter"].startswith("binary"):
        yield f"the {collection.settings['prefilter']} bits see queries as {collection.settings['query_encoding']}"
    if not collection.exposes_codes:
        yield (
            f"the loss of the index is against a search of {WIDE_SEARCH:,} points of the graph, because the engine "
            "cannot scan its codes"
        )
    exact = [result.recall.value for result in searched if result.prefilter == NONE and result.rescore != "binary"]
    if exact and max(exact) < _SUSPICIOUS_RECALL:
        yield (
            f"even rescoring every row finds only {max(exact):.1%}: are these the vectors that the collection was "
            "loaded from?"
        )
