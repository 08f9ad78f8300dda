"""The offline sweep: what calibrations, precisions and dimensions cost the vectors of a source, without a database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from qvec.calibration import Calibration, Metric
from qvec.errors import InputError
from qvec.evaluation.choice import pareto, recommend
from qvec.evaluation.drawing import Load
from qvec.evaluation.intervals import CONFIDENCE
from qvec.evaluation.material import Array, Material, draw
from qvec.evaluation.quantized import PRECISIONS, Measured, Quantized
from qvec.evaluation.queries import FEW_QUERIES
from qvec.evaluation.resampling import many_intervals
from qvec.evaluation.results import Result
from qvec.evaluation.trials import Sweep, Trial, bytes_per_vector
from qvec.ingest.load_options import FitOptions, Reporter
from qvec.ranges import RangeMethod
from qvec.sources import Source

THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)
_METHODS = (
    RangeMethod("quantile"),
    RangeMethod("quantile", quantile=0.99),
    RangeMethod("minmax"),
    RangeMethod("rolling"),
)
RANGES = tuple(replace(method, per_dimension=each) for method in _METHODS for each in (True, False))
"""A range that clips one value of a hundred wastes fewer of the few levels of int4."""


@dataclass(frozen=True)
class SweepOptions:
    """What to try, on how much. `recall` is what the recommendation has to reach, with its confidence.

    Without `rows` 50,000 vectors or 10,000 texts are drawn. `fixed` is a range that the model's author gives, tried
    beside the methods.
    """

    metric: Metric = "cosine"
    k: int = 10
    recall: float = 0.97
    rows: int | None = None
    queries: int = 500
    seed: int = 0
    confidence: float = CONFIDENCE
    fixed: float | None = None
    read_with: tuple[str, ...] = ()
    """Options of `qvec ingest` that tell how the source is read, for the command that is recommended."""

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InputError(f"recall is {self.recall}, expected a share above 0 and at most 1")
        for name in ("k", "rows", "queries"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")

    def fits(self, dimensions: int) -> list[FitOptions]:
        """The calibrations that are tried at some dimensions."""
        ranges = RANGES if self.fixed is None else (*RANGES, RangeMethod("fixed", value=self.fixed))
        return [
            FitOptions(self.metric, threshold, method, dimensions, seed=self.seed)
            for threshold, method in product(THRESHOLDS, ranges)
        ]


def sweep(
    source: Source,
    options: SweepOptions,
    reporter: Reporter,
    queries: Source | None = None,
    load: Load | None = None,
) -> Sweep:
    """Tries every calibration, precision and dimension on a uniform sample of a source, against exact float32.

    Queries are rows that are held out, or those of `queries`; texts are embedded by the model that `load` loads.
    Raises InputError where a source does not serve.
    """
    material = draw(
        source,
        rows=options.rows,
        queries=options.queries,
        metric=options.metric,
        seed=options.seed,
        given=queries,
        reporter=reporter,
        load=load,
    )
    trials = _trials(material, list(_measured(material, options, reporter)), options.confidence)
    recommendation = recommend(trials, options.recall, (source.name, *options.read_with), options.confidence)
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
        confidence=options.confidence,
        notes=tuple(_notes(material, source)),
    )


def fitted(vectors: Array, fit: FitOptions) -> Calibration:
    """The calibration of vectors (n, D), as a load fits it."""
    return Calibration.fit(
        vectors,
        metric=fit.metric,
        threshold=fit.threshold,
        ranges=fit.ranges,
        dimensions=fit.dimensions,
        sample_size=fit.sample_size,
        seed=fit.seed,
    )


def _measured(material: Material, options: SweepOptions, reporter: Reporter) -> Iterator[tuple[FitOptions, Measured]]:
    """Every way to search with every calibration; and each precision with its best one, every row compared."""
    truth = material.truth(options.metric, options.k)
    levels = [options.fits(dimensions) for dimensions in material.levels()]
    reporter.stage("sweep", sum(map(len, levels)))
    done = 0
    for fits in levels:
        found: list[tuple[FitOptions, Measured]] = []
        for fit in fits:
            quantized = Quantized(material, fitted(material.documents, fit))
            found += ((fit, measured) for measured in quantized.every_way(truth))
            done += 1
            reporter.advance("sweep", done)
        yield from found
        for precision in PRECISIONS:
            best = _best_fit(found, precision)
            quantized = Quantized(material, fitted(material.documents, best))
            yield from ((best, measured) for measured in quantized.every_row(truth, [precision]))
    reporter.finish("sweep")


def _best_fit(found: list[tuple[FitOptions, Measured]], rescore: str) -> FitOptions:
    """The calibration with which a precision finds the most, after any prefilter; floats need none."""
    wanted = "int8" if rescore == "float32" else rescore
    alike = ((fit, float(measured.recalls.mean())) for fit, measured in found if measured.rescore == wanted)
    return max(alike, key=lambda one: one[1])[0]


def _trials(material: Material, found: list[tuple[FitOptions, Measured]], confidence: float) -> tuple[Trial, ...]:
    trials = []
    recalls = many_intervals([measured.recalls for _, measured in found], confidence)
    for (fit, measured), recall in zip(found, recalls, strict=True):
        dimensions = fit.dimensions or material.dimensions
        result = Result(
            measured.prefilter,
            measured.rescore,
            measured.oversampling,
            exact=True,
            recall=recall,
            bytes_per_vector=bytes_per_vector(dimensions, measured.prefilter, measured.rescore),
            recalls=measured.recalls,
        )
        trials.append(Trial(fit, dimensions == material.dimensions, result, measured.candidates))
    return tuple(trials)


def _notes(material: Material, source: Source) -> Iterator[str]:
    rows = len(material.documents)
    if source.rows is not None and rows + len(material.queries) * material.held_out < source.rows - material.unusable:
        yield (
            f"{rows:,} of {source.rows:,} rows were drawn uniformly; among all of them recall is somewhat lower, "
            "for candidates most"
        )
    if material.held_out:
        yield f"the {len(material.queries):,} queries are rows that were held out; queries of another kind may differ"
    if len(material.queries) < FEW_QUERIES:
        yield f"{len(material.queries)} queries are few: figures and intervals may be off"
    if material.unusable:
        yield f"{material.unusable:,} rows were left out: they hold NaN, an infinity or nothing but zeros"
    yield "candidates come from a scan of every row; an index (HNSW) loses some of them"
    yield "tried is what Postgres can hold; Qdrant makes its own codes: load a collection there and measure that"
