"""The offline sweep: what calibrations, precisions and dimensions cost the vectors of a source, without a database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from qvec.calibration import Metric
from qvec.errors import InputError
from qvec.evaluation.choice import pareto, recommend
from qvec.evaluation.intervals import CONFIDENCE
from qvec.evaluation.material import Material, draw
from qvec.evaluation.quantized import Measured, Quantized, fitted
from qvec.evaluation.resampling import many_intervals
from qvec.evaluation.results import Result
from qvec.evaluation.trials import Sweep, Trial, bytes_per_vector
from qvec.evaluation.truth import nearest_rows
from qvec.evaluation.truth_table import TruthTable
from qvec.ingest.options import FitOptions, Reporter
from qvec.ranges import RangeMethod
from qvec.sources import Source

THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)
RANGES = tuple(
    RangeMethod(name, per_dimension=each) for name in ("quantile", "minmax", "rolling") for each in (True, False)
)


@dataclass(frozen=True)
class SweepOptions:
    """What to try, on how much. `recall` is what the recommendation has to reach, with its confidence.

    `fixed` is a range that the model's author gives, tried beside the methods.
    """

    metric: Metric = "cosine"
    k: int = 10
    recall: float = 0.97
    rows: int = 50_000
    queries: int = 500
    seed: int = 0
    fixed: float | None = None
    read_with: tuple[str, ...] = ()
    """Options of `qvec ingest` that tell how the source is read, for the command that is recommended."""

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InputError(f"recall is {self.recall}, expected a share above 0 and at most 1")
        for name in ("k", "rows", "queries"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1")

    def fits(self, dimensions: int) -> list[FitOptions]:
        """The calibrations that are tried at some dimensions."""
        ranges = RANGES if self.fixed is None else (*RANGES, RangeMethod("fixed", value=self.fixed))
        return [
            FitOptions(self.metric, threshold, method, dimensions, seed=self.seed)
            for threshold, method in product(THRESHOLDS, ranges)
        ]


def sweep(source: Source, options: SweepOptions, reporter: Reporter, queries: Source | None = None) -> Sweep:
    """Tries every calibration, precision and dimension on a uniform sample of a source, against exact float32.

    Queries are rows that are held out, or those of `queries`. Raises InputError where a source does not serve.
    """
    material = draw(
        source,
        rows=options.rows,
        queries=options.queries,
        metric=options.metric,
        seed=options.seed,
        given=queries,
        reporter=reporter,
    )
    trials = _trials(material, list(_measured(material, options, reporter)))
    recommendation = recommend(trials, options.recall, (source.name, *options.read_with))
    calibration = fitted(material.documents, recommendation.trial.fit)
    return Sweep(
        source=source.name,
        rows=len(material.documents),
        queries=len(material.queries),
        k=options.k,
        trials=trials,
        pareto=pareto(trials),
        recommendation=recommendation,
        calibration=calibration,
        statistics=calibration.drift(material.documents),
        confidence=CONFIDENCE,
        notes=tuple(_notes(material, source)),
    )


def _measured(material: Material, options: SweepOptions, reporter: Reporter) -> Iterator[Measured]:
    truth = _truth(material, options)
    levels = [options.fits(dimensions) for dimensions in material.levels()]
    reporter.stage("sweep", sum(map(len, levels)))
    done = 0
    for fits in levels:
        found: list[Measured] = []
        for fit in fits:
            found += Quantized(material, fit).two_steps(truth)
            done += 1
            reporter.advance("sweep", done)
        yield from found
        yield from Quantized(material, _best_fit(found)).every_row(truth)
    reporter.finish("sweep")


def _truth(material: Material, options: SweepOptions) -> TruthTable:
    """Recall against exact float32 at all dimensions."""
    whole = fitted(material.documents, FitOptions(options.metric))
    documents, queries = whole.prepared(material.documents), whole.prepared(material.queries)
    return TruthTable.of(nearest_rows([(np.arange(len(documents)), documents)], queries, options.k))


def _best_fit(found: list[Measured]) -> FitOptions:
    """The calibration whose int8 finds the most."""
    return max((one for one in found if one.rescore == "int8"), key=lambda one: float(one.recalls.mean())).fit


def _trials(material: Material, measured: list[Measured]) -> tuple[Trial, ...]:
    found = []
    for one, recall in zip(measured, many_intervals([one.recalls for one in measured]), strict=True):
        dimensions = one.fit.dimensions or material.dimensions
        result = Result(
            one.prefilter,
            one.rescore,
            one.oversampling,
            exact=True,
            recall=recall,
            bytes_per_vector=bytes_per_vector(dimensions, one.prefilter, one.rescore),
            recalls=one.recalls,
        )
        found.append(Trial(one.fit, dimensions == material.dimensions, result, one.candidates))
    return tuple(found)


def _notes(material: Material, source: Source) -> Iterator[str]:
    rows = len(material.documents)
    if source.rows is not None and rows + len(material.queries) * material.held_out < source.rows - material.unusable:
        yield (
            f"{rows:,} of {source.rows:,} rows were drawn uniformly; among all of them recall is somewhat lower, "
            "for candidates most"
        )
    if material.held_out:
        yield f"the {len(material.queries):,} queries are rows that were held out; queries of another kind may differ"
    if material.unusable:
        yield f"{material.unusable:,} rows were left out: they hold NaN, an infinity or nothing but zeros"
    yield "candidates come from a scan of every row; an index (HNSW) loses some of them"
