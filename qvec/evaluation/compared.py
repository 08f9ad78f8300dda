"""Two configurations of an evaluation, query by query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qvec.errors import InputError
from qvec.evaluation.intervals import Comparison, compare
from qvec.evaluation.results import Evaluation


@dataclass(frozen=True)
class Compared:
    """How much higher the first of two configurations is, by recall and, with judgements, by nDCG."""

    first: str
    second: str
    k: int
    recall: Comparison
    ndcg: Comparison | None

    def as_dict(self) -> dict[str, Any]:
        """The line of `qvec eval --compare --json`; `ndcg` with judgements only."""
        line = {"compare": [self.first, self.second], **_figures(self.recall)}
        return line if self.ndcg is None else {**line, "ndcg": _figures(self.ndcg)}

    def sentences(self) -> list[str]:
        """What was found, for people."""
        names = f"{self.first} − {self.second}"
        told = [f"{names}: recall@{self.k} {_told(self.recall)}"]
        return told if self.ndcg is None else [*told, f"{names}: nDCG@{self.k} {_told(self.ndcg)}"]


def compare_named(found: Evaluation, first: str, second: str) -> Compared:
    """Compares two of the configurations, by the names that their results have.

    Raises InputError for a name that none has.
    """
    named = {result.name: result for result in found.results}
    for name in (first, second):
        if name not in named:
            raise InputError(f"no configuration {name!r} was measured; there are: {', '.join(named)}")
    a, b = named[first], named[second]
    judged = None
    if a.ndcgs is not None and b.ndcgs is not None:
        judged = compare(a.ndcgs, b.ndcgs, found.confidence)
    return Compared(first, second, found.k, compare(a.recalls, b.recalls, found.confidence), judged)


def _figures(found: Comparison) -> dict[str, Any]:
    return {
        "difference": found.difference.value,
        "interval": [found.difference.low, found.difference.high],
        "p_value": found.p_value,
        "better": found.better,
        "worse": found.worse,
        "equal": found.equal,
    }


def _told(found: Comparison) -> str:
    low, value, high = (100 * share for share in (found.difference.low, found.difference.value, found.difference.high))
    chance = "p < 0.001" if found.p_value < 0.001 else f"p = {found.p_value:.2g}"
    points = f"{value:+.2f} points ({low:+.2f} to {high:+.2f})".replace("-", "−")
    return f"{points}, {chance}; higher in {found.better} queries, lower in {found.worse}, equal in {found.equal}"
