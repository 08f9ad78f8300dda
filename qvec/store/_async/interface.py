"""The methods of a store: of the database that holds collections, and of one collection in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.metadata_index import MetadataIndex
from qvec.results import Explanation, Hit, Info, Progress, StoredRows
from qvec.sources import Form, IdType
from qvec.store.connect_options import ConnectOptions
from qvec.store.diagnosis import Diagnosis
from qvec.store.requests import NewCollection, OnDuplicate, RowColumns, RowFilter, SearchRequest, TextRequest

StoredCodes = tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]
"""Ids (n,), the codes as stored (n, bytes), and the vectors (n, d) where the collection keeps floats."""


class AsyncStoreCollection(Protocol):
    """One collection in a store. It follows recalibrations: its calibration may change between calls."""

    name: str
    was_dropped: bool
    """Whether a call found that the collection was dropped since it was opened."""
    exposes_codes: bool
    """Whether `iter_codes` can read the codes; an engine that computes its own does not expose them."""
    accepts_any_id: bool
    """Whether ids of either type may be asked for: in a collection that qvec did not make."""

    @property
    def calibration(self) -> Calibration: ...

    @property
    def id_type(self) -> IdType: ...

    @property
    def oversampling(self) -> float: ...

    @property
    def model(self) -> str | None: ...

    @property
    def embedding(self) -> Mapping[str, Any] | None: ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that it was created with, by name, `oversampling` among them."""

    @property
    def keeps_floats(self) -> bool:
        """Whether it holds vectors as floats, and not as codes alone."""

    @property
    def form(self) -> Form:
        """The form of the vectors that `iter_rows` gives."""

    def check_writable(self) -> None:
        """Raise CollectionError for a collection that is only read, because qvec did not make it."""

    async def search(self, queries: NDArray[Any], request: SearchRequest) -> list[list[Hit]]:
        """Return the hits of each raw query (m, D), best first."""

    async def search_text(self, request: TextRequest) -> list[Hit]:
        """Return the rows whose documents match the words best, by BM25.

        Raise InputError where the texts are not indexed.
        """

    async def explain(self, query: NDArray[Any], request: SearchRequest) -> Explanation:
        """Search for one raw query (1, D) and return how that was done."""

    async def upsert(self, rows: RowColumns, on_duplicate: OnDuplicate) -> int:
        """Write rows, durably; return how many were written."""

    async def delete(self, ids: list[int | str] | None, filter: RowFilter) -> int:
        """Delete the rows with these ids, or any, that pass; return how many."""

    async def get(self, ids: list[int | str]) -> list[Hit | None]:
        """Return the row of each id with score NaN, None for a missing one."""

    async def vectors(self, ids: list[int | str]) -> NDArray[np.float32]:
        """Return the vector of each id as stored, float32 (n, d), NaN for a missing row."""

    async def scroll(self, filter: RowFilter, limit: int | None, texts: bool) -> list[Hit]:
        """Return the first rows that pass in the order of their ids, with score NaN."""

    async def sample_ids(self, size: int, seed: int) -> list[int | str]:
        """Return at most `size` ids drawn uniformly; the same ones for the same rows and seed."""

    def iter_rows(self, start: int, batch_rows: int) -> AsyncGenerator[StoredRows, None]:
        """Yield all rows from position `start` on in the order of their ids, at most `batch_rows` at a time."""

    def iter_codes(self, batch_rows: int) -> AsyncGenerator[StoredCodes, None]:
        """Yield the stored codes of all rows. Raise InputError where the store does not expose them."""

    async def count(self, filter: RowFilter) -> int:
        """Return the number of rows that pass."""

    async def info(self) -> Info: ...

    async def has_index(self) -> bool: ...

    async def set_oversampling(self, oversampling: float) -> None: ...

    async def build_index(self, progress: Progress) -> None:
        """Build the prefilter's index unless it exists; return when it is complete."""

    async def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Create indexes on metadata fields where they are missing."""

    async def index_texts(self, language: str) -> None:
        """Index the words of the documents. Raise InputError where they are indexed in another language."""

    def encode(self, rows: RowColumns) -> Any:
        """Return rows as this collection's loader writes them. Raise RowError for a row that cannot be stored."""


class AsyncStore(Protocol):
    """A database that holds collections."""

    kind: str
    """The name of the product, for messages: Postgres or Qdrant."""
    name: str
    """The database's URL without secrets, for messages."""
    embedded: bool
    """Whether it runs on this machine for this program."""
    options: ConnectOptions
    settings: frozenset[str]
    """Names of the settings that `create` takes beside those of `NewCollection`."""
    search_options: frozenset[str]
    """Names of the fields of `SearchRequest` that only this store has."""
    native_filter: str
    """The database's own kind of filter, for messages."""
    indexes_metadata_first: bool
    """Whether indexes on metadata should be created before rows are loaded."""

    def wrap_errors(self, doing: str) -> AbstractContextManager[None]:
        """Raise DatabaseError for what the driver raises inside: what was done, why it failed, what to do."""

    def retrying_longer(self) -> AbstractContextManager[None]:
        """Inside, requests of this thread or task are retried as long as a load that lost its connection."""

    def check_open(self) -> None:
        """Raise InputError where the database is closed and does not open again automatically."""

    def is_native_filter(self, filter: object) -> bool: ...

    async def install(self) -> str | None:
        """Prepare the database for collections; return a warning for the user, if any."""

    async def diagnose(self) -> Diagnosis:
        """Return versions, settings and known problems of the database, for a bug report."""

    async def create(self, new: NewCollection) -> AsyncStoreCollection:
        """Create a collection. Raise CollectionError where the name is taken, InputError for impossible settings."""

    async def open(self, name: str, calibration: Calibration | None) -> AsyncStoreCollection:
        """Open a collection; with `calibration` also one that qvec did not make, where the store can read such.

        Raise CollectionError, which lists the existing collections, where it is missing.
        """

    async def has(self, name: str) -> bool: ...

    async def all(self) -> Sequence[AsyncStoreCollection]:
        """Return all collections that qvec made, by name."""

    async def drop(self, name: str) -> None: ...

    async def close(self) -> None: ...
