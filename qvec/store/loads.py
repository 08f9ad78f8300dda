"""The protocol of a bulk load: how a source's batches become a collection's rows, each exactly once.

Loads run in threads and exist only in the synchronous client.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from qvec.errors import DatabaseError, QvecError
from qvec.sources import RejectedRow
from qvec.store.requests import OnDuplicate


@dataclass(frozen=True)
class Checkpoint:
    """How far a source has been loaded into a collection."""

    fingerprint: str
    first_id: int | None
    """The id of source row 0, in a source without ids."""
    position: int = 0
    rejected: int = 0
    rejects_size: int = 0
    finished: bool = False


@dataclass(frozen=True)
class EncodedBatch:
    """Source rows [start, stop): `count` rows as the collection encoded them, and the rows that cannot be loaded."""

    start: int
    stop: int
    rows: Any
    count: int
    rejected: tuple[RejectedRow, ...]


@dataclass(frozen=True)
class PendingBatch:
    """A batch that is being written. The future holds the number of rows written."""

    batch: EncodedBatch
    future: Future[int]
    transaction: Any = None
    """The transaction that writes it, where the store has transactions."""


class ConnectionLostError(DatabaseError):
    """The connection broke; the load can continue from the checkpoint that the database holds."""


class RepeatedIdError(QvecError):
    """Batches in flight share ids; none of them was written, and they have to be written one after the other."""


class LoadRegistry(Protocol):
    """The registered loads of a collection, while no other load can start."""

    def read(self) -> Checkpoint | None:
        """Return the checkpoint of this source."""

    def write(self, checkpoint: Checkpoint) -> None:
        """Store the checkpoint of this source."""

    def next_id(self) -> int:
        """Return the integer after the largest id of the collection."""

    def unfinished_without_ids(self) -> str | None:
        """Return another source whose row numbers serve as ids and which is not loaded to its end."""


class Loader(Protocol):
    """One load of one source into one collection. As a context it holds the lock on this source."""

    @property
    def width(self) -> int:
        """The number of batches that may be in flight at once."""

    def __enter__(self) -> Loader:
        """Raise DatabaseError while another process loads this source."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...

    def registry(self) -> AbstractContextManager[LoadRegistry]:
        """Open the registry of loads; what is written is kept when the context ends without an error."""

    def connect(self, collection: Any) -> None:
        """Connect for writing rows that this store collection encoded, unless connected. Raise DatabaseError."""

    def disconnect(self) -> None:
        """Close the connections, and abandon what is not committed."""

    def write(self, batch: EncodedBatch, earlier: Sequence[PendingBatch], executor: Executor) -> PendingBatch:
        """Start to write a batch, behind the `earlier` ones in flight."""

    def wait(self, pending: PendingBatch) -> int:
        """Wait for a batch; return the number of rows written. Raise RepeatedIdError, ConnectionLostError."""

    def commit(self, pending: PendingBatch, checkpoint: Checkpoint) -> None:
        """Commit the rows of a batch and the checkpoint after it. Batches are committed in the order of the source.

        The stored checkpoint is never ahead of the stored rows. Postgres commits both in one transaction. Qdrant has no
        transactions: its rows are stored already, and its checkpoint may be some batches behind them.
        """

    def abandon(self, pending: Sequence[PendingBatch]) -> None:
        """Give up batches in flight."""

    def read_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that the database holds; None where the collection was dropped."""

    def finish(self, checkpoint: Checkpoint) -> None:
        """Store the last checkpoint of the source."""


class LoaderModule(Protocol):
    """The module `loader` of a store; `store` is its synchronous class."""

    def open_loader(self, store: Any, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> Loader:
        """Return a load of one source into a collection, which need not exist yet."""

    def read_checkpoints(self, store: Any, collection: str) -> dict[str, Checkpoint]:
        """Return the checkpoints of all sources that were loaded into a collection, by their locations."""
