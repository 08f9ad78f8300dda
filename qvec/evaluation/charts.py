"""Charts as data: what `svg` draws into a page, and `plots` into a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["linear", "doubling", "log", "recall", "share"]

_RECALL_TICKS = (1, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0)
_LEAST_APART = 0.07
"""Of two ticks, as a share of the axis."""
_NARROW = 5
"""How many times its low end the high end of a log axis is, up to which it is marked in even steps."""


@dataclass(frozen=True)
class Point:
    """One point: `low` and `high` bound its y, `label` stands beside it, `told` says more of it where there is room."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""
    told: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind: marked and joined in their order, marked alone, joined alone; or bars, or a band, from `low`
    to `high`."""

    name: str
    points: tuple[Point, ...]
    style: Literal["line", "dots", "curve", "bars", "band"] = "line"


@dataclass(frozen=True)
class Axis:
    """One axis from `low` to `high`.

    recall: 1 - sqrt(1 - y), which stretches what is near 100%, and reads in percent, as `share` does on an even scale;
    log: powers of ten, with twos, threes and fives; doubling: powers of two.
    """

    label: str
    low: float
    high: float
    kind: Kind = "linear"

    def position(self, value: float) -> float:
        """Where a value stands, 0 to 1."""
        low, high = self.transformed(self.low), self.transformed(self.high)
        return (self.transformed(value) - low) / (high - low)

    def transformed(self, value: float) -> float:
        """A value on the scale that is even on paper."""
        if self.kind in ("doubling", "log"):
            return math.log(value)
        return -math.sqrt(max(1 - value, 0)) if self.kind == "recall" else value

    def ticks(self) -> list[tuple[float, str]]:
        """Values to mark, and what is written at them, none too near another."""
        found: list[float] = []
        for value in self._wanted():
            if self.low - 1e-9 <= value <= self.high + 1e-9 and all(
                abs(self.position(value) - self.position(other)) >= _LEAST_APART for other in found
            ):
                found.append(value)
        return [(value, self._written(value)) for value in sorted(found)]

    def _wanted(self) -> Iterator[float]:
        """Values that may be marked, the most wanted first."""
        if self.kind == "recall":
            yield from _RECALL_TICKS
        elif self.kind == "doubling":
            yield from (2.0**power for power in range(20))
        elif self.kind == "log" and self.high > _NARROW * self.low:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            yield from (factor * 10.0**power for factor in (1, 3, 2, 5) for power in powers)
        else:
            step = _even_step(self.high - self.low)
            first = math.ceil(self.low / step - 1e-9)
            yield from (step * count for count in range(first, math.floor(self.high / step + 1e-9) + 1))

    def _written(self, value: float) -> str:
        if self.kind in ("recall", "share"):
            return f"{100 * value:g}%"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Chart:
    """A picture with what it says: a title, a sentence on how to read it, two axes and series of points."""

    title: str
    caption: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]

    @property
    def needs_legend(self) -> bool:
        """Whether the axes leave open what is drawn."""
        return [series.name for series in self.series] != [self.y.label]


def around(label: str, values: list[float], kind: Kind = "linear") -> Axis:
    """An axis that holds all values with some room at both ends; of no values it is that of 1."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    if kind in ("doubling", "log"):
        room = max((high / low) ** 0.06, 1.1)
        return Axis(label, low / room, high * room, kind)
    if kind == "recall":
        return Axis(label, max(0.0, min(low - 0.05, 0.9)), 1.0, kind)
    room = 0.05 * (high - low or 1)
    return Axis(label, low - room, high + room, kind)


def _even_step(span: float) -> float:
    """The step of 1, 2 or 5 times a power of ten that cuts a span into about five."""
    power = 10.0 ** math.floor(math.log10(span / 5))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 5 - 1e-12)
