"""Charts as inline SVG. Colours come from the page's style sheet, so that one drawing serves light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from qvec.evaluation.charts import Chart, Point, Series
from qvec.evaluation.labels import place

WIDTH, HEIGHT = 480, 320
COLOURS = 8
"""Of the style sheet."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 44


def draw(chart: Chart) -> str:
    """The chart as an SVG element of its own, 480 by 320 units; a point tells its figures when pointed at."""
    parts = [*_axes(chart)]
    for number, series in enumerate(chart.series):
        parts += [f'<g class="series s{number % COLOURS}">', *_DRAWN[series.style](chart, series, number), "</g>"]
    parts += _labels(chart)
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">\n{body}\n</svg>'


def marker(number: int, x: float, y: float, size: float = 4.5) -> str:
    """The shape that marks the points of a series."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>',
        _polygon((x - size, y - size), (x + size, y - size), (x + size, y + size), (x - size, y + size)),
        _polygon((x, y - 1.25 * size), (x + 1.15 * size, y + size), (x - 1.15 * size, y + size)),
        _polygon((x, y - 1.35 * size), (x + 1.35 * size, y), (x, y + 1.35 * size), (x - 1.35 * size, y)),
    )
    return shapes[number % len(shapes)]


def _polygon(*corners: tuple[float, float]) -> str:
    return f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}"/>'


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
        yield from _whisker(chart, point)
        yield f"<g>{_told(point)}{marker(number, x, y)}</g>"


def _line(chart: Chart, series: Series, number: int) -> Iterator[str]:
    yield from _curve(chart, series, number)
    yield from _dots(chart, series, number)


def _curve(chart: Chart, series: Series, _number: int) -> Iterator[str]:
    path = " ".join(f"{_x(chart, point.x):.1f},{_y(chart, point.y):.1f}" for point in series.points)
    yield f'<polyline points="{path}"/>'


def _bars(chart: Chart, series: Series, _number: int) -> Iterator[str]:
    """Bars from `low` to `high`, side by side."""
    width = (WIDTH - _LEFT - _RIGHT) / (len(series.points) + 1)
    for point in series.points:
        x, low, high = _x(chart, point.x), _y(chart, _low(point)), _y(chart, _high(point))
        yield (
            f'<rect x="{x - width / 2 + 0.5:.1f}" y="{high:.1f}" width="{width - 1:.1f}" height="{low - high:.1f}">'
            f"{_told(point)}</rect>"
        )


def _band(chart: Chart, series: Series, _number: int) -> Iterator[str]:
    """The area between `low` and `high`."""
    upper = [(_x(chart, point.x), _y(chart, _high(point))) for point in series.points]
    lower = [(_x(chart, point.x), _y(chart, _low(point))) for point in series.points]
    yield f'<g class="band">{_polygon(*upper, *reversed(lower))}</g>'


def _low(point: Point) -> float:
    return point.y if point.low is None else point.low


def _high(point: Point) -> float:
    return point.y if point.high is None else point.high


def _labels(chart: Chart) -> Iterator[str]:
    marked = [point for series in chart.series if series.style in ("dots", "line") for point in series.points]
    places = [(_x(chart, point.x), _y(chart, point.y), point.label) for point in marked]
    for label in place(places, (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)):
        yield (
            f'<text class="point" x="{label.x:.1f}" y="{label.y:.1f}" text-anchor="{label.anchor}">'
            f"{escape(label.text)}</text>"
        )


def _whisker(chart: Chart, point: Point) -> Iterator[str]:
    if point.low is not None and point.high is not None:
        x = _x(chart, point.x)
        y1, y2 = _y(chart, max(point.low, chart.y.low)), _y(chart, min(point.high, chart.y.high))
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _told(point: Point) -> str:
    return f"<title>{escape(point.told)}</title>" if point.told else ""


_DRAWN = {"dots": _dots, "line": _line, "curve": _curve, "bars": _bars, "band": _band}
