"""The charts of an evaluation or a sweep as one image, drawn with matplotlib."""

from __future__ import annotations

import os
from typing import Any

from qvec.drift_statistics import Drift
from qvec.errors import InputError, MissingExtraError
from qvec.evaluation.charts import Axis, Chart, Series, charts_of, title_of
from qvec.evaluation.evaluation_results import Evaluation, Sweep
from qvec.evaluation.svg import place_labels

_COLUMNS = 2
_COLOURS = ("#0b67b2", "#c2410c", "#0b7a4b", "#a21caf", "#8a6100", "#4b5563", "#0e7490", "#b91c4b")
_MARKERS = "os^D"
_WIDTH, _HEIGHT = 400, 270
"""Size of one chart's axes in points."""
_ALIGNMENTS = {"start": "left", "middle": "center", "end": "right"}


def write_plot(path: str | os.PathLike[str], found: Evaluation | Sweep, statistics: Drift | None = None) -> None:
    """Write the charts of an evaluation or a sweep as one image: .png, .svg or .pdf, by the name of the file.

    Raise MissingExtraError without matplotlib, and InputError if the file cannot be written.
    """
    figure = _figure(title_of(found), charts_of(found, statistics))
    try:
        figure.savefig(path, dpi=150, facecolor="white")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write the plot {os.fspath(path)}: {error}") from None


def _figure(title: str, charts: list[Chart]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plots") from None
    rows = -(-len(charts) // _COLUMNS)
    figure = Figure(figsize=(6.4 * _COLUMNS, 4.4 * rows), layout="constrained")
    figure.suptitle(title, fontsize=15, fontweight="bold")
    for number, chart in enumerate(charts):
        _draw(figure.add_subplot(rows, _COLUMNS, number + 1), chart)
    return figure


def _draw(axes: Any, chart: Chart) -> None:
    for number, series in enumerate(chart.series):
        _draw_series(axes, chart, series, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
    _scale(axes.xaxis, axes.set_xlim, chart.x)
    _scale(axes.yaxis, axes.set_ylim, chart.y)
    _draw_labels(axes, chart)
    axes.set_title(chart.title, loc="left", fontweight="bold")
    axes.set_xlabel(chart.x.label)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.needs_legend:
        axes.legend(frameon=False, fontsize="small")


def _draw_series(axes: Any, chart: Chart, series: Series, colour: str, marker: str) -> None:
    x = [chart.x.transformed(point.x) for point in series.points]
    y = [chart.y.transformed(point.y) for point in series.points]
    low, high = ([chart.y.transformed(point.bounds[end]) for point in series.points] for end in (0, 1))
    if series.style == "bars":
        axes.bar(x, high, width=0.9 * (x[1] - x[0]), color=colour, label=series.name)
    elif series.style == "band":
        axes.fill_between(x, low, high, color=colour, alpha=0.35, linewidth=0, label=series.name)
    elif series.style == "curve":
        axes.plot(x, y, color=colour, label=series.name)
    else:
        axes.vlines(x, low, high, color=colour, alpha=0.5)
        axes.plot(x, y, marker, linestyle="-" if series.style == "line" else "", color=colour, label=series.name)


def _draw_labels(axes: Any, chart: Chart) -> None:
    points = [
        (chart.x.position(point.x) * _WIDTH, (1 - chart.y.position(point.y)) * _HEIGHT, point.label)
        for point in chart.marked_points
    ]
    for label in place_labels(points, (0, 0, _WIDTH, _HEIGHT)):
        x, y = label.x / _WIDTH, 1 - label.y / _HEIGHT
        axes.text(x, y, label.text, ha=_ALIGNMENTS[label.anchor], fontsize="small", transform=axes.transAxes)


def _scale(axis: Any, set_limits: Any, scale: Axis) -> None:
    """Set the chart's own ticks and limits, for points that are transformed already."""
    ticks = scale.ticks()
    set_limits(scale.transformed(scale.low), scale.transformed(scale.high))
    axis.set_ticks([scale.transformed(value) for value, _ in ticks], [text for _, text in ticks])
