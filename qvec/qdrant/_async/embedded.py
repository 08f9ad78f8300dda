"""The embedded engine as a backend: its calls block, so asynchronous callers make each of them in a thread.

The engine holds the interpreter's lock while it writes, so large writes still hold up an event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.metadata_index import MetadataIndex
from qvec.qdrant.description import Description, Fingerprint, UnmanagedCollection
from qvec.qdrant.directory import Directory
from qvec.qdrant.engine_version import NEWEST
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import PointId, Points, PointSizes, StoredPoint
from qvec.qdrant.shard_keys import ShardKey
from qvec.qdrant.vector_layout import Sharding, VectorLayout
from qvec.qdrant.version_record import VersionRecord
from qvec.results import IndexState, Progress
from qvec.store.diagnosis import Diagnosis
from qvec.waiting import in_thread_async

if TYPE_CHECKING:
    from qvec.qdrant.edge import EdgeShard


class AsyncEdgeEngine:
    """The points of one collection in a directory; see `AsyncEngine`."""

    def __init__(self, shard: EdgeShard) -> None:
        self._shard = shard

    async def upsert(self, points: Points) -> None:
        await in_thread_async(self._shard.upsert, points)

    async def delete(self, ids: Sequence[PointId]) -> None:
        await in_thread_async(self._shard.delete, ids)

    async def clear(self) -> None:
        await in_thread_async(self._shard.clear)

    async def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[StoredPoint]:
        return await in_thread_async(self._shard.retrieve, ids, payload=payload, vectors=vectors)

    async def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
        shard_keys: Sequence[ShardKey] | None = None,  # noqa: ARG002 - a directory has none
    ) -> tuple[list[StoredPoint], PointId | None]:
        return await in_thread_async(self._shard.scroll, start, limit, vectors=vectors, filter=filter, payload=payload)

    async def count(
        self,
        filter: models.Filter | None = None,
        shard_keys: Sequence[ShardKey] | None = None,  # noqa: ARG002 - a directory has none
    ) -> int:
        return await in_thread_async(self._shard.count, filter)

    async def search(self, queries: NDArray[np.float32], query: PointQuery) -> Sequence[Sequence[Any]]:
        return await in_thread_async(self._shard.search, queries, query)

    async def search_text(self, question: str, query: PointQuery) -> Sequence[Any]:
        return await in_thread_async(self._shard.search_text, question, query)

    async def payload_indexes(self) -> dict[str, Any]:
        return await in_thread_async(self._shard.payload_indexes)

    async def create_payload_index(self, field: str, schema: Any) -> None:
        await in_thread_async(self._shard.create_payload_index, field, schema)

    async def index_metadata(self, index: MetadataIndex) -> None:
        await in_thread_async(self._shard.index_metadata, index)

    async def index_texts(self, language: str) -> None:
        await in_thread_async(self._shard.index_texts, language)

    async def text_language(self) -> str | None:
        return await in_thread_async(self._shard.text_language)

    async def index_state(self) -> IndexState:
        return await in_thread_async(self._shard.index_state)

    async def build_index(self, progress: Progress) -> None:
        await in_thread_async(self._shard.build_index, progress)

    async def sizes(self) -> PointSizes:
        return await in_thread_async(self._shard.sizes)

    async def flush(self) -> None:
        await in_thread_async(self._shard.flush)


class AsyncDirectoryBackend:
    """The collections in a directory; see `AsyncBackend`."""

    warning: str | None = None
    engine_version = NEWEST

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @classmethod
    async def open(cls, path: str) -> AsyncDirectoryBackend:
        """Open a directory, creating it where it is missing.

        Raise DatabaseError where another process has it open, MissingExtraError where the engine is not installed.
        """
        return cls(await in_thread_async(Directory.open, Path(path)))

    @property
    def changes(self) -> int:
        return self._directory.changes

    async def names(self) -> list[str]:
        return await in_thread_async(self._directory.names)

    async def describe(self, name: str) -> Description | None:
        return await in_thread_async(self._directory.describe, name)

    async def unmanaged(self, name: str) -> UnmanagedCollection | None:
        return await in_thread_async(self._directory.unmanaged, name)

    async def create(self, name: str, description: Description) -> None:
        await in_thread_async(self._directory.create, name, description)

    async def warn_of_replicas(self, name: str) -> None:
        """Do nothing: a directory has no replicas."""

    async def replace_description(self, name: str, description: Description) -> None:
        await in_thread_async(self._directory.replace_description, name, description)

    async def drop(self, name: str) -> None:
        await in_thread_async(self._directory.drop, name)

    async def engine(self, name: str, layout: VectorLayout, sharding: Sharding) -> AsyncEdgeEngine:  # noqa: ARG002
        shard = self._directory.opened_shard(name)
        if shard is None:
            shard = await in_thread_async(self._directory.shard, name, layout)
        return AsyncEdgeEngine(shard)

    async def read_record(self, name: str) -> VersionRecord | None:
        return await in_thread_async(self._directory.read_record, name)

    async def peek(self, name: str) -> tuple[VersionRecord | None, Fingerprint | None]:
        return await in_thread_async(self._directory.peek, name)

    async def write_record(self, name: str, record: VersionRecord) -> None:
        await in_thread_async(self._directory.write_record, name, record)

    async def read_loads(self, name: str) -> dict[str, Any]:
        return await in_thread_async(self._directory.read_loads, name)

    async def read_load(self, name: str, source: str) -> dict[str, Any] | None:
        return await in_thread_async(self._directory.read_load, name, source)

    async def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        await in_thread_async(self._directory.write_load, name, source, load)

    def load_lock(self, name: str, source: str) -> AbstractContextManager[None]:
        return self._directory.load_lock(name, source)

    def registry_lock(self) -> AbstractContextManager[None]:
        return self._directory.registry_lock()

    async def diagnose(self) -> Diagnosis:
        return Diagnosis({"engine": f"qdrant-edge-py {version('qdrant-edge-py')}, in this process"})

    async def break_off(self) -> None:
        """Do nothing: the engine finishes its own calls."""

    async def close(self) -> None:
        await in_thread_async(self._directory.close)
