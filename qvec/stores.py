"""What every database and every collection can do, whichever store is behind it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.errors import CollectionError, InputError
from qvec.hits import Hit
from qvec.loading import Checkpoint, Loader, OnDuplicate

if TYPE_CHECKING:
    from qvec.calibration import Calibration
    from qvec.embedding import TextEmbedder
    from qvec.filters import FilterLike
    from qvec.metadata_index import MetadataIndex
    from qvec.queries import OfUnknownRank, OneQuery, SeveralQueries
    from qvec.sources import Form, IdType
    from qvec.versions import Versions

Progress = Callable[[int, int | None], None]
"""Called with how much is done, and of how much where that is known."""


@dataclass(frozen=True)
class Info:
    """What a collection is and takes. Bytes are None where the store does not tell them."""

    name: str
    rows: int
    dimensions: int
    metric: str
    id_type: str
    rescore: str
    prefilter: str
    oversampling: float
    model: str | None
    calibration: str
    index: Literal["built", "building", "none"]
    table_bytes: int | None
    """On disk: rows with their keys, vectors and texts."""
    index_bytes: int | None
    """On disk: what the prefilter reads beside the rows."""
    ram_bytes: int | None
    """Held in memory whether searched or not."""
    embedding: Mapping[str, Any] | None = None
    """As in `Collection`."""

    def bytes_per_vector(self) -> dict[str, float | None]:
        """Bytes a row of table, index and memory."""
        parts = {"table": self.table_bytes, "index": self.index_bytes, "ram": self.ram_bytes}
        return {name: None if size is None else round(size / max(self.rows, 1), 1) for name, size in parts.items()}

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "bytes_per_vector": self.bytes_per_vector()}


@dataclass(frozen=True)
class Explanation:
    """How a search was done: what was asked of the database, its plan where it tells one, and the time of each step.

    `candidates` is None where all rows were ranked.
    """

    statement: str
    plan: tuple[str, ...]
    candidates: int | None
    milliseconds: dict[str, float]
    hits: list[Hit]


@dataclass(frozen=True)
class StoredRows:
    """Rows as they are stored: ids (int64 or large_string), vectors float32 (n, d) in the collection's form, documents
    and metadata (JSON) as large_string."""

    ids: Any
    vectors: NDArray[np.float32]
    documents: Any
    metadata: Any


def check_upsert(
    vectors: NDArray[Any], ids: Sized, documents: Sized | None, metadata: Sized | None, on_duplicate: str
) -> None:
    """Raises InputError where the columns of an upsert are not of one length, or the rule for duplicates is none."""
    if on_duplicate not in get_args(OnDuplicate):
        raise InputError(f"on_duplicate is {on_duplicate!r}, expected one of: {', '.join(get_args(OnDuplicate))}")
    for what, values in (("ids", ids), ("documents", documents), ("metadata", metadata)):
        if values is not None and len(values) != len(vectors):
            raise InputError(f"there are {len(values)} {what} for {len(vectors)} vectors")


def check_name(name: str) -> None:
    """Raises CollectionError for what cannot be a collection's name in every database."""
    size = len(name.encode(errors="replace"))
    if not 0 < size <= 63:
        raise CollectionError(f"collection name {name!r} has {size} bytes, expected 1 to 63")
    if not name.isprintable() or "%" in name:
        raise CollectionError(f"collection name {name!r} holds % or a character that cannot be printed")


MOST_ROWS = 2**31 - 1
"""That one search may be asked for: more than any collection has, and a number in every database."""


def check_count(name: str, count: Any, instead: str = "") -> None:
    """Raises InputError for what is no whole number of at least 1; `instead` is what the message adds to that."""
    if not isinstance(count, (int, np.integer)):
        raise InputError(f"{name} is {count!r}, expected a whole number of at least 1{instead}")
    if count < 1:
        raise InputError(f"{name} is {count}, expected at least 1{instead}")
    if count > MOST_ROWS:
        raise InputError(f"{name} is {count}, expected at most {MOST_ROWS}{instead}")


def check_search(k: int, oversampling: float | None) -> None:
    """Raises InputError for a k or an oversampling that no search can have."""
    check_count("k", k)
    if oversampling is not None:
        check_oversampling(oversampling)


