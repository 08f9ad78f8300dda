"""Charts as inline SVG, with colours from the page's style sheet, so that one drawing serves light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from qvec.evaluation.charts import Chart, Point, Series

WIDTH, HEIGHT = 480, 320
COLOURS = 8
"""Number of series colours in the style sheet."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44
_LETTER, _LINE, _GAP, _MARKER = 6.4, 13.0, 9.0, 6.0
"""Width of a letter and height of a line of labels, their distance from the point, and half a marker's width."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Label:
    """A text whose baseline starts, ends or is centred at (x, y)."""

    text: str
    x: float
    y: float
    anchor: Literal["start", "middle", "end"]

    def box(self) -> Box:
        """Return the box that the text covers."""
        width = _LETTER * len(self.text)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - _LINE + 3, left + width, self.y + 3


def place_labels(points: Sequence[tuple[float, float, str]], within: Box) -> Iterator[Label]:
    """Yield a label for each point (x, y, text) with a text, where it covers least of markers and other labels."""
    taken = [(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y, _ in points]
    for x, y, text in points:
        if text:
            label = min(_places(x, y, text), key=lambda place: _covered(place.box(), taken, within))
            taken.append(label.box())
            yield label


def _places(x: float, y: float, text: str) -> Iterator[Label]:
    yield Label(text, x + _GAP, y + 4, "start")
    yield Label(text, x - _GAP, y + 4, "end")
    yield Label(text, x, y - _GAP, "middle")
    yield Label(text, x, y + _GAP + _LINE - 3, "middle")
    yield Label(text, x - _GAP, y - _GAP, "end")
    yield Label(text, x + _GAP, y + _GAP + _LINE - 3, "start")


def _covered(box: Box, taken: Iterable[Box], within: Box) -> float:
    """The area that a box shares with others or that is outside of `within`."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + area - _shared(box, within)


def _shared(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def draw(chart: Chart) -> str:
    """Draw a chart as an SVG element of 480 by 320 units; points show their tooltips."""
    elements = list(_axes(chart))
    for number, series in enumerate(chart.series):
        elements += [f'<g class="series s{number % COLOURS}">', *_STYLES[series.style](chart, series, number), "</g>"]
    points = [(_x(chart, point.x), _y(chart, point.y), point.label) for point in chart.marked_points]
    elements += [
        f'<text class="point" x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">'
        f"{escape(label.text)}</text>"
        for label in place_labels(points, (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM))
    ]
    body = "\n".join(elements)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">\n{body}\n</svg>'


def marker(number: int, x: float, y: float, size: float = 4.5) -> str:
    """Draw the marker of a series' points."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>',
        _polygon((x - size, y - size), (x + size, y - size), (x + size, y + size), (x - size, y + size)),
        _polygon((x, y - 1.25 * size), (x + 1.15 * size, y + size), (x - 1.15 * size, y + size)),
        _polygon((x, y - 1.35 * size), (x + 1.35 * size, y), (x, y + 1.35 * size), (x - 1.35 * size, y)),
    )
    return shapes[number % len(shapes)]


def _polygon(*corners: tuple[float, float]) -> str:
    return f'<polygon points="{_coordinates(corners)}"/>'


def _coordinates(corners: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _x(chart: Chart, value: float) -> float:
    return _LEFT + chart.x.position(value) * (WIDTH - _LEFT - _RIGHT)


def _y(chart: Chart, value: float) -> float:
    return HEIGHT - _BOTTOM - chart.y.position(value) * (HEIGHT - _TOP - _BOTTOM)


def _axes(chart: Chart) -> Iterator[str]:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for value, text in chart.y.ticks():
        y = _y(chart, value)
        yield f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    for value, text in chart.x.ticks():
        x = _x(chart, value)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{text}</text>'
    yield f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
    yield f'<text class="label" x="{right}" y="{HEIGHT - 6}" text-anchor="end">{escape(chart.x.label)}</text>'


def _dots(chart: Chart, series: Series, number: int) -> Iterator[str]:
    for point in series.points:
        x, y = _x(chart, point.x), _y(chart, point.y)
        if point.low is not None and point.high is not None:
            y1, y2 = _y(chart, max(point.low, chart.y.low)), _y(chart, min(point.high, chart.y.high))
            yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'
        yield f"<g>{_tooltip(point)}{marker(number, x, y)}</g>"


def _line(chart: Chart, series: Series, number: int) -> Iterator[str]:
    yield from _curve(chart, series, number)
    yield from _dots(chart, series, number)


def _curve(chart: Chart, series: Series, _number: int) -> Iterator[str]:
    points = _coordinates((_x(chart, point.x), _y(chart, point.y)) for point in series.points)
    yield f'<polyline points="{points}"/>'


def _bars(chart: Chart, series: Series, _number: int) -> Iterator[str]:
    width = (WIDTH - _LEFT - _RIGHT) / (len(series.points) + 1)
    for point in series.points:
        x, (low, high) = _x(chart, point.x), (_y(chart, bound) for bound in point.bounds)
        yield (
            f'<rect x="{x - width / 2 + 0.5:.1f}" y="{high:.1f}" width="{width - 1:.1f}" height="{low - high:.1f}">'
            f"{_tooltip(point)}</rect>"
        )


def _band(chart: Chart, series: Series, _number: int) -> Iterator[str]:
    lower, upper = ([(_x(chart, each.x), _y(chart, each.bounds[end])) for each in series.points] for end in (0, 1))
    yield f'<g class="band">{_polygon(*upper, *reversed(lower))}</g>'


def _tooltip(point: Point) -> str:
    return f"<title>{escape(point.tooltip)}</title>" if point.tooltip else ""


_STYLES = {"dots": _dots, "line": _line, "curve": _curve, "bars": _bars, "band": _band}
