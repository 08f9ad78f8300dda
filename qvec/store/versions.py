"""The protocol of a version sync: a second version of a collection with another calibration, kept equal to the one in
use until both are switched.

Version syncs exist only in the synchronous client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration


@dataclass(frozen=True)
class Version:
    """The other version of a collection: `new`, not yet used, or `old`, used before. `name` is its collection's."""

    name: str
    kind: Literal["new", "old"]
    calibration: str


@dataclass(frozen=True)
class UnsyncedRows:
    """Rows that the other version cannot receive: no floats are kept, and the source does not have them."""

    missing: int
    """Rows that the other version lacks."""
    outdated: int
    """Rows whose vector was replaced since the other version received it."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.outdated)

    def __str__(self) -> str:
        parts = [f"{self.missing:,} are missing"] if self.missing else []
        parts += [f"{self.outdated:,} have an older vector"] if self.outdated else []
        return " and ".join(parts)


def cut(vectors: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Return kept floats (n, D) in the dimensions of a calibration: unchanged, or the prepared prefix."""
    return vectors if vectors.shape[1] == calibration.dimensions else calibration.prepared(vectors)


class VersionSync(Protocol):
    """The versions of one collection. As a context it holds the lock on changing them."""

    def __enter__(self) -> VersionSync:
        """Raise DatabaseError while another process holds the lock."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def other(self) -> Version | None:
        """Return the version beside the one in use, if there is one."""

    def begin(self, calibration: Calibration) -> Version:
        """Create an empty new version and start to track writes to the collection."""

    def texts(self, ids: Sequence[int | str]) -> dict[int | str, tuple[str | None, str | None]]:
        """Return document and metadata (JSON) of the collection's rows with these ids that exist."""

    def first_id(self, source: str) -> int | None:
        """Return the id of row 0 of a source without ids, as it was loaded into the collection."""

    def finish(self, name: str) -> None:
        """Give the loaded version `name` the collection's other properties: indexes, generated columns, statistics."""

    def catch_up(self) -> UnsyncedRows:
        """Sync the other version with this one; return the rows that cannot be synced."""

    def switch(self, *, allow_missing: bool) -> UnsyncedRows:
        """Sync the last rows, then let every search and write use the other version.

        Raise CollectionError, and change nothing, where rows cannot be synced, unless `allow_missing`.
        """

    def drop(self) -> None:
        """Drop the other version."""


class VersionSyncModule(Protocol):
    """The module `version_sync` of a store; `store` is its synchronous class."""

    def open_version_sync(self, store: Any, collection: str) -> VersionSync:
        """Return the version sync of a collection."""