def check_limit(limit: int | None) -> None:
    """Raises InputError for a limit that no list of rows can have."""
    if limit is not None:
        check_count("limit", limit, ", or None for all")


def check_oversampling(oversampling: float) -> None:
    """Raises InputError for what is no factor of at least 1."""
    if not isinstance(oversampling, Real) or not 1 <= oversampling < math.inf:
        raise InputError(f"oversampling is {oversampling!r}, expected at least 1")


class Collection(Protocol):
    """A named set of rows with one calibration."""

    name: str
    calibration: Calibration
    oversampling: float
    model: str | None
    embedding: Mapping[str, Any] | None
    """How its texts were embedded, beyond the model's name: server, task, prefixes."""

    @property
    def id_type(self) -> IdType: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was created with, by the names that the database's `settings` lists."""

    @property
    def keeps_floats(self) -> bool:
        """Whether it holds vectors as floats, and not as codes alone."""

    @property
    def form(self) -> Form:
        """What the vectors of `stored_rows` are."""

    def stored_rows(self, start: int, rows: int) -> Iterator[StoredRows]:
        """Its rows in the order of their ids, from the row at this position on, so many at a time."""

    def upsert(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        on_duplicate: OnDuplicate = "replace",
    ) -> int: ...

    def delete(self, ids: Sequence[int | str]) -> int: ...

    def get(self, ids: Sequence[int | str]) -> list[Hit | None]: ...

    def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of rows as far as they are kept, (n, d), NaN for one that is missing."""

    def matching(self, filter: FilterLike | None = ..., limit: int | None = ..., *, texts: bool = ...) -> list[Hit]: ...

    def count(self) -> int: ...

    def info(self) -> Info: ...

    def has_index(self) -> bool: ...

    def set_oversampling(self, oversampling: float) -> None: ...

    def build_index(self, progress: Progress = ...) -> None: ...

    def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None: ...

    def index_texts(self, language: str = ...) -> None: ...

    def search_text(
        self, question: str, k: int = ..., *, filter: FilterLike | None = ..., texts: bool = ...
    ) -> list[Hit]: ...

    @property
    def embedder(self) -> TextEmbedder: ...

    @embedder.setter
    def embedder(self, embedder: TextEmbedder) -> None: ...

    def search_hybrid(
        self, question: str, k: int = ..., *, filter: FilterLike | None = ..., oversampling: float | None = ...
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        query: OfUnknownRank,
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
        rescore: bool = ...,
        texts: bool = ...,
    ) -> Any: ...
    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: OneQuery,
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
        rescore: bool = ...,
        texts: bool = ...,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        query: SeveralQueries,
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
        rescore: bool = ...,
        texts: bool = ...,
    ) -> list[list[Hit]]: ...

    def explain(
        self,
        query: ArrayLike | str,
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
    ) -> Explanation: ...

    def encode(self, ids: Any, vectors: NDArray[Any], documents: Any | None, metadata: Any | None, form: Form) -> Any:
        """Rows as this collection's loader writes them, from the columns of a source's batch. Raises RowError."""


class Database(Protocol):
    """Where collections live. Use as a context manager."""

    name: str
    kind: str
    """What it is called in messages."""
    metadata_indexes_first: bool
    """Whether indexes on metadata are created before rows are loaded, and not after."""
    settings: frozenset[str]
    """Names of what `create_collection` takes besides name, calibration, id_type, model and embedding."""

    @property
    def create_collection(self) -> Callable[..., Collection]:
        """Takes a name and, by keyword, calibration, id_type, model, embedding and the settings."""

    def collection(self, name: str) -> Collection: ...

    def has_collection(self, name: str) -> bool: ...

    def collections(self) -> Sequence[Collection]: ...

    def drop_collection(self, name: str) -> None: ...

    def install(self) -> str | None:
        """Prepares the database for collections; returns what a user should know, if anything."""

    def loads(self, collection: str) -> Mapping[str, Checkpoint]:
        """How far sources were loaded into a collection, by their locations."""

    def loader(self, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> Loader: ...

    def versions(self, collection: str) -> Versions:
        """The versions of a collection, by two calibrations."""

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Raises DatabaseError for what the store's driver raises inside."""

    def close(self) -> None: ...

    def __enter__(self) -> Database: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...
