"""What a load asks of a database: the seam between a source's batches and a collection's rows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from qvec.errors import DatabaseError, QvecError

if TYPE_CHECKING:
    from qvec.sources import RejectedRow

OnDuplicate = Literal["replace", "skip", "error"]


@dataclass(frozen=True)
class Checkpoint:
    """How far a source has been loaded into a collection."""

    fingerprint: str
    first_id: int | None
    position: int = 0
    rejected: int = 0
    rejects_size: int = 0
    finished: bool = False


@dataclass(frozen=True)
class EncodedBatch:
    """Source rows [start, stop): `count` of them as the collection's `encode` gave them, and those that cannot be
    loaded."""

    start: int
    stop: int
    rows: Any
    count: int
    rejected: tuple[RejectedRow, ...]


@dataclass(frozen=True)
class Writing:
    """A batch on its way into the collection. The future holds how many rows were written."""

    batch: EncodedBatch
    future: Future[int]
    lane: Any = None
    """What the loader writes it over."""


class ConnectionLostError(DatabaseError):
    """The connection broke; what is written holds up to the checkpoint that the database has."""


class RepeatedIdError(QvecError):
    """Batches in flight share ids; nothing of them is written, and they have to be written one after the other."""


class Starts(Protocol):
    """What stands written of a collection's loads, while no other load begins."""

    def read(self) -> Checkpoint | None:
        """The checkpoint of this source."""

    def write(self, checkpoint: Checkpoint) -> None:
        """Writes the checkpoint of this source."""

    def next_id(self) -> int:
        """The id after all that are there."""

    def numbered_and_unfinished(self) -> str | None:
        """Another source whose rows get numbers for ids and are not all there yet."""


class Loader(Protocol):
    """One load of one source into one collection. As a context it holds the right to load this source."""

    @property
    def width(self) -> int:
        """How many batches may be on their way at once."""

    def __enter__(self) -> Loader:
        """Raises DatabaseError when another process keeps loading this source."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def starting(self) -> AbstractContextManager[Starts]:
        """What stands written of the loads; changes are kept when the context ends."""

    def connect(self, collection: Any) -> None:
        """Makes ready to write into a collection; nothing where that is done. Raises DatabaseError."""

    def disconnect(self) -> None:
        """Lets connections go, and with them what is not committed."""

    def write(self, batch: EncodedBatch, earlier: Sequence[Writing], executor: Executor) -> Writing:
        """Begins to write a batch, behind `earlier` ones that are on their way."""

    def wait(self, writing: Writing) -> int:
        """Waits for a batch's rows; returns how many were written. Raises RepeatedIdError, ConnectionLostError."""

    def commit(self, writing: Writing, checkpoint: Checkpoint) -> None:
        """Makes a batch and the checkpoint after it last. Batches are committed in the order of the source."""

    def abandon(self, writings: Sequence[Writing]) -> None:
        """Gives up batches on their way."""

    def read_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that the database has; None when the collection is gone."""

    def finish(self, checkpoint: Checkpoint) -> None:
        """Writes the last checkpoint of the source."""
