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
from qvec.qdrant._async.client import AsyncServerClient
from qvec.qdrant.consistency import Consistency
from qvec.qdrant.engine_version import EngineVersion
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import FoundPoint, PointId, Points, PointSizes, StoredPoint
from qvec.results import IndexState, Progress
from qvec.waiting import in_thread_async, sleep_async

INDEXING_THRESHOLD_KB = 10_000
"""Segments with fewer bytes of vectors are scanned; the server's own default."""
_MAX_UPSERT_BYTES = 8 << 20
"""A quarter of the largest request that a server accepts by default."""
_POLL_SECONDS = 0.5
_SETTLED_POLLS = 3


class AsyncServerEngine:
    """The points of one collection on a server; see `AsyncEngine`.

    A request that was refused, or whose answer was lost, is sent again: it writes the same once more.
    """

    def __init__(
        self,
        client: AsyncServerClient,
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

    async def upsert(self, points: Points) -> None:
        requests = messages.upserts(
            self._collection, points, _MAX_UPSERT_BYTES, self._shard_key, self._timeout, self._ordering
        )
        while (request := await in_thread_async(next, requests, None)) is not None:
            await self._upsert(request)

    async def _upsert(self, request: Any) -> None:
        await self._client.send(lambda client: client.grpc_points.Upsert(request, timeout=self._timeout))

    async def delete(self, ids: Sequence[PointId]) -> None:
        await self._delete(models.PointIdsList(points=list(ids)))

    async def clear(self) -> None:
        await self._delete(models.FilterSelector(filter=models.Filter()))

    async def _delete(self, selector: models.PointsSelector) -> None:
        await self._client.send(
            lambda client: client.delete(self._collection, selector, wait=True, ordering=self._ordering)
        )

    async def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> list[StoredPoint]:
        found = await self._client.send(
            lambda client: client.retrieve(
                self._collection,
                list(ids),
                with_payload=payload,
                with_vectors=vectors,
                consistency=self._consistency,
            )
        )
        return [_stored_point(record, vectors) for record in found]

    async def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
    ) -> tuple[list[StoredPoint], PointId | None]:
        found, following = await self._client.send(
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

    async def count(self) -> int:
        request = messages.count(self._collection, self._timeout, self._consistency)
        answer: Any = await self._client.send(lambda client: client.grpc_points.Count(request, timeout=self._timeout))
        return int(answer.result.count)

    # Searches

    async def search(self, queries: NDArray[np.float32], query: PointQuery) -> list[list[FoundPoint]]:
        request = messages.vector_queries(self._collection, queries, query, self._timeout, self._consistency)
        answer: Any = await self._client.send(
            lambda client: client.grpc_points.QueryBatch(request, timeout=self._timeout)
        )
        return [[messages.found_point(point) for point in batch.result] for batch in answer.result]

    async def search_text(self, question: str, query: PointQuery) -> list[FoundPoint]:
        request = messages.text_query(self._collection, question, query, self._timeout, self._consistency)
        answer: Any = await self._client.send(lambda client: client.grpc_points.Query(request, timeout=self._timeout))
        return [messages.found_point(point) for point in answer.result]

    # Indexes

    async def payload_indexes(self) -> dict[str, Any]:
        found = (await self._info()).payload_schema
        return {field: index.params or index.data_type for field, index in found.items()}

    async def create_payload_index(self, field: str, schema: Any) -> None:
        await self._client.send(
            lambda client: client.create_payload_index(
                self._collection, field, schema, wait=True, ordering=self._ordering
            )
        )

    async def index_metadata(self, index: MetadataIndex) -> None:
        await self.create_payload_index(*indexes.metadata_schema(index))

    async def index_texts(self, language: str) -> None:
        """Raise DatabaseError where the server is too old to rank by words."""
        if not EngineVersion.parse(self._version).ranks_texts:
            raise DatabaseError(
                f"the server is Qdrant {self._version}, which does not rank by words; that needs 1.20 or newer"
            )
        await self.create_payload_index(indexes.TEXT_FIELD, indexes.text_schema(language))

    async def text_language(self) -> str | None:
        index = (await self._info()).payload_schema.get(indexes.TEXT_FIELD)
        return indexes.text_language(index and index.params)

    async def index_state(self) -> IndexState:
        info = await self._info()
        if info.config.optimizer_config.indexing_threshold == 0:
            return "none"
        return "built" if info.status is models.CollectionStatus.GREEN else "building"

    async def build_index(self, progress: Progress) -> None:
        """Switch indexing on and wait until the server reports that it is done."""
        if (await self._info()).config.optimizer_config.indexing_threshold == 0:
            await self._configure(models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD_KB))
        settled = 0
        while settled < _SETTLED_POLLS:
            info = await self._info()
            if info.status is models.CollectionStatus.RED:
                raise DatabaseError(f"the server cannot index collection {self._collection!r}: {_fault(info)}")
            if info.status is models.CollectionStatus.GREY:  # after a restart it continues only when something changes
                await self._configure(models.OptimizersConfigDiff())
            settled = settled + 1 if info.status is models.CollectionStatus.GREEN else 0
            progress(info.indexed_vectors_count or 0, info.points_count)
            await sleep_async(_POLL_SECONDS)

    async def _configure(self, optimizers: models.OptimizersConfigDiff) -> None:
        await self._client.send(lambda client: client.update_collection(self._collection, optimizers_config=optimizers))

    async def _info(self) -> models.CollectionInfo:
        return await self._client.send(lambda client: client.get_collection(self._collection))

    async def sizes(self) -> PointSizes:
        """A server does not report sizes."""
        return PointSizes(None, None, None)

    async def flush(self) -> None:
        """Do nothing: what a server acknowledged is in its write-ahead log."""


def _stored_point(found: Any, vectors: bool) -> StoredPoint:
    return StoredPoint(found.id, found.payload, np.array(found.vector, np.float32) if vectors else None)


def _fault(info: models.CollectionInfo) -> str:
    status = info.optimizer_status
    return status.error if isinstance(status, models.OptimizersStatusOneOf1) else str(status)
