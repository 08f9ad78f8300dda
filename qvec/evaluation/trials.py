"""What a sweep tried and found: one trial for each calibration, prefilter, precision and oversampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qvec.calibration import Calibration
from qvec.codes import PLANES
from qvec.drift import Drift
from qvec.evaluation.results import NONE, Interval, Result
from qvec.ingest.load_options import FitOptions

_PREFILTER_PLANES = {"ternary": 2, "binary": 1, NONE: 0}
_VALUE_BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Trial:
    """One configuration of a sweep: how its calibration is fitted, and what was measured.

    `fit.dimensions` is always given. `candidates` is the recall of the candidates before they are rescored, which no
    rescoring exceeds; None where there were none.
    """

    fit: FitOptions
    whole: bool
    """Whether all dimensions of the model are kept."""
    result: Result
    candidates: float | None

    @property
    def dimensions(self) -> int:
        """Dimensions that are kept."""
        assert self.fit.dimensions is not None
        return self.fit.dimensions

    @property
    def loadable(self) -> bool:
        """Whether a collection can be like this: it has a prefilter and a precision to rescore by."""
        return NONE not in (self.result.prefilter, self.result.rescore)

    def as_dict(self) -> dict[str, Any]:
        """One line of `qvec eval --sweep --json`."""
        return {
            **self.result.as_dict(),
            "candidates": self.candidates,
            "dimensions": self.dimensions,
            "threshold": self.fit.threshold,
            "ranges": self.fit.ranges.name,
            "quantile": self.fit.ranges.quantile if self.fit.ranges.name == "quantile" else None,
            "per_dimension": self.fit.ranges.per_dimension,
        }


@dataclass(frozen=True)
class Recommendation:
    """The configuration to use. `recall` is over the queries that had no part in choosing it."""

    trial: Trial
    recall: Interval
    target: float
    met: bool
    """Whether the queries that chose it reached the target with their confidence."""
    command: str
    """The `qvec ingest` command that makes such a collection."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Everything that a sweep of a source found: `rows` of it were compared with `queries`, at k hits each."""

    source: str
    rows: int
    queries: int
    k: int
    trials: tuple[Trial, ...]
    pareto: tuple[Trial, ...]
    """The trials at 4 candidates a hit that no other beats in both bytes and recall, by ascending bytes."""
    recommendation: Recommendation
    calibration: Calibration
    """Of the recommendation, fitted to the rows that were compared."""
    statistics: Drift
    """The rows that were compared, against that calibration."""
    confidence: float
    notes: tuple[str, ...]
    """What a reader has to know beside the figures."""


def bytes_per_vector(dimensions: int, prefilter: str, rescore: str) -> int:
    """Bytes that a collection in Postgres keeps of a vector: what it rescores by, and the prefilter's bits.

    The bits are in the index and, beside floats, in the table as well. Either may be NONE.
    """
    width = -(-dimensions // 8)
    bits = _PREFILTER_PLANES[prefilter] * width
    if rescore in _VALUE_BYTES:
        return _VALUE_BYTES[rescore] * dimensions + 2 * bits
    planes = 0 if rescore == NONE else PLANES[rescore]
    return planes * width + bits
