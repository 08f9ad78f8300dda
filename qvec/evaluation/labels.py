"""Where the labels of a chart's points go, so that they cover neither one another nor the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

_LETTER, _HEIGHT, _GAP, _MARK = 6.4, 13.0, 9.0, 6.0
"""Width of a letter and height of a line of 12-unit text, distance from the point, and half its marker's width."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


@dataclass(frozen=True)
class Label:
    """A text whose baseline begins, ends or has its middle at (x, y)."""

    text: str
    x: float
    y: float
    anchor: Literal["start", "middle", "end"]

    def box(self) -> Box:
        width = _LETTER * len(self.text)
        left = self.x - {"start": 0.0, "middle": width / 2, "end": width}[self.anchor]
        return left, self.y - _HEIGHT + 3, left + width, self.y + 3


def place(points: Sequence[tuple[float, float, str]], within: Box) -> Iterator[Label]:
    """A label for each point (x, y, text) that has a text, beside, above or below it: where it covers least."""
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y, _ in points]
    for x, y, text in points:
        if text:
            label = min(_places(x, y, text), key=lambda one: _covered(one.box(), taken, within))
            taken.append(label.box())
            yield label


def _places(x: float, y: float, text: str) -> Iterator[Label]:
    yield Label(text, x + _GAP, y + 4, "start")
    yield Label(text, x - _GAP, y + 4, "end")
    yield Label(text, x, y - _GAP, "middle")
    yield Label(text, x, y + _GAP + _HEIGHT - 3, "middle")
    yield Label(text, x - _GAP, y - _GAP, "end")
    yield Label(text, x + _GAP, y + _GAP + _HEIGHT - 3, "start")


def _covered(box: Box, taken: Sequence[Box], within: Box) -> float:
    """The area that a box shares with others, and all that lies outside."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return sum(_shared(box, other) for other in taken) + area - _shared(box, within)


def _shared(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)
