"""Results: the configurations that were measured of a collection or in a sweep, and what they cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.drift_statistics import Drift
from qvec.errors import InputError
from qvec.evaluation.metrics import CONFIDENCE, Interval, PairedComparison, compare
from qvec.ingest.load_options import FitOptions

NONE = "none"
"""Instead of a prefilter: every row is ranked. Instead of a rescoring precision: the prefilter's bits rank."""


@dataclass(frozen=True)
class Loss:
    """The recall that each step loses; recall and losses sum to 1.

    The losses are measured on a sample of queries, so that of the index may be slightly below 0.
    """

    index: float | None
    """Against a scan of the same codes; None if there is no scan."""
    prefilter: float
    """Against rescoring every row; includes the loss of the index if that is None."""
    rescore: float
    """Of rescoring every row, against the ground truth."""


@dataclass(frozen=True)
class Result:
    """A configuration with what was measured.

    `prefilter` ("ternary", "binary", "turbo1" …) finds candidates and `rescore` ("int8", "binary", "float16" …) ranks
    them by a float32 query; one of them may be "none". `oversampling` is None without candidates. `exact` means that
    every row was compared, without an index. Milliseconds are None if searches were not timed.
    """

    prefilter: str
    rescore: str
    oversampling: float | None
    exact: bool
    recall: Interval
    bytes_per_vector: float
    """Vector data in table and index, without row headers, ids, texts and graph links."""
    ndcg: Interval | None = None
    mrr: Interval | None = None
    judged_recall: Interval | None = None
    """Share of the relevant documents among the first k."""
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    loss: Loss | None = None
    recalls: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False, compare=False)
    """Recall of each query, for paired comparisons."""
    ndcgs: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    """nDCG of each judged query."""

    @property
    def name(self) -> str:
        """PREFILTER/RESCORE[/OVERSAMPLING][/scan], as `--compare` takes it."""
        steps = [self.prefilter, self.rescore]
        steps += [] if self.oversampling is None else [f"{self.oversampling:g}"]
        return "/".join([*steps, "scan"] if self.is_scan else steps)

    @property
    def is_scan(self) -> bool:
        """Whether candidates come from a scan, and not from an index."""
        return self.exact and self.prefilter != NONE

    def as_dict(self) -> dict[str, Any]:
        """Return a line of `qvec eval --json`; `ndcg`, `mrr` and `judged_recall` only with judgements."""
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
        line |= {name: getattr(self, name) for name in ("p50_ms", "p95_ms", "p99_ms", "bytes_per_vector")}
        return {**line, "loss": None if self.loss is None else asdict(self.loss)}


@dataclass(frozen=True)
class Evaluation:
    """The configurations of a collection, measured over the same queries."""

    collection: str
    rows: int
    queries: int
    k: int
    results: tuple[Result, ...]
    calibration: Calibration | None
    truth: str
    """Description of the ground truth of recall."""
    confidence: float = CONFIDENCE
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know."""

    def compare(self, first: str, second: str) -> NamedComparison:
        """Compare two configurations by their names. Raise InputError if a name is unknown."""
        named = {result.name: result for result in self.results}
        for name in (first, second):
            if name not in named:
                raise InputError(f"no configuration {name!r} was measured; there are: {', '.join(named)}")
        a, b = named[first], named[second]
        ndcg = None
        if a.ndcgs is not None and b.ndcgs is not None:
            ndcg = compare(a.ndcgs, b.ndcgs, self.confidence)
        return NamedComparison(first, second, self.k, compare(a.recalls, b.recalls, self.confidence), ndcg)


@dataclass(frozen=True)
class NamedComparison:
    """Two configurations of an evaluation compared by recall and, with judgements, by nDCG."""

    first: str
    second: str
    k: int
    recall: PairedComparison
    ndcg: PairedComparison | None

    def as_dict(self) -> dict[str, Any]:
        """Return the line of `qvec eval --compare --json`; `ndcg` only with judgements."""
        line = {"compare": [self.first, self.second], **self.recall.as_dict()}
        return line if self.ndcg is None else {**line, "ndcg": self.ndcg.as_dict()}

    def sentences(self) -> list[str]:
        """Describe the comparison, one sentence for each metric."""
        metrics = {"recall": self.recall, "nDCG": self.ndcg}
        return [f"{self.first} − {self.second}: {name}@{self.k} {each}" for name, each in metrics.items() if each]


@dataclass(frozen=True)
class Trial:
    """A configuration of a sweep: how its calibration is fitted, and its result."""

    fit: FitOptions
    """`fit.dimensions` is never None."""
    whole: bool
    """Whether all dimensions of the model are kept."""
    result: Result
    candidates: float | None
    """Recall of the candidates before rescoring, the limit for any rescoring; None without candidates."""

    @property
    def dimensions(self) -> int:
        """Dimensions that are kept."""
        assert self.fit.dimensions is not None
        return self.fit.dimensions

    @property
    def loadable(self) -> bool:
        """Whether a collection can have this configuration: both a prefilter and a rescoring precision."""
        return NONE not in (self.result.prefilter, self.result.rescore)

    def as_dict(self) -> dict[str, Any]:
        """Return a line of `qvec eval --sweep --json`."""
        ranges = self.fit.ranges
        return {
            **self.result.as_dict(),
            "candidates": self.candidates,
            "dimensions": self.dimensions,
            "threshold": self.fit.threshold,
            "ranges": ranges.name,
            "quantile": ranges.quantile if ranges.name == "quantile" else None,
            "per_dimension": ranges.per_dimension,
        }


@dataclass(frozen=True)
class Recommendation:
    """The trial to use; `recall` is that of the queries that were not used to choose it."""

    trial: Trial
    recall: Interval
    target: float
    met: bool
    """Whether the queries used to choose reach the target with confidence."""
    command: str
    """The `qvec ingest` command that makes such a collection."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """The results of a sweep over sampled `rows` of a source, for `queries` with k hits each."""

    source: str
    rows: int
    queries: int
    k: int
    trials: tuple[Trial, ...]
    pareto: tuple[Trial, ...]
    """Trials with the default oversampling that no other beats in both bytes and recall, by ascending bytes."""
    recommendation: Recommendation
    calibration: Calibration
    """The recommended calibration, fitted to the sample."""
    statistics: Drift
    """The sample against that calibration."""
    confidence: float
    notes: tuple[str, ...]
    """What a reader of the figures should know."""
