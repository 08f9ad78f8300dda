"""Which collections of an engine hold the versions of one collection.

A collection begins as the engine's collection of its name. A version beside it is an engine's collection of its own,
NAME@CALIBRATION. What is written down under NAME says which of them is in use, so an exchange is one write. NAME
itself stays, without points once they were those of a version that is dropped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from qvec.errors import CollectionError
from qvec.qdrant.steps import Pause, Steps

if TYPE_CHECKING:
    from qvec.qdrant.home import Home

LOOK_SECONDS = 2.0
"""For how long a collection is read without looking whether another version is in use."""


@dataclass(frozen=True)
class Record:
    """What is written down of a collection's versions; `used` and `other` are names of the engine's collections."""

    used: str
    other: str | None = None
    kind: Literal["new", "old", "dropped"] = "new"
    """Of the other version: not used yet, used before, or about to lose its points."""
    calibration: str = ""
    """The id of the other version's."""
    is_exchanging: bool = False
    """Whether writes wait."""
    turn: int = 0
    """How many exchanges there were."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Any, name: str) -> Record:
        """Raises CollectionError for what to_json did not write. A server may give whole numbers back as floats."""
        try:
            return cls(**{**stored, "turn": int(stored["turn"])})
        except (KeyError, TypeError, ValueError) as error:
            raise CollectionError(f"the versions of collection {name!r} are damaged: {error}") from None

    def keeps(self, points: str) -> bool:
        """Whether an engine's collection still has the points of a version."""
        return points == self.used or (points == self.other and self.kind != "dropped")

    def other_name(self, name: str) -> str | None:
        """What the other version of the collection `name` is called."""
        return None if self.other is None else version_name(name, self.calibration)


def version_name(name: str, calibration: str) -> str:
    """What the version of a collection by this calibration is called, unless it is the one in use."""
    return f"{name}@{calibration}"


def turn_of(record: Record | None) -> int:
    """How often a collection was exchanged."""
    return 0 if record is None else record.turn


def points_of(home: Home, name: str, record: Record | None) -> Steps[str | None]:
    """The engine's collection with the points of a collection, of which this is written down, or of a version; None
    for a version that is in use: that has the collection's name."""
    if record is not None:
        return record.used
    head, is_version, _ = name.rpartition("@")
    of_head = (yield from home.read_versions(head)) if is_version else None
    if of_head is not None and of_head.other_name(head) == name:
        return of_head.other
    return None if of_head is not None and of_head.used == name else name


def names(home: Home) -> Steps[list[str]]:
    """Collections and their other versions, by name."""
    there = yield from home.names()
    found = set(there)
    for name in there:
        record = yield from home.read_versions(name)
        if record is not None:
            found -= {record.used, record.other}
            found.add(name)
            found |= {other for other in [record.other_name(name)] if other and record.other in there}
    return sorted(found)


def drop(home: Home, name: str) -> Steps[None]:
    """Drops a collection with its versions, or a version alone."""
    record = yield from home.read_versions(name)
    head, is_version, _ = name.rpartition("@")
    of_head = (yield from home.read_versions(head)) if is_version and record is None else None
    if of_head is not None and of_head.other_name(head) == name:
        yield from drop_other(home, head, of_head)
        return
    there = yield from home.names()
    for points in () if record is None else {record.used, record.other} - {name}:
        if points in there:
            yield from home.drop(points)
    yield from home.drop(name)


def drop_other(home: Home, name: str, record: Record) -> Steps[None]:
    """Drops the version of the collection `name` that is not in use. Where it was once, it waits until all who have the
    collection open have looked since. Interrupted, it can be done again."""
    assert record.other is not None
    yield from home.write_versions(name, replace(record, kind="dropped"))
    if record.turn:
        yield Pause(1.5 * LOOK_SECONDS)
    described = yield from home.describe(record.other)
    if record.other == name:
        assert described is not None
        engine = home.engine(name, described.layout, described.sharding)
        yield from engine.clear()
    elif described is not None:
        yield from home.drop(record.other)
    yield from home.write_versions(name, replace(record, other=None, calibration="", is_exchanging=False))
