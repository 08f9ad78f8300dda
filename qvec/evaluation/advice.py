"""Why no oversampling of a collection meets a recall, and what would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from qvec.client import Collection
from qvec.evaluation.alternatives import Alternative
from qvec.evaluation.results import Interval
from qvec.evaluation.ways import HoldsCodes

_MORE_PRECISE = {"binary": "int4", "int4": "int8", "int8": "float16", "turbo8": "float16"}
_MORE_PRECISE |= {"turbo16": "float32", "float16": "float32"}
_BETTER_IN_QDRANT = {"binary": "turbo1", "binary1.5": "turbo2", "binary2": "turbo2", "turbo1": "turbo2"}
_BETTER_IN_QDRANT |= {"turbo1.5": "turbo2", "turbo2": "turbo4"}


class Tried(Protocol):
    """An oversampling that was measured; None: every row was rescored."""

    @property
    def oversampling(self) -> float | None: ...
    @property
    def recall(self) -> Interval: ...
    @property
    def at_least(self) -> float: ...


def advise(
    collection: Collection,
    tried: Sequence[Tried],
    target: float,
    confidence: float,
    others: Sequence[Alternative],
) -> str:
    """A sentence without its full stop: what was found, and the smallest of the `others` that meets the target.

    `tried` begins with the rescoring of every row and ends with the best that was found.
    """
    best = tried[-1]
    what = (
        f"rescoring every row by {collection.settings['rescore']}"
        if best.oversampling is None
        else f"an oversampling of {best.oversampling:g}"
    )
    found = f"{what} finds {best.recall.value:.2%} (at least {best.at_least:.2%} with {confidence:.0%} confidence)"
    if best.recall.value >= target:
        return f"{found}: more queries are needed to be sure of {target:.2%}"
    if best.oversampling is None:
        found = f"{found}, and no oversampling finds more than that"
    else:
        found = f"{found}, but rescoring every row {tried[0].recall.value:.2%}"
    return f"{found}: {_measured(others, target) or _untried(collection, best, target, others)}"


def _measured(others: Sequence[Alternative], target: float) -> str | None:
    meets = next((other for other in others if other.at_least >= target), None)
    return None if meets is None else f"load it anew as {_named(meets)} ({_command(meets)})"


def _untried(collection: Collection, best: Tried, target: float, others: Sequence[Alternative]) -> str:
    """What may help where nothing that was measured is sure to."""
    if others:
        closest = max(others, key=lambda other: other.at_least)
        last = _last(best, closest, target)
        return f"no other way to load it is sure to either; the closest is {_named(closest)}; {last}"
    if best.oversampling is None:
        wanted = _MORE_PRECISE.get(collection.settings["rescore"])
        if wanted is None:
            return "its floats are all there is; are these the vectors that it was loaded from?"
        return f"load it anew with a more precise rescoring (qvec ingest --rescore {wanted})"
    better = None if isinstance(collection, HoldsCodes) else _BETTER_IN_QDRANT.get(collection.settings["prefilter"])
    if better is None:
        return (
            "search every row (qvec search --exact), or tune a collection of a calibration that fits its vectors better"
        )
    return (
        f"load it anew with a prefilter that sees more (qvec ingest --prefilter {better}), or search every row "
        "(qvec search --exact)"
    )


def _last(best: Tried, closest: Alternative, target: float) -> str:
    if closest.recall >= target:
        return "more queries are needed to be sure of it"
    if best.oversampling is not None:
        return "search every row (qvec search --exact)"
    return "keep floats and search every row (qvec ingest --rescore float32, qvec search --exact)"


def _named(other: Alternative) -> str:
    return (
        f"{other.rescore} after {other.prefilter} bits, {other.bytes_per_vector:,.0f} bytes a vector, which finds "
        f"{other.recall:.2%} (at least {other.at_least:.2%}) with an oversampling of {other.oversampling}, before an "
        "index"
    )


def _command(other: Alternative) -> str:
    return f"qvec ingest --rescore {other.rescore} --prefilter {other.prefilter} --oversampling {other.oversampling}"
