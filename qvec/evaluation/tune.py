"""The smallest oversampling that keeps a recall, found by searching as users do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qvec.errors import InputError
from qvec.evaluation.intervals import CONFIDENCE, interval, lower_bound
from qvec.evaluation.queries import Queries
from qvec.evaluation.reference import described, find_truth
from qvec.evaluation.results import NONE, Interval
from qvec.evaluation.rows import Rows
from qvec.evaluation.searches import measure, warm
from qvec.evaluation.truth import Truth
from qvec.evaluation.ways import HoldsCodes, Way
from qvec.ingest.options import Reporter
from qvec.stores import Collection

MOST = 128
"""The largest oversampling that is tried: beyond it a search reads so many rows that another prefilter is better."""

_MORE_PRECISE = {"binary": "int4", "int4": "int8", "int8": "float16", "turbo8": "float16"}
_MORE_PRECISE |= {"turbo16": "float32", "float16": "float32"}
_BETTER_PREFILTER = {"binary": "ternary"}
_BETTER_IN_QDRANT = {"binary": "turbo1", "binary1.5": "turbo2", "binary2": "turbo2", "turbo1": "turbo2"}
_BETTER_IN_QDRANT |= {"turbo1.5": "turbo2", "turbo2": "turbo4"}


@dataclass(frozen=True)
class Attempt:
    """What an oversampling finds (None: every row was rescored), and what recall is above with the confidence asked."""

    oversampling: float | None
    recall: Interval
    at_least: float
    p50_ms: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "oversampling": self.oversampling,
            "recall": self.recall.value,
            "at_least": self.at_least,
            "p50_ms": self.p50_ms,
        }


@dataclass(frozen=True)
class Tuning:
    """The oversampling that meets a target, None where none does: then `advice` says why and what would."""

    collection: str
    target: float
    k: int
    confidence: float
    queries: int
    truth: str
    oversampling: float | None
    attempts: tuple[Attempt, ...]
    advice: str | None
    stored: bool
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> Attempt | None:
        """What was measured at the oversampling that was chosen."""
        return next(
            (each for each in self.attempts if each.oversampling and each.oversampling == self.oversampling), None
        )

    def as_dict(self) -> dict[str, Any]:
        """What `qvec tune --json` prints."""
        names = (
            "collection",
            "target",
            "k",
            "confidence",
            "queries",
            "truth",
            "oversampling",
            "advice",
            "stored",
            "notes",
        )
        attempts = [attempt.as_dict() for attempt in self.attempts]
        chosen = self.chosen
        return {
            **{name: getattr(self, name) for name in names},
            "recall": chosen and chosen.recall.value,
            "at_least": chosen and chosen.at_least,
            "attempts": attempts,
        }


def tune(
    collection: Collection,
    queries: Queries,
    truth: Rows | None = None,
    *,
    recall: float = 0.99,
    k: int = 10,
    confidence: float = CONFIDENCE,
    most: int = MOST,
    store: bool = True,
    reporter: Reporter | None = None,
) -> Tuning:
    """Finds the smallest whole oversampling whose recall@k is above `recall` with this confidence (by a one-sided
    bootstrap over the queries), and stores it with the collection.

    The graph is searched as wide as there are candidates, so its width (ef_search) needs no setting of its own: what it
    loses, a larger oversampling brings back. Against `truth`, or what the collection keeps, as in `evaluate`.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall is {recall}, expected a share above 0, at most 1")
    reporter = reporter or Reporter()
    nearest = find_truth(collection, queries, truth, k, reporter)
    reporter.stage("searching", None)
    attempts: list[Attempt] = []

    def meets(oversampling: float | None) -> bool:
        attempts.append(_attempt(collection, queries, nearest, oversampling, k, confidence))
        reporter.advance("searching", len(attempts))
        return attempts[-1].at_least >= recall

    warm(collection, queries, _way(collection, float(most)), k)
    found = _smallest(meets, most) if meets(None) else None
    reporter.finish("searching")
    if found is not None and store:
        collection.set_oversampling(found)
    return Tuning(
        collection=collection.name,
        target=recall,
        k=k,
        confidence=confidence,
        queries=len(queries),
        truth=described(collection, truth),
        oversampling=found,
        attempts=tuple(attempts),
        advice=None if found else _advice(collection, attempts, recall, confidence),
        stored=found is not None and store,
        notes=tuple(queries.notes()),
    )


def _attempt(
    collection: Collection, queries: Queries, truth: Truth, oversampling: float | None, k: int, confidence: float
) -> Attempt:
    measured = measure(collection, queries, _way(collection, oversampling), k)
    recalls = truth.recalls(measured.found)
    at_least = lower_bound(recalls, confidence, k=k)
    return Attempt(oversampling, interval(recalls, confidence), at_least, measured.percentiles()[0])


def _way(collection: Collection, oversampling: float | None) -> Way:
    """The collection's own search, or that of every row."""
    settings = collection.settings
    if oversampling is None:
        return Way(NONE, settings["rescore"], None, True, 0, {"exact": True})
    return Way(settings["prefilter"], settings["rescore"], oversampling, False, 0)


def _smallest(meets: Callable[[float | None], bool], most: int) -> float | None:
    """The smallest whole number up to `most` that meets, by doubling and halving; None where `most` does not."""
    low, high = 0, 1
    while not meets(float(high)):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(float(middle)) else (middle, high)
    return float(high)


def _advice(collection: Collection, attempts: list[Attempt], recall: float, confidence: float) -> str:
    """Why no oversampling meets the target, and what would."""
    best = attempts[-1]
    what = (
        f"rescoring every row by {collection.settings['rescore']}"
        if best.oversampling is None
        else f"an oversampling of {best.oversampling:g}"
    )
    found = f"{what} finds {best.recall.value:.2%} (at least {best.at_least:.2%} with {confidence:.0%} confidence)"
    if best.recall.value >= recall:
        return f"{found}: more queries are needed to be sure of {recall:.2%}"
    if best.oversampling is None:
        return f"{found}, and no oversampling finds more than that: {_more_precise(collection)}"
    return f"{found}, but rescoring every row {attempts[0].recall.value:.2%}: {_better_prefilter(collection)}"


def _more_precise(collection: Collection) -> str:
    wanted = _MORE_PRECISE.get(collection.settings["rescore"])
    if wanted is None:
        return "its floats are all there is; are these the vectors that it was loaded from?"
    return f"load it anew with a more precise rescoring (qvec ingest --rescore {wanted})"


def _better_prefilter(collection: Collection) -> str:
    better = _BETTER_PREFILTER if isinstance(collection, HoldsCodes) else _BETTER_IN_QDRANT
    wanted = better.get(collection.settings["prefilter"])
    if wanted is None:
        return "search it exactly (--exact), or tune a collection of a calibration that fits its vectors better"
    return f"load it anew with a prefilter that sees more (qvec ingest --prefilter {wanted}), or search it exactly"
