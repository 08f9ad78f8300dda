"""The interface that a directory of the embedded engine and a server share: collections, and the points of each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.metadata_index import MetadataIndex
from qvec.qdrant.description import Description, Fingerprint, UnmanagedCollection
from qvec.qdrant.engine_version import EngineVersion
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import PointId, Points, PointSizes, StoredPoint
from qvec.qdrant.shard_keys import ShardKey
from qvec.qdrant.vector_layout import Sharding, VectorLayout
from qvec.qdrant.version_record import VersionRecord
from qvec.results import IndexState, Progress
from qvec.store.diagnosis import Diagnosis


class AsyncEngine(Protocol):
    """The points of one collection."""

    async def upsert(self, points: Points) -> None:
        """Write points over those with the same ids; they are applied when this returns."""

    async def delete(self, ids: Sequence[PointId]) -> None: ...

    async def clear(self) -> None:
        """Delete all points; their space is free soon after."""

    async def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[StoredPoint]:
        """Return the points that exist, in any order."""

    async def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
        shard_keys: Sequence[ShardKey] | None = None,
    ) -> tuple[list[StoredPoint], PointId | None]:
        """Return points in the order of their ids, from `start` on, and the id where the next ones start.

        Of payloads all, nothing, or the named keys are read. `shard_keys` limits the shards that are asked.
        """

    async def count(self, filter: models.Filter | None = None, shard_keys: Sequence[ShardKey] | None = None) -> int: ...

    async def search(self, queries: NDArray[np.float32], query: PointQuery) -> Sequence[Sequence[Any]]:
        """Return the points found for each query (m, d), best first, with the attributes of `FoundPoint`."""

    async def search_text(self, question: str, query: PointQuery) -> Sequence[Any]:
        """Return the points that hold any word of the question, best first by BM25."""

    async def payload_indexes(self) -> dict[str, Any]:
        """Return the indexes on fields of payloads, as `create_payload_index` of the same kind of engine takes them."""

    async def create_payload_index(self, field: str, schema: Any) -> None:
        """Index a field of payloads, replacing its index."""

    async def index_metadata(self, index: MetadataIndex) -> None: ...

    async def index_texts(self, language: str) -> None:
        """Index the words of the documents, stemmed in this language, replacing their index."""

    async def text_language(self) -> str | None:
        """Return the language in which documents are indexed; None where they are not."""

    async def index_state(self) -> IndexState: ...

    async def build_index(self, progress: Progress) -> None:
        """Build the search graph over all points; return when it is complete."""

    async def sizes(self) -> PointSizes: ...

    async def flush(self) -> None:
        """Make writes survive a loss of power, as far as the engine does not see to that itself."""


class AsyncBackend(Protocol):
    """Collections by name, their descriptions, version records and stored loads."""

    warning: str | None
    """A warning for the user, if any."""

    engine_version: EngineVersion
    """The version of the engine that holds the points."""

    @property
    def changes(self) -> int:
        """How often this backend created or dropped a collection."""

    async def names(self) -> list[str]:
        """Return the names of the engine's collections that qvec made, in order."""

    async def describe(self, name: str) -> Description | None:
        """Return the description of a collection; None where there is none, or qvec did not make it."""

    async def unmanaged(self, name: str) -> UnmanagedCollection | None:
        """Return what the engine reports about a collection, whoever made it; None where there is none.

        Raise CollectionError unless its points have one unnamed vector.
        """

    async def create(self, name: str, description: Description) -> None: ...

    async def warn_of_replicas(self, name: str) -> None:
        """Log what a user may not expect of the replicas of a collection that was just created."""

    async def replace_description(self, name: str, description: Description) -> None: ...

    async def drop(self, name: str) -> None: ...

    async def engine(self, name: str, layout: VectorLayout, sharding: Sharding) -> AsyncEngine:
        """Return the engine with a collection's points. A directory raises CollectionError where it was dropped."""

    async def read_record(self, name: str) -> VersionRecord | None:
        """Return the version record of a collection; None where it was never recalibrated."""

    async def peek(self, name: str) -> tuple[VersionRecord | None, Fingerprint | None]:
        """Return what shows in one request whether a collection is still the one that was opened.

        That is its version record, and the fingerprint of the description stored under its name.
        """

    async def write_record(self, name: str, record: VersionRecord) -> None: ...

    async def read_loads(self, name: str) -> dict[str, Any]:
        """Return the stored loads of a collection, by source."""

    async def read_load(self, name: str, source: str) -> dict[str, Any] | None: ...

    async def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        """Store a load, or delete it (None)."""

    async def diagnose(self) -> Diagnosis:
        """Return the version of the engine, and known problems."""

    def load_lock(self, name: str, source: str) -> AbstractContextManager[None]:
        """Hold the lock on loading a source, where the backend has locks."""

    def registry_lock(self) -> AbstractContextManager[None]:
        """Let one load at a time start, where the backend has locks."""

    async def break_off(self) -> None:
        """End all requests to a server; the embedded engine finishes its own."""

    async def close(self) -> None: ...
