"""Tuning: find the smallest oversampling that reaches a recall, or what to load instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qvec.client import Collection
from qvec.codes import MAX_PLANES, PLANES, quantize
from qvec.defaults import ef_search
from qvec.errors import InputError
from qvec.evaluation.dataset import Queries, Rows, rows_of_collection
from qvec.evaluation.evaluation_results import NONE
from qvec.evaluation.ground_truth import GroundTruth, describe_ground_truth, find_ground_truth
from qvec.evaluation.metrics import CONFIDENCE, Interval, confidence_interval, lower_bound
from qvec.evaluation.scan import RESCORES, scan_codes
from qvec.evaluation.search_config import (
    CodeBlock,
    SearchConfig,
    candidate_count,
    time_searches,
    warm_up,
)
from qvec.ingest.load_options import Reporter
from qvec.precisions import code_table_bytes
from qvec.prefilter_levels import LEVELS, level_planes

MAX_OVERSAMPLING = 128
"""Largest oversampling to try: beyond it a search reads so many rows that another prefilter is better."""
ALTERNATIVE_OVERSAMPLINGS = (4, 8, 16, 32)
_BLOCK_ROWS = 4096
_MORE_PRECISE = {"binary": "int4", "int4": "int8", "int8": "int10", "int10": "float16"}
_MORE_PRECISE |= {"turbo8": "float16", "turbo16": "float32", "float16": "float32"}
_BETTER_ENGINE_PREFILTER = {"binary": "turbo1", "binary1.5": "turbo2", "binary2": "turbo2", "turbo1": "turbo2"}
_BETTER_ENGINE_PREFILTER |= {"turbo1.5": "turbo2", "turbo2": "turbo4"}


@dataclass(frozen=True)
class Attempt:
    """The recall measured with an oversampling; None means that every row was rescored."""

    oversampling: float | None
    recall: Interval
    at_least: float
    """Lower bound of the recall, with the confidence asked for."""
    p50_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the attempt as JSON values."""
        return {**vars(self), "recall": self.recall.value}


