"""The charts of what was found: recall against bytes, time, oversampling and calibration; and a calibration itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from qvec.calibration import Calibration
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.drift import Drift
from qvec.evaluation.charts import Axis, Chart, Point, Series, around
from qvec.evaluation.results import NONE, Evaluation, Result
from qvec.evaluation.trials import Sweep, Trial

_STRETCHED = "The scale is stretched towards 100%."
_BALANCE_BINS = 40


def title_of(found: Evaluation | Sweep) -> str:
    return f"What quantizing {found.source} costs" if isinstance(found, Sweep) else f"Recall of {found.collection}"


def charts_of(found: Evaluation | Sweep, statistics: Drift | None) -> list[Chart]:
    """All charts; `statistics` are of a collection's rows, against its calibration."""
    return of_sweep(found) if isinstance(found, Sweep) else of_evaluation(found, statistics)


def of_evaluation(found: Evaluation, statistics: Drift | None) -> list[Chart]:
    """The charts of a collection; `statistics` are of its rows, against its calibration."""
    searched = [result for result in found.results if not (result.exact and result.prefilter != NONE)]
    charts = [
        _against_bytes(searched, found),
        _against_time(searched, found),
        _against_oversampling(searched, found),
        _losses(searched),
    ]
    charts = [chart for chart in charts if chart.series]
    if found.calibration is not None:
        charts += of_calibration(found.calibration, statistics)
    return charts


def of_sweep(found: Sweep) -> list[Chart]:
    """The charts of a sweep: of all trials, of those with the calibration that is recommended, and of that one."""
    fit = found.recommendation.trial.fit
    alike = [trial.result for trial in found.trials if trial.fit == fit and trial.loadable]
    return [
        _tradeoff(found),
        _against_oversampling(alike, found),
        _against_threshold(found),
        *of_calibration(found.calibration, found.statistics),
    ]


def of_calibration(calibration: Calibration, statistics: Drift | None) -> list[Chart]:
    """Each dimension's range, and how evenly its sign bit splits the rows."""
    ranges = _ranges(calibration)
    return [ranges] if statistics is None else [ranges, _bit_balance(statistics)]


def name_of(prefilter: str, rescore: str) -> str:
    """A way to search in words."""
    if rescore == NONE:
        return f"{prefilter} bits alone"
    return f"{rescore}, every row" if prefilter == NONE else f"{rescore} after {prefilter}"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def _against_bytes(results: Sequence[Result], found: Evaluation) -> Chart:
    shown = [result for result in results if result.oversampling in (None, DEFAULT_OVERSAMPLING)]
    series = []
    for prefilter in dict.fromkeys(result.prefilter for result in shown):
        points = tuple(_bytes_point(result) for result in shown if result.prefilter == prefilter)
        series.append(Series("every row" if prefilter == NONE else f"{prefilter} prefilter", points, "dots"))
    return Chart(
        f"Recall@{found.k} against bytes",
        f"{DEFAULT_OVERSAMPLING} candidates a hit; lines at points are {found.confidence:.0%} intervals. {_STRETCHED}",
        around("bytes a vector", [result.bytes_per_vector for result in shown], "log"),
        around("recall", [result.recall.low for result in shown], "recall"),
        tuple(series),
    )


def _bytes_point(result: Result) -> Point:
    label = "bits alone" if result.rescore == NONE else result.rescore
    name = name_of(result.prefilter, result.rescore)
    told = f"{name}: {percent(result.recall.value)}, {result.bytes_per_vector:,.0f} bytes"
    return Point(result.bytes_per_vector, result.recall.value, result.recall.low, result.recall.high, label, told)


def _against_time(results: Sequence[Result], found: Evaluation) -> Chart:
    timed = [(result, result.p50_ms) for result in results if result.p50_ms is not None]
    return Chart(
        f"Recall@{found.k} against time",
        "Median milliseconds a search, one at a time; along a line more and more candidates a hit.",
        around("milliseconds (median)", [time for _, time in timed], "log"),
        around("recall", [result.recall.low for result, _ in timed], "recall"),
        _by_way((result, time) for result, time in timed),
    )


def _against_oversampling(results: Sequence[Result], found: Evaluation | Sweep) -> Chart:
    stepped = [(result, result.oversampling) for result in results if result.oversampling is not None]
    return Chart(
        f"Recall@{found.k} against oversampling",
        f"Candidates that the prefilter finds for each of {found.k} hits, then rescored.",
        around("candidates a hit", [factor for _, factor in stepped], "doubling"),
        around("recall", [result.recall.low for result, _ in stepped], "recall"),
        _by_way((result, factor) for result, factor in stepped),
    )


def _losses(results: Sequence[Result]) -> Chart:
    """Where the collection's own search loses recall, at each oversampling."""
    own = results[0].prefilter, results[0].rescore
    found = [
        (result.oversampling, result.loss)
        for result in results
        if result.oversampling is not None and result.loss is not None and (result.prefilter, result.rescore) == own
    ]
    parts: dict[str, list[tuple[float, float | None]]] = {
        "the index": [(x, loss.index) for x, loss in found],
        "the prefilter": [(x, loss.prefilter) for x, loss in found],
        "the precision": [(x, loss.rescore) for x, loss in found],
    }
    series = tuple(
        Series(name, tuple(Point(x, lost, told=f"{name}: {percent(lost, 2)}") for x, lost in line if lost is not None))
        for name, line in parts.items()
    )
    shown = tuple(one for one in series if one.points)
    return Chart(
        "Where recall is lost",
        f"Of {name_of(*own)}: by the graph, by the bits that choose candidates, and by the codes that rank them.",
        around("candidates a hit", [x for x, _ in found], "doubling"),
        around("recall lost", [0.0, *(point.y for one in shown for point in one.points)], "share"),
        shown,
    )


