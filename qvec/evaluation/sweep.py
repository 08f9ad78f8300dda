"""The sweep: what calibrations, precisions and dimensions cost for the vectors of a source, without a database."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product

from qvec.calibration import Calibration, Metric
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.errors import InputError
from qvec.evaluation.dataset import FEW_QUERIES
from qvec.evaluation.evaluation_results import Recommendation, Result, Sweep, Trial
from qvec.evaluation.metrics import CONFIDENCE, compare, confidence_interval, confidence_intervals, lower_bound
from qvec.evaluation.sample import Floats, LoadEmbedder, Sample, draw_sample
from qvec.evaluation.scan import SAMPLE_PRECISIONS, Measurement, QuantizedSample
from qvec.ingest.load_options import FitOptions, Reporter, default_ranges
from qvec.precisions import code_table_bytes
from qvec.ranges import RangeMethod
from qvec.sources import Source

THRESHOLDS = (0.0, 0.25, 0.5, 0.75, 1.0)
_METHODS = (
    RangeMethod("quantile"),
    RangeMethod("quantile", quantile=0.99),  # clips one value in a hundred, so the few levels of int4 are finer
    RangeMethod("minmax"),
    RangeMethod("rolling"),
)
RANGES = tuple(replace(method, per_dimension=each) for method in _METHODS for each in (True, False))
_MAX_OVERSAMPLINGS = (DEFAULT_OVERSAMPLING, 8, 16)
_SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class SweepOptions:
    """What to try, and on how much data.

    `recall` is the target of the recommendation, to be reached with `confidence`. `rows` defaults to 50,000 vectors or
    10,000 texts. `fixed` is a range given by the model's author, tried beside the other methods.
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
    """Options of `qvec ingest` to read the source, for the recommended command."""

    def __post_init__(self) -> None:
        if not 0 < self.recall <= 1:
            raise InputError(f"recall is {self.recall}, expected a share above 0 and at most 1")
        for name in ("k", "rows", "queries"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}, expected at least 1")

    def fits(self, dimensions: int) -> list[FitOptions]:
        """Return the calibrations to try in this number of dimensions."""
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
    load: LoadEmbedder | None = None,
) -> Sweep:
    """Try every calibration, precision and dimension on a uniform sample of a source, against exact float32 search.

    Queries are held-out rows or come from `queries`. `load` loads the model that embeds texts. Raise InputError if a
    source cannot be sampled.
    """
    sample = draw_sample(
        source,
        rows=options.rows,
        queries=options.queries,
        metric=options.metric,
        seed=options.seed,
        reporter=reporter,
        query_source=queries,
        load=load,
    )
    trials = _trials(sample, list(_measure(sample, options, reporter)), options.confidence)
    recommendation = recommend(trials, options.recall, (source.name, *options.read_with), options.confidence)
    calibration = _fit(sample.rows, recommendation.trial.fit)
    return Sweep(
        source=source.name,
        rows=len(sample.rows),
        queries=len(sample.queries),
        k=options.k,
        trials=trials,
        pareto=pareto_front(trials),
        recommendation=recommendation,
        calibration=calibration,
        statistics=calibration.drift(sample.rows),
        confidence=options.confidence,
        notes=tuple(_notes(sample, source)),
    )


def _fit(vectors: Floats, fit: FitOptions) -> Calibration:
    return Calibration.fit(vectors, **vars(fit))


def _measure(sample: Sample, options: SweepOptions, reporter: Reporter) -> Iterator[tuple[FitOptions, Measurement]]:
    """Measure all configurations with all calibrations, and each precision alone with its best calibration."""
    truth = sample.ground_truth(options.metric, options.k)
    fits_by_prefix = [options.fits(dimensions) for dimensions in sample.prefixes()]
    reporter.stage("sweep", sum(map(len, fits_by_prefix)))
    done = 0
    for fits in fits_by_prefix:
        found: list[tuple[FitOptions, Measurement]] = []
        for fit in fits:
            quantized = QuantizedSample(sample, _fit(sample.rows, fit))
            found += ((fit, measurement) for measurement in quantized.measure_all(truth))
            done += 1
            reporter.advance("sweep", done)
        yield from found
        for precision in SAMPLE_PRECISIONS:
            fit = _best_fit(found, precision)
            yield fit, QuantizedSample(sample, _fit(sample.rows, fit)).measure_exact(truth, precision)
    reporter.finish("sweep")


def _best_fit(found: list[tuple[FitOptions, Measurement]], rescore: str) -> FitOptions:
    """The calibration with the highest recall of a precision after any prefilter; for float32 any will do."""
    wanted = "int8" if rescore == "float32" else rescore
    alike = ((fit, float(measurement.recalls.mean())) for fit, measurement in found if measurement.rescore == wanted)
    return max(alike, key=lambda each: each[1])[0]


def _trials(sample: Sample, found: Sequence[tuple[FitOptions, Measurement]], confidence: float) -> tuple[Trial, ...]:
    trials = []
    recalls = confidence_intervals([measurement.recalls for _, measurement in found], confidence)
    for (fit, measurement), recall in zip(found, recalls, strict=True):
        dimensions = fit.dimensions or sample.dimensions
        result = Result(
            measurement.prefilter,
            measurement.rescore,
            measurement.oversampling,
            exact=True,
            recall=recall,
            bytes_per_vector=code_table_bytes(dimensions, measurement.prefilter, measurement.rescore),
            recalls=measurement.recalls,
        )
        trials.append(Trial(fit, dimensions == sample.dimensions, result, measurement.candidates))
    return tuple(trials)


