# Generated from qvec/qdrant/_async/server_engine.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""A collection's points on a server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.errors import DatabaseError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import indexes, messages
from qvec.qdrant._sync.client import ServerClient
from qvec.qdrant.consistency import Consistency
from qvec.qdrant.engine_version import EngineVersion
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import FoundPoint, PointId, Points, PointSizes, StoredPoint
from qvec.results import IndexState, Progress
from qvec.waiting import in_thread, sleep

INDEXING_THRESHOLD_KB = 10_000
"""Segments with fewer bytes of vectors are scanned; the server's own default."""
_MAX_UPSERT_BYTES = 8 << 20
"""A quarter of the largest request that a server accepts by default."""
_POLL_SECONDS = 0.5
_SETTLED_POLLS = 3


class ServerEngine:
    """The points of one collection on a server; see `AsyncEngine`.

    A request that was refused, or whose answer was lost, is sent again: it writes the same once more.
    """

    def __init__(
        self,
        client: ServerClient,
        collection: str,
        shard_key: str | None,
        timeout: int,
        version: str,
        consistency: Consistency,
    ) -> None:
        """`timeout` is the time limit of a request in seconds, `version` the server's."""
        self._client = client
        self._collection = collection
        self._shard_key = shard_key
        self._timeout = timeout
        self._version = version
        self._consistency: Any = consistency.of_reads
        self._ordering: Any = consistency.of_writes

    def upsert(self, points: Points) -> None:
        requests = messages.upserts(
            self._collection, points, _MAX_UPSERT_BYTES, self._shard_key, self._timeout, self._ordering
        )
        while (request := in_thread(next, requests, None)) is not None:
            self._upsert(request)

    def _upsert(self, request: Any) -> None:
        self._client.send(lambda client: client.grpc_points.Upsert(request, timeout=self._timeout))

    def delete(self, ids: Sequence[PointId]) -> None:
        self._delete(models.PointIdsList(points=list(ids)))

    def clear(self) -> None:
        self._delete(models.FilterSelector(filter=models.Filter()))

    def _delete(self, selector: models.PointsSelector) -> None:
        self._client.send(lambda client: client.delete(self._collection, selector, wait=True, ordering=self._ordering))

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[StoredPoint]:
        found = self._client.send(
            lambda client: client.retrieve(
                self._collection,
                list(ids),
                with_payload=payload,
                with_vectors=vectors,
                consistency=self._consistency,
            )
        )
        return [_stored_point(record, vectors) for record in found]

    def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
    ) -> tuple[list[StoredPoint], PointId | None]:
        found, following = self._client.send(
            lambda client: client.scroll(
                self._collection,
                scroll_filter=filter,
                limit=limit,
                offset=start,
                with_payload=payload,
                with_vectors=vectors,
                consistency=self._consistency,
            )
        )
        next_id: Any = following
        return [_stored_point(record, vectors) for record in found], next_id

    def count(self) -> int:
        request = messages.count(self._collection, self._timeout, self._consistency)
        answer: Any = self._client.send(lambda client: client.grpc_points.Count(request, timeout=self._timeout))
        return int(answer.result.count)

    # Searches

    def search(self, queries: NDArray[np.float32], query: PointQuery) -> list[list[FoundPoint]]:
        request = messages.vector_queries(self._collection, queries, query, self._timeout, self._consistency)
        answer: Any = self._client.send(lambda client: client.grpc_points.QueryBatch(request, timeout=self._timeout))
        return [[messages.found_point(point) for point in batch.result] for batch in answer.result]

    def search_text(self, question: str, query: PointQuery) -> list[FoundPoint]:
        request = messages.text_query(self._collection, question, query, self._timeout, self._consistency)
        answer: Any = self._client.send(lambda client: client.grpc_points.Query(request, timeout=self._timeout))
        return [messages.found_point(point) for point in answer.result]

    # Indexes

    def payload_indexes(self) -> dict[str, Any]:
        found = self._info().payload_schema
        return {field: index.params or index.data_type for field, index in found.items()}

    def create_payload_index(self, field: str, schema: Any) -> None:
        self._client.send(
            lambda client: client.create_payload_index(
                self._collection, field, schema, wait=True, ordering=self._ordering
            )
        )

    def index_metadata(self, index: MetadataIndex) -> None:
        self.create_payload_index(*indexes.metadata_schema(index))

    def index_texts(self, language: str) -> None:
        """Raise DatabaseError where the server is too old to rank by words."""
        if not EngineVersion.parse(self._version).ranks_texts:
            raise DatabaseError(
                f"the server is Qdrant {self._version}, which does not rank by words; that needs 1.20 or newer"
            )
        self.create_payload_index(indexes.TEXT_FIELD, indexes.text_schema(language))

    def text_language(self) -> str | None:
        index = self._info().payload_schema.get(indexes.TEXT_FIELD)
        return indexes.text_language(index and index.params)

    def index_state(self) -> IndexState:
        info = self._info()
        if info.config.optimizer_config.indexing_threshold == 0:
            return "none"
        return "built" if info.status is models.CollectionStatus.GREEN else "building"

    def build_index(self, progress: Progress) -> None:
        """Switch indexing on and wait until the server reports that it is done."""
        if self._info().config.optimizer_config.indexing_threshold == 0:
            self._configure(models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD_KB))
        settled = 0
        while settled < _SETTLED_POLLS:
            info = self._info()
            if info.status is models.CollectionStatus.RED:
                raise DatabaseError(f"the server cannot index collection {self._collection!r}: {_fault(info)}")
            if info.status is models.CollectionStatus.GREY:  # after a restart it continues only when something changes
                self._configure(models.OptimizersConfigDiff())
            settled = settled + 1 if info.status is models.CollectionStatus.GREEN else 0
            progress(info.indexed_vectors_count or 0, info.points_count)
            sleep(_POLL_SECONDS)

    def _configure(self, optimizers: models.OptimizersConfigDiff) -> None:
        self._client.send(lambda client: client.update_collection(self._collection, optimizers_config=optimizers))

    def _info(self) -> models.CollectionInfo:
        return self._client.send(lambda client: client.get_collection(self._collection))

    def sizes(self) -> PointSizes:
        """A server does not report sizes."""
        return PointSizes(None, None, None)

    def flush(self) -> None:
        """Do nothing: what a server acknowledged is in its write-ahead log."""


def _stored_point(found: Any, vectors: bool) -> StoredPoint:
    return StoredPoint(found.id, found.payload, np.array(found.vector, np.float32) if vectors else None)


def _fault(info: models.CollectionInfo) -> str:
    status = info.optimizer_status
    return status.error if isinstance(status, models.OptimizersStatusOneOf1) else str(status)
