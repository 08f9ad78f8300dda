"""Which collections of the engine hold the versions of one collection.

A collection starts as the engine's collection of the same name. Each later version is a separate engine collection,
NAME@CALIBRATION. The version record stored under NAME says which of them is in use, so a switch is one write. The
collection NAME stays in the engine, without points once the version that was stored there has been dropped.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from qvec.errors import CollectionError
from qvec.qdrant.description import Description, UnmanagedCollection

LOOK_SECONDS = 2.0
"""How long a collection is read before the version record is looked at again."""


@dataclass(frozen=True)
class VersionRecord:
    """The stored record of a collection's versions; `used` and `other` are names of the engine's collections."""

    used: str
    other: str | None = None
    kind: Literal["new", "old", "dropped"] = "new"
    """Of the other version: not used yet, used before, or about to lose its points."""
    calibration: str = ""
    """The id of the other version's calibration."""
    is_switching: bool = False
    """Whether writes wait for a switch."""
    generation: int = 0
    """The number of switches so far."""

    def to_json(self) -> dict[str, Any]:
        """Return the record with the keys that every release of qvec reads."""
        return {_STORED_KEYS.get(key, key): value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Any, name: str) -> VersionRecord:
        """Read what `to_json` wrote; a server may give whole numbers back as floats.

        Raise CollectionError for anything else.
        """
        try:
            fields = {_FIELDS.get(key, key): value for key, value in {**stored}.items()}
            return cls(**{**fields, "generation": int(fields["generation"])})
        except (KeyError, TypeError, ValueError) as error:
            raise CollectionError(f"the versions of collection {name!r} are damaged: {error}") from None

    def keeps(self, points: str) -> bool:
        """Return whether an engine's collection still has the points of a version."""
        return points == self.used or (points == self.other and self.kind != "dropped")

    def other_name(self, name: str) -> str | None:
        """Return the name of the other version of the collection `name`."""
        return None if self.other is None else version_name(name, self.calibration)


_STORED_KEYS = {"generation": "turn", "is_switching": "is_exchanging"}
_FIELDS = {stored: field for field, stored in _STORED_KEYS.items()}


@dataclass(frozen=True)
class ActiveVersion:
    """The version in use of the collection `name`, as it was read from the engine."""

    name: str
    description: Description
    points: str
    """The engine's collection that holds its points."""
    generation: int = 0
    unmanaged: UnmanagedCollection | None = None
    """What the engine reports about a collection that qvec did not make; it can only be read."""

    def check_current(self, found: ActiveVersion | None) -> None:
        """Raise CollectionError where `found`, read later, shows that the collection was dropped, and perhaps created
        again."""
        if found is None or _identity(found) != _identity(self):
            again = " and created again" if found else ""
            raise CollectionError(f"collection {self.name!r} was dropped{again} since it was opened; open it again")


def _identity(version: ActiveVersion) -> tuple[Any, ...]:
    return version.points, version.description.calibration, version.description.layout


def version_name(name: str, calibration: str) -> str:
    """Return the name of a collection's version that is not in use."""
    return f"{name}@{calibration}"


def generation_of(record: VersionRecord | None) -> int:
    """Return how often a collection was switched to another version."""
    return 0 if record is None else record.generation