def _notes(sample: Sample, source: Source) -> Iterator[str]:
    rows, queries = len(sample.rows), len(sample.queries)
    if source.rows is not None and rows + queries * sample.held_out < source.rows - sample.unusable:
        yield (
            f"{rows:,} of {source.rows:,} rows were drawn uniformly; among all rows recall is somewhat lower, most of "
            "all that of candidates"
        )
    if sample.held_out:
        yield f"the {queries:,} queries are held-out rows; queries of another kind may differ"
    if queries < FEW_QUERIES:
        yield f"{queries} queries are few: figures and intervals may be off"
    if sample.unusable:
        yield f"{sample.unusable:,} rows were left out: they hold NaN, an infinity or only zeros"
    yield "candidates come from a scan of every row; an index (HNSW) loses some of them"
    yield (
        "the sweep tries what Postgres can store; Qdrant makes its own codes, so load a collection there and measure it"
    )


def pareto_front(trials: Iterable[Trial], oversampling: float = DEFAULT_OVERSAMPLING) -> tuple[Trial, ...]:
    """Return the trials with this oversampling that no other beats in both bytes and recall, by ascending bytes."""
    front: list[Trial] = []
    comparable = (trial for trial in trials if trial.loadable and trial.result.oversampling == oversampling)
    for trial in sorted(comparable, key=lambda each: (each.result.bytes_per_vector, -each.result.recall.value)):
        if not front or trial.result.recall.value > front[-1].result.recall.value:
            front.append(trial)
    return tuple(front)


def recommend(
    trials: Iterable[Trial], target: float, source: Sequence[str], confidence: float = CONFIDENCE
) -> Recommendation:
    """Recommend the trial with the fewest bytes whose recall reaches the target with confidence.

    Trials with an oversampling of at most DEFAULT_OVERSAMPLING come first, then those with 8, then 16. If none reaches
    the target, take the one with the highest recall. Among calibrations that differ only by chance, take the one
    nearest the default.

    Every second query is used to choose, and the recall reported is that of the others: the best of thousands of
    trials looks better than it is to the queries that chose it. `source` is the source's name with the options to read
    it, for the command.
    """
    loadable = [trial for trial in trials if trial.loadable]
    reaching = next(_reaching(loadable, target, confidence), [])
    chosen = _plainest(reaching or _highest(loadable))
    recall = confidence_interval(chosen.result.recalls[1::2], confidence)
    return Recommendation(chosen, recall, target, bool(reaching), ingest_command(chosen, source))


def ingest_command(trial: Trial, source: Sequence[str]) -> str:
    """Return the `qvec ingest` command that loads a source, given with the options to read it, like a trial."""
    fit, result = trial.fit, trial.result
    options = {"threshold": f"{fit.threshold:g}", "ranges": fit.ranges.name}
    if fit.ranges.name == "quantile":
        options["quantile"] = f"{fit.ranges.quantile:g}"
    if isinstance(fit.ranges.value, float):
        options["range"] = f"{fit.ranges.value:g}"
    if not fit.ranges.per_dimension:
        options["global-range"] = ""
    if not trial.whole:
        options["dimensions"] = str(trial.dimensions)
    if fit.metric != FitOptions().metric:
        options["metric"] = fit.metric
    options |= {"rescore": result.rescore, "prefilter": result.prefilter, "oversampling": f"{result.oversampling:g}"}
    words = [word for name, value in options.items() for word in (f"--{name}", value) if word]
    return shlex.join(["qvec", "ingest", *source, "--collection", "NAME", *words])


def _reaching(loadable: Sequence[Trial], target: float, confidence: float) -> Iterator[list[Trial]]:
    """Groups of trials of the same cost that reach the target, the fewest bytes first for each oversampling limit."""
    ordered = sorted(loadable, key=_cost)
    for limit in _MAX_OVERSAMPLINGS:
        for (_, oversampling), group in groupby(ordered, _cost):
            if oversampling <= limit:
                found = [trial for trial in group if _reaches(trial, target, confidence)]
                yield from [found] if found else []


def _highest(loadable: Sequence[Trial]) -> list[Trial]:
    """The trial with the highest recall, and those of the same cost."""
    cost = _cost(max(loadable, key=_choosing_recall))
    return [trial for trial in loadable if _cost(trial) == cost]


def _plainest(equals: Sequence[Trial]) -> Trial:
    """The trial nearest the defaults among those that are not significantly worse than the best."""
    best = max(equals, key=_choosing_recall)
    near = [
        trial
        for trial in equals
        if trial is best or compare(best.result.recalls[::2], trial.result.recalls[::2]).p_value >= _SIGNIFICANCE
    ]
    return min(near, key=lambda trial: (_departures(trial), -_choosing_recall(trial)))


def _departures(trial: Trial) -> int:
    """The number of fit options that differ from the defaults of a load."""
    fit, default = trial.fit, FitOptions(ranges=default_ranges(trial.result.rescore))
    names = ("name", "quantile", "per_dimension")
    differs = [getattr(fit.ranges, name) != getattr(default.ranges, name) for name in names]
    return sum([fit.threshold != default.threshold, *differs])


def _reaches(trial: Trial, target: float, confidence: float) -> bool:
    return _choosing_recall(trial) >= target and lower_bound(trial.result.recalls[::2], confidence) >= target


def _choosing_recall(trial: Trial) -> float:
    """The recall by the queries that are used to choose."""
    return float(trial.result.recalls[::2].mean())


def _cost(trial: Trial) -> tuple[float, float]:
    return trial.result.bytes_per_vector, trial.result.oversampling or 0
