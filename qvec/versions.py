"""What recalibrating asks of a database: a second version of a collection, and its exchange for the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qvec.calibration import Calibration
    from qvec.stores import Collection


@dataclass(frozen=True)
class Version:
    """A collection's other version: `new`, not yet used, or `old`, used before. `name` is the collection that it is."""

    name: str
    kind: Literal["new", "old"]
    calibration: str


@dataclass(frozen=True)
class Wanting:
    """Rows of a collection that its other version cannot be given: no floats are kept, and the source lacks them."""

    missing: int
    """Rows that are not there."""
    outdated: int
    """Rows that are there with a vector that was replaced since."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.outdated)

    def __str__(self) -> str:
        parts = [f"{self.missing:,} are missing"] if self.missing else []
        parts += [f"{self.outdated:,} have an older vector"] if self.outdated else []
        return " and ".join(parts)


def cut(vectors: NDArray[np.float32], calibration: Calibration) -> NDArray[np.float32]:
    """Kept floats (n, D) in the dimensions of a calibration: as they are, or a prefix as it is compared."""
    return vectors if vectors.shape[1] == calibration.dimensions else calibration.prepared(vectors)


class Versions(Protocol):
    """The versions of one collection. As a context it holds the right to change them."""

    def __enter__(self) -> Versions:
        """Raises DatabaseError when another process has that right."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def other(self) -> Version | None:
        """The version beside the one in use, if there is one."""

    def begin(self, calibration: Calibration) -> Version:
        """Makes a new version without rows. From now on it is known what is written to the collection."""

    def texts(self, ids: Sequence[int | str]) -> dict[int | str, tuple[str | None, str | None]]:
        """Documents and metadata (JSON) of the collection's rows with these ids, those that are there."""

    def first_id(self, source: str) -> int | None:
        """The id of row 0 of a source without ids, as it was loaded into the collection."""

    def finish(self, collection: Collection) -> None:
        """Gives the loaded version what the collection has besides rows and the graph."""

    def catch_up(self) -> Wanting:
        """Brings over what was written to the collection since; tells of which rows that cannot be done."""

    def exchange(self, *, although_wanting: bool) -> Wanting:
        """Brings over the last rows, and has every search and write from now on use the other version.

        Raises CollectionError, and changes nothing, where rows would be wanting; with `although_wanting` it tells how
        many are.
        """

    def drop(self) -> None:
        """Drops the other version."""
