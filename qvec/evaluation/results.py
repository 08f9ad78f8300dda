"""What an evaluation found, for people, reports and machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qvec.calibration import Calibration

NONE = "none"
"""In place of a prefilter: every row is ranked. In place of a rescoring: the prefilter's bits rank."""


class Interval(NamedTuple):
    """A mean over queries, and the bounds between which it lies with the confidence that the evaluation states."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Loss:
    """Where recall is lost; with the recall the shares make 1. They come of one sample of queries: a share of the index
    may be slightly below 0, where its candidates happen to be better than the nearest ones."""

    index: float | None
    """By the graph, against the scan of the same codes; None where no scan can be made."""
    prefilter: float
    """By the prefilter's bits, against rescoring every row; with the index's share, where that is not known."""
    rescore: float
    """By the precision of the rescoring, against the truth."""


@dataclass(frozen=True)
class Result:
    """One configuration, measured. Milliseconds are None where nothing was timed, as in a sweep.

    `prefilter` is what finds candidates ("ternary", "binary", "turbo1" …) and `rescore` what ranks them ("int8",
    "int4", "binary", "float16" …), with float32 queries; either may be "none", not both. `oversampling` is None where
    there are no candidates. `exact`: no index took part, every row was compared.
    """

    prefilter: str
    rescore: str
    oversampling: float | None
    exact: bool
    recall: Interval
    bytes_per_vector: float
    """Of vector data: what is stored to rescore by and what is kept beside it to find candidates, without row headers,
    ids, texts and the graph's links."""
    ndcg: Interval | None = None
    mrr: Interval | None = None
    judged_recall: Interval | None = None
    """The share of the relevant documents that is among the first k."""
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    loss: Loss | None = None
    recalls: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    """The recall of each query, in their order: what paired comparisons are made of."""
    ndcgs: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """The nDCG of each query that has judgements, in their order."""

    @property
    def name(self) -> str:
        """PREFILTER/RESCORE[/OVERSAMPLING][/scan], as `--compare` takes it."""
        parts = [self.prefilter, self.rescore]
        parts += [] if self.oversampling is None else [f"{self.oversampling:g}"]
        parts += ["scan"] if self.exact and self.prefilter != NONE else []
        return "/".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """One line of `qvec eval --json`; `ndcg`, `mrr` and `judged_recall` with judgements only."""
        line: dict[str, Any] = {
            "prefilter": self.prefilter,
            "rescore": self.rescore,
            "oversampling": self.oversampling,
            "exact": self.exact,
            "recall": round(self.recall.value, 6),
            "recall_interval": [round(self.recall.low, 6), round(self.recall.high, 6)],
        }
        if self.ndcg is not None:
            line |= {"ndcg": self.ndcg.value, "ndcg_interval": [self.ndcg.low, self.ndcg.high]}
        if self.mrr is not None:
            line["mrr"] = self.mrr.value
        if self.judged_recall is not None:
            line["judged_recall"] = self.judged_recall.value
        return {
            **line,
            "p50_ms": self.p50_ms,
            "p95_ms": self.p95_ms,
            "p99_ms": self.p99_ms,
            "bytes_per_vector": self.bytes_per_vector,
            "loss": None if self.loss is None else asdict(self.loss),
        }


@dataclass(frozen=True)
class Evaluation:
    """The configurations of a collection, or of a source without one, over the same queries."""

    collection: str
    """Name of the collection, or of the source."""
    rows: int
    queries: int
    k: int
    results: tuple[Result, ...]
    calibration: Calibration | None
    """None where the configurations have different ones."""
    truth: str
    """What recall is measured against: what stood for exact float32."""
    confidence: float = 0.95
    notes: tuple[str, ...] = ()
    """What a reader has to know beside the figures."""
