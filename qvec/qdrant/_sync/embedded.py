# Generated from qvec/qdrant/_async/embedded.py by tools/async_to_sync.py: edit that file, then run `make sync`.
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
from qvec.waiting import in_thread

if TYPE_CHECKING:
    from qvec.qdrant.edge import EdgeShard


class EdgeEngine:
    """The points of one collection in a directory; see `AsyncEngine`."""

    def __init__(self, shard: EdgeShard) -> None:
        self._shard = shard

    def upsert(self, points: Points) -> None:
        in_thread(self._shard.upsert, points)

    def delete(self, ids: Sequence[PointId]) -> None:
        in_thread(self._shard.delete, ids)

    def clear(self) -> None:
        in_thread(self._shard.clear)

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[StoredPoint]:
        return in_thread(self._shard.retrieve, ids, payload=payload, vectors=vectors)

    def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
        shard_keys: Sequence[ShardKey] | None = None,  # noqa: ARG002 - a directory has none
    ) -> tuple[list[StoredPoint], PointId | None]:
        return in_thread(self._shard.scroll, start, limit, vectors=vectors, filter=filter, payload=payload)

    def count(
        self,
        filter: models.Filter | None = None,
        shard_keys: Sequence[ShardKey] | None = None,  # noqa: ARG002 - a directory has none
    ) -> int:
        return in_thread(self._shard.count, filter)

    def search(self, queries: NDArray[np.float32], query: PointQuery) -> Sequence[Sequence[Any]]:
        return in_thread(self._shard.search, queries, query)

    def search_text(self, question: str, query: PointQuery) -> Sequence[Any]:
        return in_thread(self._shard.search_text, question, query)

    def payload_indexes(self) -> dict[str, Any]:
        return in_thread(self._shard.payload_indexes)

    def create_payload_index(self, field: str, schema: Any) -> None:
        in_thread(self._shard.create_payload_index, field, schema)

    def index_metadata(self, index: MetadataIndex) -> None:
        in_thread(self._shard.index_metadata, index)

    def index_texts(self, language: str) -> None:
        in_thread(self._shard.index_texts, language)

    def text_language(self) -> str | None:
        return in_thread(self._shard.text_language)

    def index_state(self) -> IndexState:
        return in_thread(self._shard.index_state)

    def build_index(self, progress: Progress) -> None:
        in_thread(self._shard.build_index, progress)

    def sizes(self) -> PointSizes:
        return in_thread(self._shard.sizes)

    def flush(self) -> None:
        in_thread(self._shard.flush)


class DirectoryBackend:
    """The collections in a directory; see `AsyncBackend`."""

    warning: str | None = None
    engine_version = NEWEST

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    @classmethod
    def open(cls, path: str) -> DirectoryBackend:
        """Open a directory, creating it where it is missing.

        Raise DatabaseError where another process has it open, MissingExtraError where the engine is not installed.
        """
        return cls(in_thread(Directory.open, Path(path)))

    @property
    def changes(self) -> int:
        return self._directory.changes

    def names(self) -> list[str]:
        return in_thread(self._directory.names)

    def describe(self, name: str) -> Description | None:
        return in_thread(self._directory.describe, name)

    def unmanaged(self, name: str) -> UnmanagedCollection | None:
        return in_thread(self._directory.unmanaged, name)

    def create(self, name: str, description: Description) -> None:
        in_thread(self._directory.create, name, description)

    def warn_of_replicas(self, name: str) -> None:
        """Do nothing: a directory has no replicas."""

    def replace_description(self, name: str, description: Description) -> None:
        in_thread(self._directory.replace_description, name, description)

    def drop(self, name: str) -> None:
        in_thread(self._directory.drop, name)

    def engine(self, name: str, layout: VectorLayout, sharding: Sharding) -> EdgeEngine:  # noqa: ARG002
        shard = self._directory.opened_shard(name)
        if shard is None:
            shard = in_thread(self._directory.shard, name, layout)
        return EdgeEngine(shard)

    def read_record(self, name: str) -> VersionRecord | None:
        return in_thread(self._directory.read_record, name)

    def peek(self, name: str) -> tuple[VersionRecord | None, Fingerprint | None]:
        return in_thread(self._directory.peek, name)

    def write_record(self, name: str, record: VersionRecord) -> None:
        in_thread(self._directory.write_record, name, record)

    def read_loads(self, name: str) -> dict[str, Any]:
        return in_thread(self._directory.read_loads, name)

    def read_load(self, name: str, source: str) -> dict[str, Any] | None:
        return in_thread(self._directory.read_load, name, source)

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None:
        in_thread(self._directory.write_load, name, source, load)

    def load_lock(self, name: str, source: str) -> AbstractContextManager[None]:
        return self._directory.load_lock(name, source)

    def registry_lock(self) -> AbstractContextManager[None]:
        return self._directory.registry_lock()

    def diagnose(self) -> Diagnosis:
        return Diagnosis({"engine": f"qdrant-edge-py {version('qdrant-edge-py')}, in this process"})

    def break_off(self) -> None:
        """Do nothing: the engine finishes its own calls."""

    def close(self) -> None:
        in_thread(self._directory.close)
