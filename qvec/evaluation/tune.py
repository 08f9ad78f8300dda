"""The smallest oversampling that keeps a recall, found by searching as users do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qvec.client import Collection
from qvec.errors import InputError
from qvec.evaluation.advice import advise
from qvec.evaluation.alternatives import alternatives
from qvec.evaluation.intervals import CONFIDENCE, interval, lower_bound
from qvec.evaluation.queries import Queries
from qvec.evaluation.reference import described, find_truth
from qvec.evaluation.results import NONE, Interval
from qvec.evaluation.rows import Rows
from qvec.evaluation.scan import candidate_count
from qvec.evaluation.searches import measure, warm
from qvec.evaluation.truth import Truth
from qvec.evaluation.ways import HoldsCodes, Way
from qvec.ingest.load_options import Reporter
from qvec.postgres.statements import ef_search

MOST = 128
"""The largest oversampling that is tried: beyond it a search reads so many rows that another prefilter is better."""


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
    ef_search: int | None
    """How wide searches for k hits then search the graph; None in Qdrant, whose engine knows."""
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
            "ef_search",
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

    The graph is searched as wide as there are candidates (in Postgres at least 40 wide), so its width (ef_search) is
    found with them and needs no setting of its own. In 100,000 rows of 384 dimensions a wider search never paid: for
    the same time more candidates find more, since rescoring them costs less than finding them. Only after 4-bit codes
    of Qdrant, above 99.5%, did `search(ef=...)` save a fifth of the time.

    Against `truth`, or what the collection keeps, as in `evaluate`. Where no oversampling meets the target, other ways
    to load the rows are measured too, and `advice` names the smallest that would.
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
    advice = None
    if found is None:
        others = alternatives(collection, queries, truth, nearest, confidence, reporter)
        advice = advise(collection, attempts, recall, confidence, others)
    return Tuning(
        collection=collection.name,
        target=recall,
        k=k,
        confidence=confidence,
        queries=len(queries),
        truth=described(collection, truth),
        oversampling=found,
        ef_search=ef_search(candidate_count(k, found)) if found and isinstance(collection, HoldsCodes) else None,
        attempts=tuple(attempts),
        advice=advice,
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