def _by_way(pairs: Iterable[tuple[Result, float]]) -> tuple[Series, ...]:
    """One series for each way to search, of its recall at each x."""
    ways: dict[str, list[Point]] = {}
    for result, x in pairs:
        name = name_of(result.prefilter, result.rescore)
        candidates = "" if result.oversampling is None else f" at {result.oversampling:g} candidates a hit"
        told = f"{name}{candidates}: {percent(result.recall.value)}"
        ways.setdefault(name, []).append(
            Point(x, result.recall.value, result.recall.low, result.recall.high, told=told)
        )
    return tuple(Series(name, tuple(points), "line" if len(points) > 1 else "dots") for name, points in ways.items())


def _tradeoff(found: Sweep) -> Chart:
    """At each number of dimensions the best calibration of every way, and the line that none is beyond."""
    best: dict[tuple[int, str, str], Trial] = {}
    for trial in found.trials:
        key = (trial.dimensions, trial.result.prefilter, trial.result.rescore)
        if trial.loadable and trial.result.oversampling == DEFAULT_OVERSAMPLING:
            best[key] = max(best.get(key, trial), trial, key=lambda one: one.result.recall.value)
    labelled = {id(trial) for trial in found.pareto}
    series = []
    for dimensions in dict.fromkeys(trial.dimensions for trial in best.values()):
        points = tuple(_trial_point(one, id(one) in labelled) for one in best.values() if one.dimensions == dimensions)
        series.append(Series(f"{dimensions} dimensions", points, "dots"))
    return Chart(
        f"Recall@{found.k} against bytes",
        f"Each with its best calibration, {DEFAULT_OVERSAMPLING} candidates a hit; named are those that no other beats "
        f"in both. {_STRETCHED}",
        around("bytes a vector", [one.result.bytes_per_vector for one in best.values()], "log"),
        around("recall", [one.result.recall.value for one in best.values()], "recall"),
        tuple(series),
    )


def _trial_point(trial: Trial, labelled: bool) -> Point:
    result = trial.result
    told = (
        f"{name_of(result.prefilter, result.rescore)}, {trial.dimensions} dimensions: {percent(result.recall.value)}, "
        f"{result.bytes_per_vector:,.0f} bytes"
    )
    label = f"{result.rescore} / {result.prefilter}" if labelled else ""
    return Point(result.bytes_per_vector, result.recall.value, label=label, told=told)


def _against_threshold(found: Sweep) -> Chart:
    """The candidates that each prefilter finds, by the share of the mean that the threshold is."""
    fit = found.recommendation.trial.fit
    series = []
    for prefilter in ("ternary", "binary"):
        points = tuple(
            Point(trial.fit.threshold, trial.candidates, told=f"{prefilter}: {percent(trial.candidates)}")
            for trial in found.trials
            if trial.candidates is not None
            and (trial.result.prefilter, trial.result.rescore) == (prefilter, "int8")
            and trial.result.oversampling == DEFAULT_OVERSAMPLING
            and (trial.fit.ranges, trial.dimensions) == (fit.ranges, fit.dimensions)
        )
        series.append(Series(f"{prefilter} prefilter", points))
    return Chart(
        "Candidates against the threshold",
        f"Share of the nearest {found.k} among {DEFAULT_OVERSAMPLING} candidates a hit, by how much of the mean is "
        "subtracted before bits are taken.",
        around("threshold, share of the mean", [0.0, 1.0]),
        around("recall", [point.y for one in series for point in one.points], "recall"),
        tuple(series),
    )


def _ranges(calibration: Calibration) -> Chart:
    low, high = calibration.threshold - calibration.radius, calibration.threshold + calibration.radius
    points = tuple(
        Point(
            float(dimension),
            float(calibration.threshold[dimension]),
            float(low[dimension]),
            float(high[dimension]),
        )
        for dimension in range(calibration.dimensions)
    )
    mean = tuple(Point(float(at), float(value)) for at, value in enumerate(calibration.mean))
    return Chart(
        "Ranges of the calibration",
        "What each dimension's codes reach, threshold ± radius, with the mean; values beyond are clipped.",
        around("dimension", [0.0, float(max(calibration.dimensions - 1, 1))]),
        around("value", [float(low.min()), float(high.max())]),
        (Series("range", points, "band"), Series("mean", mean, "curve")),
    )


def _bit_balance(statistics: Drift) -> Chart:
    """A histogram: how many dimensions have which share of rows with the bit set."""
    counts, edges = np.histogram(statistics.bit_balance, bins=_BALANCE_BINS, range=(0, 1))
    points = tuple(
        Point(
            (left + right) / 2,
            float(count),
            low=0.0,
            high=float(count),
            told=f"{left:.1%} to {right:.1%}: {count} dimensions",
        )
        for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    )
    return Chart(
        "Bit balance of the calibration",
        f"In what share of {statistics.count:,} rows a dimension's sign bit is set; at 50% a bit tells the most.",
        Axis("rows with the bit set", 0.0, 1.0, "share"),
        Axis("dimensions", 0.0, 1.05 * float(counts.max())),
        (Series("dimensions", points, "bars"),),
    )
