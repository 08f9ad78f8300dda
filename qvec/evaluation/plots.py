"""The charts of an evaluation or a sweep as one picture, drawn with matplotlib."""

from __future__ import annotations

import os
from typing import Any

from qvec.drift import Drift
from qvec.errors import InputError, MissingExtraError
from qvec.evaluation import pictures
from qvec.evaluation.charts import Axis, Chart, Series
from qvec.evaluation.labels import place
from qvec.evaluation.results import Evaluation
from qvec.evaluation.trials import Sweep

_COLUMNS = 2
_COLOURS = ("#0b67b2", "#c2410c", "#0b7a4b", "#a21caf", "#8a6100", "#4b5563", "#0e7490", "#b91c4b")
_MARKERS = "os^D"
_WIDTH, _HEIGHT = 400, 270
"""Of one chart's axes, in points."""
_SIDES = {"start": "left", "middle": "center", "end": "right"}


def write_plot(path: str | os.PathLike[str], found: Evaluation | Sweep, statistics: Drift | None = None) -> None:
    """Writes the charts of an evaluation or a sweep as one picture: .png, .svg or .pdf, by the file's name.

    Raises MissingExtraError without matplotlib, InputError where the file cannot be written.
    """
    figure = _figure(pictures.title_of(found), pictures.charts_of(found, statistics))
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
    _label(axes, chart)
    axes.set_title(chart.title, loc="left", fontweight="bold")
    axes.set_xlabel(chart.x.label)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if chart.needs_legend:
        axes.legend(frameon=False, fontsize="small")


def _draw_series(axes: Any, chart: Chart, series: Series, colour: str, mark: str) -> None:
    points = series.points
    x = [chart.x.transformed(point.x) for point in points]
    y = [chart.y.transformed(point.y) for point in points]
    low = [chart.y.transformed(point.y if point.low is None else point.low) for point in points]
    high = [chart.y.transformed(point.y if point.high is None else point.high) for point in points]
    if series.style == "bars":
        axes.bar(x, high, width=0.9 * (x[1] - x[0]), color=colour, label=series.name)
    elif series.style == "band":
        axes.fill_between(x, low, high, color=colour, alpha=0.35, linewidth=0, label=series.name)
    elif series.style == "curve":
        axes.plot(x, y, color=colour, label=series.name)
    else:
        axes.vlines(x, low, high, color=colour, alpha=0.5)
        axes.plot(x, y, mark, linestyle="-" if series.style == "line" else "", color=colour, label=series.name)


def _label(axes: Any, chart: Chart) -> None:
    marked = [point for series in chart.series if series.style in ("dots", "line") for point in series.points]
    places = [
        (chart.x.position(point.x) * _WIDTH, (1 - chart.y.position(point.y)) * _HEIGHT, point.label) for point in marked
    ]
    for label in place(places, (0, 0, _WIDTH, _HEIGHT)):
        x, y = label.x / _WIDTH, 1 - label.y / _HEIGHT
        axes.text(x, y, label.text, ha=_SIDES[label.anchor], fontsize="small", transform=axes.transAxes)


def _scale(axis: Any, limit: Any, scale: Axis) -> None:
    """Ticks, limits and spacing as the chart has them: the points come on the scale that is even on paper."""
    ticks = scale.ticks()
    limit(scale.transformed(scale.low), scale.transformed(scale.high))
    axis.set_ticks([scale.transformed(value) for value, _ in ticks], [text for _, text in ticks])
