"""A collection's points on a server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models

from qvec.errors import DatabaseError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import messages, metadata_index
from qvec.qdrant.engine import Found, IndexState, Record, Request, Sizes
from qvec.qdrant.ids import PointId
from qvec.qdrant.layout import Layout
from qvec.qdrant.points import Points
from qvec.qdrant.retries import Retries
from qvec.stores import Progress

INDEXING_THRESHOLD_KB = 10_000
"""Vectors of a segment below this are scanned; the server's own default."""
_REQUEST_BYTES = 8 << 20
"""Of an upsert: a quarter of what a server takes by default."""
_POLL_SECONDS = 0.5
_SETTLED_POLLS = 3


class ServerEngine:
    """The points of one collection on a server, behind a client that others share."""

    def __init__(
        self,
        client: QdrantClient,
        repeated: Retries,
        collection: str,
        layout: Layout,
        shard_key: str | None,
        timeout: int,
    ) -> None:
        self._client = client
        self._repeated = repeated
        self._collection = collection
        self._layout = layout
        self._shard_key = shard_key
        self._timeout = timeout

    def upsert(self, points: Points) -> None:
        """Repeats a request that was refused or whose answer was lost: it writes the same points again."""
        for request in messages.upserts(self._collection, points, _REQUEST_BYTES, self._shard_key, self._timeout):
            self._repeated(partial(self._client.grpc_points.Upsert, request, timeout=self._timeout))

    def delete(self, ids: Sequence[PointId]) -> None:
        selector = models.PointIdsList(points=list(ids))
        self._repeated(lambda: self._client.delete(self._collection, selector, wait=True))

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[Record]:
        found = self._repeated(
            lambda: self._client.retrieve(self._collection, list(ids), with_payload=payload, with_vectors=vectors)
        )
        return [_record(record, vectors) for record in found]

    def search(self, queries: NDArray[np.float32], request: Request) -> list[list[Found]]:
        wanted = messages.queries(self._collection, queries, request, self._timeout)
        answer = self._repeated(lambda: self._client.grpc_points.QueryBatch(wanted, timeout=self._timeout))
        return [[messages.found(point) for point in batch.result] for batch in answer.result]

    def scroll(
        self, start: PointId | None, limit: int, *, vectors: bool, filter: models.Filter | None = None
    ) -> tuple[list[Record], PointId | None]:
        found, following = self._repeated(
            lambda: self._client.scroll(
                self._collection,
                scroll_filter=filter,
                limit=limit,
                offset=start,
                with_payload=True,
                with_vectors=vectors,
            )
        )
        return [_record(record, vectors) for record in found], following  # type: ignore[return-value]  # what the server sent is a number or a UUID

    def count(self) -> int:
        return self._repeated(lambda: self._client.count(self._collection, exact=True)).count

    def index_metadata(self, index: MetadataIndex) -> None:
        field, schema = metadata_index.create(index)
        self._repeated(lambda: self._client.create_payload_index(self._collection, field, schema, wait=True))

    def index_state(self) -> IndexState:
        info = self._info()
        if info.config.optimizer_config.indexing_threshold == 0:
            return "none"
        return "built" if info.status is models.CollectionStatus.GREEN else "building"

    def build_index(self, progress: Progress) -> None:
        """Switches indexing on and waits until the server says that it is through."""
        if self._info().config.optimizer_config.indexing_threshold == 0:
            self._configure(models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD_KB))
        settled = 0
        while settled < _SETTLED_POLLS:
            info = self._info()
            if info.status is models.CollectionStatus.RED:
                raise DatabaseError(f"the server cannot index collection {self._collection!r}: {_fault(info)}")
            if info.status is models.CollectionStatus.GREY:  # restarted, it waits for a change before it goes on
                self._configure(models.OptimizersConfigDiff())
            settled = settled + 1 if info.status is models.CollectionStatus.GREEN else 0
            progress(info.indexed_vectors_count or 0, info.points_count)
            time.sleep(_POLL_SECONDS)

    def _configure(self, optimizers: models.OptimizersConfigDiff) -> None:
        self._repeated(lambda: self._client.update_collection(self._collection, optimizers_config=optimizers))

    def _info(self) -> models.CollectionInfo:
        return self._repeated(lambda: self._client.get_collection(self._collection))

    def sizes(self) -> Sizes:
        """A server does not tell."""
        return Sizes(None, None, None)

    def flush(self) -> None:
        """A server's write-ahead log has what it acknowledged."""


def _record(found: Any, vectors: bool) -> Record:
    return Record(found.id, found.payload, np.array(found.vector, np.float32) if vectors else None)


def _fault(info: models.CollectionInfo) -> str:
    status = info.optimizer_status
    return status.error if isinstance(status, models.OptimizersStatusOneOf1) else str(status)