@dataclass(frozen=True)
class Tuning:
    """The oversampling that reaches a target; if it is None, `advice` says why and what would reach it."""

    collection: str
    target: float
    k: int
    confidence: float
    queries: int
    truth: str
    oversampling: float | None
    ef_search: int | None
    """Width of the graph search for k hits (hnsw.ef_search); None if the engine decides."""
    attempts: tuple[Attempt, ...]
    advice: str | None
    stored: bool
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Attempt | None:
        """The attempt with the chosen oversampling."""
        return next((each for each in self.attempts if each.oversampling == self.oversampling is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """Return what `qvec tune --json` prints."""
        fields = {name: value for name, value in vars(self).items() if name != "attempts"}
        chosen = self.chosen
        return {
            **fields,
            "recall": chosen and chosen.recall.value,
            "at_least": chosen and chosen.at_least,
            "attempts": [attempt.as_dict() for attempt in self.attempts],
        }


@dataclass(frozen=True)
class Alternative:
    """Another way to load the rows, with the recall of a scan and its lower bound."""

    prefilter: str
    rescore: str
    oversampling: int
    bytes_per_vector: float
    recall: float
    at_least: float


def tune(
    collection: Collection,
    queries: Queries,
    truth: Rows | None = None,
    *,
    recall: float = 0.99,
    k: int = 10,
    confidence: float = CONFIDENCE,
    max_oversampling: int = MAX_OVERSAMPLING,
    store: bool = True,
    reporter: Reporter | None = None,
) -> Tuning:
    """Find the smallest whole oversampling whose recall@k reaches `recall` with confidence, and store it.

    The confidence is that of a one-sided bootstrap over the queries. Recall is against `truth`, or what the collection
    keeps, as in `evaluate`. If no oversampling reaches the target, other ways to load the rows are measured, and
    `advice` names the smallest that does.

    The graph is searched as wide as there are candidates, so its width needs no setting of its own: in 100,000 rows of
    384 dimensions, more candidates always found more than a wider search in the same time. The only exception was 4-bit
    codes of Qdrant above 99.5%, where `search(ef=...)` saved a fifth of the time.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall}, expected a share above 0 and at most 1")
    reporter = reporter or Reporter()
    nearest = find_ground_truth(collection, queries, truth, k, reporter)
    reporter.stage("searching", None)
    attempts: list[Attempt] = []

    def reaches(oversampling: float | None) -> bool:
        attempts.append(_attempt(collection, queries, nearest, oversampling, confidence))
        reporter.advance("searching", len(attempts))
        return attempts[-1].at_least >= recall

    warm_up(collection, queries, _config(collection, float(max_oversampling)), k)
    found = _smallest(reaches, max_oversampling) if reaches(None) else None
    reporter.finish("searching")
    if found is not None and store:
        collection.set_oversampling(found)
    advice = None
    if found is None:
        others = find_alternatives(collection, queries, truth, nearest, confidence, reporter)
        advice = advise(collection, attempts, recall, confidence, others)
    return Tuning(
        collection=collection.name,
        target=recall,
        k=k,
        confidence=confidence,
        queries=len(queries),
        truth=describe_ground_truth(collection, truth),
        oversampling=found,
        ef_search=ef_search(k, candidate_count(k, found)) if found and collection.exposes_codes else None,
        attempts=tuple(attempts),
        advice=advice,
        stored=found is not None and store,
        notes=tuple(queries.notes()),
    )


def _attempt(
    collection: Collection, queries: Queries, truth: GroundTruth, oversampling: float | None, confidence: float
) -> Attempt:
    timed = time_searches(collection, queries, _config(collection, oversampling), truth.k)
    recalls = truth.recalls(timed.found)
    at_least = lower_bound(recalls, confidence, k=truth.k)
    return Attempt(oversampling, confidence_interval(recalls, confidence), at_least, timed.percentiles()[0])


def _config(collection: Collection, oversampling: float | None) -> SearchConfig:
    """The collection's own search; None means that every row is rescored."""
    settings = collection.settings
    if oversampling is None:
        return SearchConfig(NONE, settings["rescore"], None, True, 0, {"exact": True})
    return SearchConfig(settings["prefilter"], settings["rescore"], oversampling, False, 0)


def _smallest(reaches: Callable[[float | None], bool], limit: int) -> float | None:
    """Find the smallest whole number up to `limit` that reaches the target, by doubling and bisection."""
    low, high = 0, 1
    while not reaches(float(high)):
        if high == limit:
            return None
        low, high = high, min(2 * high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reaches(float(middle)) else (middle, high)
    return float(high)


def find_alternatives(
    collection: Collection,
    queries: Queries,
    rows: Rows | None,
    truth: GroundTruth,
    confidence: float,
    reporter: Reporter,
) -> list[Alternative]:
    """Measure every other way to load the rows of a collection with its calibration, fewest bytes first.

    The rows are quantized again from `rows`, the source of the collection, or from the floats that it keeps; from codes
    alone, only other prefilters and shorter precisions can be measured. There are none for an engine with its own
    codes.
    """
    if not collection.exposes_codes:
        return []
    calibration, settings = collection.calibration, collection.settings
    from_floats = rows is not None or collection.keeps_floats
    planes = MAX_PLANES if from_floats else PLANES[settings["rescore"]]
    prefilters = [name for name in RESCORES if planes >= level_planes(LEVELS[name])]
    rescores = [name for name, needed in PLANES.items() if needed <= planes] + ["float16"] * from_floats
    blocks = _quantized(collection, rows) if from_floats else collection.iter_codes(_BLOCK_ROWS)
    reporter.stage("alternatives", truth.rows)
    count = candidate_count(truth.k, ALTERNATIVE_OVERSAMPLINGS[-1]) + 1
    vectors = queries.prepared(calibration)
    found = scan_codes(_counted(blocks, reporter), vectors, calibration, prefilters, rescores, count)
    reporter.finish("alternatives")
    alternatives = []
    for prefilter, candidates in found.items():
        nearest = candidates if queries.row_ids is None else candidates.without(queries.row_ids)
        for rescore in rescores:
            own = (prefilter, rescore) == (settings["prefilter"], settings["rescore"])
            if own or rescore not in RESCORES[prefilter]:
                continue
            size = code_table_bytes(calibration.dimensions, prefilter, rescore)
            for oversampling in ALTERNATIVE_OVERSAMPLINGS:
                recalls = truth.recalls(nearest.best(candidate_count(truth.k, oversampling), rescore))
                at_least = lower_bound(recalls, confidence, k=truth.k)
                recall = float(recalls.mean())
                alternatives.append(Alternative(prefilter, rescore, oversampling, size, recall, at_least))
    return sorted(alternatives, key=lambda each: (each.bytes_per_vector, each.oversampling))


def _quantized(collection: Collection, rows: Rows | None) -> Iterator[CodeBlock]:
    """The rows as another load would quantize them, with the floats that it could keep."""
    calibration = collection.calibration
    for ids, vectors in (rows or rows_of_collection(collection)).read(lambda _: None):
        for start in range(0, len(vectors), _BLOCK_ROWS):
            some = vectors[start : start + _BLOCK_ROWS]
            floats = calibration.prepared(some).astype(np.float16).astype(np.float32)
            yield np.asarray(ids[start : start + _BLOCK_ROWS]), quantize(some, calibration, MAX_PLANES), floats


def _counted(blocks: Iterator[CodeBlock], reporter: Reporter) -> Iterator[CodeBlock]:
    done = 0
    for block in blocks:
        yield block
        done += len(block[0])
        reporter.advance("alternatives", done)


def advise(
    collection: Collection,
    attempts: Sequence[Attempt],
    target: float,
    confidence: float,
    others: Sequence[Alternative],
) -> str:
    """Say, in a sentence without its full stop, why no attempt reached the target and which alternative does.

    The first attempt rescored every row, and the last is the best.
    """
    best = attempts[-1]
    what = (
        f"rescoring every row by {collection.settings['rescore']}"
        if best.oversampling is None
        else f"an oversampling of {best.oversampling:g}"
    )
    found = f"{what} finds {best.recall.value:.2%} (at least {best.at_least:.2%} with {confidence:.0%} confidence)"
    if best.recall.value >= target:
        return f"{found}: more queries are needed to be sure of {target:.2%}"
    if best.oversampling is None:
        found = f"{found}, and no oversampling finds more"
    else:
        found = f"{found}, while rescoring every row finds {attempts[0].recall.value:.2%}"
    sufficient = next((other for other in others if other.at_least >= target), None)
    if sufficient is not None:
        command = (
            f"qvec ingest --rescore {sufficient.rescore} --prefilter {sufficient.prefilter} --oversampling "
            f"{sufficient.oversampling}"
        )
        return f"{found}: load it again as {_described(sufficient)} ({command})"
    return f"{found}: {_untested_advice(collection, best, target, others)}"


def _untested_advice(collection: Collection, best: Attempt, target: float, others: Sequence[Alternative]) -> str:
    """What may help if nothing that was measured is sure to."""
    every_row = "search every row (qvec search --exact)"
    if others:
        closest = max(others, key=lambda other: other.at_least)
        if closest.recall >= target:
            last = "more queries are needed to be sure of it"
        elif best.oversampling is not None:
            last = every_row
        else:
            last = "keep floats and search every row (qvec ingest --rescore float32, qvec search --exact)"
        return f"no other way to load it is sure to reach the target; the closest is {_described(closest)}; {last}"
    if best.oversampling is None:
        precision = _MORE_PRECISE.get(collection.settings["rescore"])
        if precision is None:
            return "the floats that it keeps are exact; are these the vectors that it was loaded from?"
        return f"load it again with a more precise rescoring (qvec ingest --rescore {precision})"
    better = None if collection.exposes_codes else _BETTER_ENGINE_PREFILTER.get(collection.settings["prefilter"])
    if better is None:
        return f"{every_row}, or tune a collection with a calibration that fits its vectors better"
    return f"load it again with a more precise prefilter (qvec ingest --prefilter {better}), or {every_row}"


def _described(other: Alternative) -> str:
    return (
        f"{other.rescore} after {other.prefilter} bits, {other.bytes_per_vector:,.0f} bytes a vector, which finds "
        f"{other.recall:.2%} (at least {other.at_least:.2%}) with an oversampling of {other.oversampling}, without the "
        "loss of an index"
    )
