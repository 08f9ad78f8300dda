"""The charts of an evaluation or a sweep as data, which `svg` draws into the report and `plots` into an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qvec.calibration import Calibration
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.drift_statistics import Drift
from qvec.evaluation.evaluation_results import NONE, Evaluation, Result, Sweep, Trial
from qvec.prefilter_levels import DEFAULT_PREFILTER

Scale = Literal["linear", "doubling", "log", "recall", "share"]

_RECALL_TICKS = (1, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0)
_TICK_DISTANCE = 0.07
"""Smallest distance of two ticks, as a share of the axis."""
_MAX_EVEN_RATIO = 5
"""Up to this ratio of its ends, a log axis has ticks at even steps."""
_STRETCHED = "The scale is stretched towards 100%."
_BALANCE_BINS = 40


@dataclass(frozen=True)
class Point:
    """A point; `low` and `high` bound its y, `label` is written beside it, and `tooltip` says more."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    tooltip: str = ""

    @property
    def bounds(self) -> tuple[float, float]:
        """`low` and `high`, which default to `y`."""
        return self.y if self.low is None else self.low, self.y if self.high is None else self.high


@dataclass(frozen=True)
class Series:
    """Points of one kind: with markers, joined ("line") or not ("dots"); joined without markers ("curve"); or as bars
    or a band from `low` to `high`."""

    name: str
    points: tuple[Point, ...]
    style: Literal["line", "dots", "curve", "bars", "band"] = "line"


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`.

    Scale recall is 1 - sqrt(1 - y), which stretches values near 100%, and has ticks in percent; share is linear with
    ticks in percent; log has ticks at powers of ten, twos, threes and fives; doubling at powers of two.
    """

    label: str
    low: float
    high: float
    scale: Scale = "linear"

    def position(self, value: float) -> float:
        """Return the position of a value, 0 at `low` and 1 at `high`."""
        low, high = self.transformed(self.low), self.transformed(self.high)
        return (self.transformed(value) - low) / (high - low)

    def transformed(self, value: float) -> float:
        """Return a value on the scale that is linear on paper."""
        if self.scale in ("doubling", "log"):
            return math.log(value)
        return -math.sqrt(max(1 - value, 0)) if self.scale == "recall" else value

    def ticks(self) -> list[tuple[float, str]]:
        """Return the values to mark and their labels, none too near another."""
        found: list[float] = []
        for value in self._candidate_ticks():
            if self.low - 1e-9 <= value <= self.high + 1e-9 and all(
                abs(self.position(value) - self.position(other)) >= _TICK_DISTANCE for other in found
            ):
                found.append(value)
        return [(value, self._tick_label(value)) for value in sorted(found)]

    def _candidate_ticks(self) -> Iterator[float]:
        """Values to mark, by falling priority."""
        if self.scale == "recall":
            yield from _RECALL_TICKS
        elif self.scale == "doubling":
            yield from (2.0**power for power in range(20))
        elif self.scale == "log" and self.high > _MAX_EVEN_RATIO * self.low:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            yield from (factor * 10.0**power for factor in (1, 3, 2, 5) for power in powers)
        else:
            step = _even_step(self.high - self.low)
            first = math.ceil(self.low / step - 1e-9)
            yield from (step * count for count in range(first, math.floor(self.high / step + 1e-9) + 1))

    def _tick_label(self, value: float) -> str:
        if self.scale in ("recall", "share"):
            return f"{100 * value:g}%"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Chart:
    """A chart with its title and a caption on how to read it."""

    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]

    @property
    def needs_legend(self) -> bool:
        """Whether the label of the y axis does not name the series already."""
        return [series.name for series in self.series] != [self.y.label]

    @property
    def marked_points(self) -> Iterator[Point]:
        """The points that have markers."""
        return (point for series in self.series if series.style in ("dots", "line") for point in series.points)


def axis_around(label: str, values: Sequence[float], scale: Scale = "linear") -> Axis:
    """Return an axis that holds all values, with some room at both ends; without values, it holds 1."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    if scale in ("doubling", "log"):
        room = max((high / low) ** 0.06, 1.1)
        return Axis(label, low / room, high * room, scale)
    if scale == "recall":
        return Axis(label, max(0.0, min(low - 0.05, 0.9)), 1.0, scale)
    room = 0.05 * (high - low or 1)
    return Axis(label, low - room, high + room, scale)


def _even_step(span: float) -> float:
    """The step of 1, 2 or 5 times a power of ten that divides a span into about five."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5 - 1e-12)


def title_of(found: Evaluation | Sweep) -> str:
    """Return the title of a report."""
    return f"What quantizing {found.source} costs" if isinstance(found, Sweep) else f"Recall of {found.collection}"


def charts_of(found: Evaluation | Sweep, statistics: Drift | None) -> list[Chart]:
    """Return the charts of an evaluation or a sweep.

    `statistics` are those of the evaluated collection's rows, against its calibration; a sweep has its own.
    """
    if isinstance(found, Sweep):
        fit = found.recommendation.trial.fit
        alike = [trial.result for trial in found.trials if trial.fit == fit and trial.loadable]
        return [
            _tradeoff(found),
            _against_oversampling(alike, found),
            _against_threshold(found),
            *calibration_charts(found.calibration, found.statistics),
        ]
    searched = [result for result in found.results if not result.is_scan]
    charts = [
        _against_bytes(searched, found),
        _against_time(searched, found),
        _against_oversampling(searched, found),
        _losses(searched),
    ]
    charts = [chart for chart in charts if chart.series]
    return charts if found.calibration is None else [*charts, *calibration_charts(found.calibration, statistics)]


def calibration_charts(calibration: Calibration, statistics: Drift | None) -> list[Chart]:
    """Return the chart of each dimension's range and, with statistics of rows, that of the bit balance."""
    ranges = _ranges(calibration)
    return [ranges] if statistics is None else [ranges, _bit_balance(statistics)]


def describe_steps(prefilter: str, rescore: str) -> str:
    """Describe a way to search in words."""
    if rescore == NONE:
        return f"{prefilter} bits alone"
    return f"{rescore}, every row" if prefilter == NONE else f"{rescore} after {prefilter}"


def percent(share: float, digits: int = 1) -> str:
    """Write a share in percent."""
    return f"{100 * share:.{digits}f}%"


def _against_bytes(results: Sequence[Result], found: Evaluation) -> Chart:
    shown = [result for result in results if result.oversampling in (None, DEFAULT_OVERSAMPLING)]
    series = []
    for prefilter in dict.fromkeys(result.prefilter for result in shown):
        points = tuple(_bytes_point(result) for result in shown if result.prefilter == prefilter)
        series.append(Series("every row" if prefilter == NONE else f"{prefilter} prefilter", points, "dots"))
    return Chart(
        f"Recall@{found.k} against bytes",
        f"{DEFAULT_OVERSAMPLING} candidates per hit; vertical lines are {found.confidence:.0%} intervals. {_STRETCHED}",
        axis_around("bytes per vector", [result.bytes_per_vector for result in shown], "log"),
        axis_around("recall", [result.recall.low for result in shown], "recall"),
        tuple(series),
    )


def _bytes_point(result: Result) -> Point:
    label = "bits alone" if result.rescore == NONE else result.rescore
    name = describe_steps(result.prefilter, result.rescore)
    tooltip = f"{name}: {percent(result.recall.value)}, {result.bytes_per_vector:,.0f} bytes"
    return Point(result.bytes_per_vector, *result.recall, label, tooltip)


def _against_time(results: Sequence[Result], found: Evaluation) -> Chart:
    timed = [(result, result.p50_ms) for result in results if result.p50_ms is not None]
    return Chart(
        f"Recall@{found.k} against time",
        "Median milliseconds of a search, one at a time; each line goes from few candidates per hit to many.",
        axis_around("milliseconds (median)", [time for _, time in timed], "log"),
        axis_around("recall", [result.recall.low for result, _ in timed], "recall"),
        _recall_series(timed),
    )


def _against_oversampling(results: Sequence[Result], found: Evaluation | Sweep) -> Chart:
    stepped = [(result, result.oversampling) for result in results if result.oversampling is not None]
    return Chart(
        f"Recall@{found.k} against oversampling",
        f"How many candidates the prefilter finds for each of {found.k} hits; they are then rescored.",
        axis_around("candidates per hit", [factor for _, factor in stepped], "doubling"),
        axis_around("recall", [result.recall.low for result, _ in stepped], "recall"),
        _recall_series(stepped),
    )


def _recall_series(pairs: Iterable[tuple[Result, float]]) -> tuple[Series, ...]:
    """The recall at each x, one series for each prefilter and precision."""
    series: dict[str, list[Point]] = {}
    for result, x in pairs:
        name = describe_steps(result.prefilter, result.rescore)
        candidates = "" if result.oversampling is None else f" with {result.oversampling:g} candidates per hit"
        tooltip = f"{name}{candidates}: {percent(result.recall.value)}"
        series.setdefault(name, []).append(Point(x, *result.recall, tooltip=tooltip))
    return tuple(Series(name, tuple(points), "line" if len(points) > 1 else "dots") for name, points in series.items())


def _losses(results: Sequence[Result]) -> Chart:
    """Where the collection's own search loses recall, at each oversampling."""
    own = results[0].prefilter, results[0].rescore
    found = [
        (result.oversampling, result.loss)
        for result in results
        if result.oversampling is not None and result.loss is not None and (result.prefilter, result.rescore) == own
    ]
    steps: dict[str, list[tuple[float, float | None]]] = {
        "the index": [(x, loss.index) for x, loss in found],
        "the prefilter": [(x, loss.prefilter) for x, loss in found],
        "the precision": [(x, loss.rescore) for x, loss in found],
    }
    series = []
    for name, losses in steps.items():
        points = tuple(Point(x, y, tooltip=f"{name}: {percent(y, 2)}") for x, y in losses if y is not None)
        series += [Series(name, points)] if points else []
    return Chart(
        "Where recall is lost",
        f"By {describe_steps(*own)}: in the graph, in the bits that choose candidates, in the codes that rank them.",
        axis_around("candidates per hit", [x for x, _ in found], "doubling"),
        axis_around("recall lost", [0.0, *(point.y for each in series for point in each.points)], "share"),
        tuple(series),
    )


def _tradeoff(found: Sweep) -> Chart:
    """Every way to search with its best calibration, for each number of dimensions."""
    best: dict[tuple[int, str, str], Trial] = {}
    for trial in found.trials:
        key = (trial.dimensions, trial.result.prefilter, trial.result.rescore)
        if trial.loadable and trial.result.oversampling == DEFAULT_OVERSAMPLING:
            best[key] = max(best.get(key, trial), trial, key=lambda each: each.result.recall.value)
    labelled = set(map(id, found.pareto))
    series = []
    for dimensions in dict.fromkeys(trial.dimensions for trial in best.values()):
        points = (_trial_point(each, id(each) in labelled) for each in best.values() if each.dimensions == dimensions)
        series.append(Series(f"{dimensions} dimensions", tuple(points), "dots"))
    return Chart(
        f"Recall@{found.k} against bytes",
        f"Each with its best calibration and {DEFAULT_OVERSAMPLING} candidates per hit; labels are on those that no "
        f"other beats in both. {_STRETCHED}",
        axis_around("bytes per vector", [each.result.bytes_per_vector for each in best.values()], "log"),
        axis_around("recall", [each.result.recall.value for each in best.values()], "recall"),
        tuple(series),
    )


def _trial_point(trial: Trial, labelled: bool) -> Point:
    result = trial.result
    tooltip = (
        f"{describe_steps(result.prefilter, result.rescore)}, {trial.dimensions} dimensions: "
        f"{percent(result.recall.value)}, {result.bytes_per_vector:,.0f} bytes"
    )
    label = f"{result.rescore} / {result.prefilter}" if labelled else ""
    return Point(result.bytes_per_vector, result.recall.value, label=label, tooltip=tooltip)


def _against_threshold(found: Sweep) -> Chart:
    """The recall of each prefilter's candidates, by the share of the mean that the threshold is."""
    fit = found.recommendation.trial.fit
    series = []
    for prefilter in (DEFAULT_PREFILTER, "binary"):
        points = tuple(
            Point(trial.fit.threshold, trial.candidates, tooltip=f"{prefilter}: {percent(trial.candidates)}")
            for trial in found.trials
            if trial.candidates is not None
            and trial.result.name == f"{prefilter}/int8/{DEFAULT_OVERSAMPLING}/scan"
            and (trial.fit.ranges, trial.dimensions) == (fit.ranges, fit.dimensions)
        )
        series.append(Series(f"{prefilter} prefilter", points))
    return Chart(
        "Candidates against the threshold",
        f"Share of the nearest {found.k} among {DEFAULT_OVERSAMPLING} candidates per hit, by how much of the mean is "
        "subtracted before bits are taken.",
        axis_around("threshold, share of the mean", [0.0, 1.0]),
        axis_around("recall", [point.y for each in series for point in each.points], "recall"),
        tuple(series),
    )


def _ranges(calibration: Calibration) -> Chart:
    low, high = calibration.threshold - calibration.radius, calibration.threshold + calibration.radius
    bounds = zip(calibration.threshold.tolist(), low.tolist(), high.tolist(), strict=True)
    points = tuple(Point(float(at), *each) for at, each in enumerate(bounds))
    mean = tuple(Point(float(at), value) for at, value in enumerate(calibration.mean.tolist()))
    return Chart(
        "Ranges of the calibration",
        "The range of each dimension's codes, threshold ± radius, with the mean; values beyond it are clipped.",
        axis_around("dimension", [0.0, float(max(calibration.dimensions - 1, 1))]),
        axis_around("value", [float(low.min()), float(high.max())]),
        (Series("range", points, "band"), Series("mean", mean, "curve")),
    )


def _bit_balance(statistics: Drift) -> Chart:
    """A histogram of the dimensions by the share of rows with the bit set."""
    counts, edges = np.histogram(statistics.bit_balance, bins=_BALANCE_BINS, range=(0, 1))
    bins = zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    points = tuple(
        Point((left + right) / 2, count, 0.0, count, tooltip=f"{left:.1%} to {right:.1%}: {count} dimensions")
        for count, left, right in bins
    )
    return Chart(
        "Bit balance of the calibration",
        f"The share of {statistics.count:,} rows in which a dimension's sign bit is set; a bit says most at 50%.",
        Axis("rows with the bit set", 0.0, 1.0, "share"),
        Axis("dimensions", 0.0, 1.05 * float(counts.max())),
        (Series("dimensions", points, "bars"),),
    )
