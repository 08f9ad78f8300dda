# Generated from qvec/qdrant/_async/server_engine.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""A collection's points on a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.errors import DatabaseError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import connection, indexes, messages
from qvec.qdrant._sync.client import ServerClient
from qvec.qdrant._sync.shard_keys import ShardKeys
from qvec.qdrant.consistency import Consistency
from qvec.qdrant.engine_version import EngineVersion
from qvec.qdrant.errors import is_missing_shard_key, lacks_shards
from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import FoundPoint, PointId, Points, PointSizes, StoredPoint, plain
from qvec.qdrant.shard_keys import ShardKey, ids_by_key, payload_path, rows_by_key
from qvec.qdrant.vector_layout import Sharding
from qvec.results import IndexState, Progress
from qvec.waiting import in_thread, sleep

T = TypeVar("T")

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
        sharding: Sharding,
        shard_keys: ShardKeys,
        timeout: int,
        version: str,
        consistency: Consistency,
    ) -> None:
        """`timeout` is the time limit of a request in seconds, `version` the server's."""
        self._client = client
        self._collection = collection
        self._shard_key = sharding.shard_key
        self._shard_key_field = sharding.shard_key_field
        self._shard_keys = shard_keys
        self._timeout = timeout
        self._version = version
        self._consistency: Any = consistency.of_reads
        self._ordering: Any = consistency.of_writes

    def upsert(self, points: Points) -> None:
        if self._shard_key_field is None:
            self._upsert(points, self._shard_key)
            return
        by_key = rows_by_key(points, self._shard_key_field)
        for key in by_key:
            self._shard_keys.ensure(self._collection, key)
        self._delete_moved(by_key)
        for key, rows in by_key.items():
            self._upsert(rows, key)

    def _upsert(self, points: Points, shard_key: ShardKey | None) -> None:
        requests = messages.upserts(
            self._collection, points, _MAX_UPSERT_BYTES, shard_key, self._timeout, self._ordering
        )
        while (request := in_thread(next, requests, None)) is not None:
            self._send_upsert(request, shard_key)

    def _send_upsert(self, request: Any, shard_key: ShardKey | None) -> None:
        """Send an upsert, again while the node that answers does not know the shard key yet, or no more."""
        for pause in (*connection.RETRY_SECONDS, None):
            try:
                self._client.send(lambda client: client.grpc_points.Upsert(request, timeout=self._timeout))
                return
            except grpc.RpcError as error:
                if shard_key is None or pause is None or not is_missing_shard_key(error):
                    raise
            sleep(pause)
            self._shard_keys.create(self._collection, shard_key)

    def _delete_moved(self, by_key: Mapping[ShardKey, Points]) -> None:
        """Delete the rows with the same ids in shards of other keys: an id is unique in a shard only."""
        new_keys = {id: key for key, rows in by_key.items() for id in rows.ids}
        for key, ids in self._ids_by_key(list(new_keys)).items():
            moved = [id for id in ids if new_keys[id] != key]
            if moved:
                self._delete(models.PointIdsList(points=[*moved]), [key])

    def _ids_by_key(self, ids: Sequence[PointId]) -> dict[ShardKey, list[PointId]]:
        """Return the ids that exist, by the shard key of their rows."""
        assert self._shard_key_field is not None
        path = payload_path(self._shard_key_field)
        found = self._client.send(
            lambda client: client.retrieve(
                self._collection, list(ids), with_payload=[path], consistency=self._consistency
            )
        )
        return ids_by_key(((plain(record.id), record.payload) for record in found), self._shard_key_field)

    def delete(self, ids: Sequence[PointId]) -> None:
        if self._shard_key_field is None:
            self._delete(models.PointIdsList(points=list(ids)), self._fixed_keys)
            return
        for key, found in self._ids_by_key(ids).items():
            self._delete(models.PointIdsList(points=[*found]), [key])

    def clear(self) -> None:
        keys: Sequence[ShardKey] | None = self._fixed_keys
        if self._shard_key_field is not None:
            keys = list(self._shard_keys.existing(self._collection))
        if keys is None or keys:
            self._delete(models.FilterSelector(filter=models.Filter()), keys)

    @property
    def _fixed_keys(self) -> list[ShardKey] | None:
        """The key of the shard that holds all rows, if it has one: a server refuses writes without it."""
        return None if self._shard_key is None else [self._shard_key]

    def _delete(self, selector: models.PointsSelector, keys: Sequence[ShardKey] | None) -> None:
        shards: Any = messages.selector(keys)
        self._client.send(
            lambda client: client.delete(
                self._collection, selector, wait=True, ordering=self._ordering, shard_key_selector=shards
            )
        )

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
        shard_keys: Sequence[ShardKey] | None = None,
    ) -> tuple[list[StoredPoint], PointId | None]:
        def send(keys: Sequence[ShardKey] | None) -> tuple[list[StoredPoint], PointId | None]:
            shards: Any = messages.selector(keys)
            found, following = self._client.send(
                lambda client: client.scroll(
                    self._collection,
                    scroll_filter=filter,
                    limit=limit,
                    offset=start,
                    with_payload=payload,
                    with_vectors=vectors,
                    consistency=self._consistency,
                    shard_key_selector=shards,
                )
            )
            next_id: Any = following
            return [_stored_point(record, vectors) for record in found], next_id

        nothing: tuple[list[StoredPoint], PointId | None] = ([], None)
        return self._from_shards(shard_keys, send, nothing)

    def count(self, filter: models.Filter | None = None, shard_keys: Sequence[ShardKey] | None = None) -> int:
        def send(keys: Sequence[ShardKey] | None) -> int:
            request = messages.count(self._collection, filter, keys, self._timeout, self._consistency)
            answer: Any = self._client.send(lambda client: client.grpc_points.Count(request, timeout=self._timeout))
            return int(answer.result.count)

        return self._from_shards(shard_keys, send, 0)

    def _from_shards(
        self,
        shard_keys: Sequence[ShardKey] | None,
        send: Callable[[Sequence[ShardKey] | None], T],
        nothing: T,
    ) -> T:
        """Read from the shards of these keys; return `nothing` where none of them exists: a server refuses others."""
        if shard_keys is None:
            return send(None)
        if not shard_keys:
            return nothing
        try:
            return send(shard_keys)
        except grpc.RpcError as error:
            if not is_missing_shard_key(error):
                raise
        existing = self._shard_keys.existing(self._collection)
        kept = [key for key in shard_keys if key in existing]
        return send(kept) if kept else nothing

    # Searches

    def search(self, queries: NDArray[np.float32], query: PointQuery) -> list[list[FoundPoint]]:
        def send(keys: Sequence[ShardKey] | None) -> list[list[FoundPoint]]:
            routed = query if keys is query.shard_keys else replace(query, shard_keys=keys)
            request = messages.vector_queries(self._collection, queries, routed, self._timeout, self._consistency)
            answer: Any = self._client.send(
                lambda client: client.grpc_points.QueryBatch(request, timeout=self._timeout)
            )
            return [[messages.found_point(point) for point in batch.result] for batch in answer.result]

        return self._from_shards(query.shard_keys, send, [[] for _ in queries])

    def search_text(self, question: str, query: PointQuery) -> list[FoundPoint]:
        def send(keys: Sequence[ShardKey] | None) -> list[FoundPoint]:
            routed = query if keys is query.shard_keys else replace(query, shard_keys=keys)
            request = messages.text_query(self._collection, question, routed, self._timeout, self._consistency)
            answer: Any = self._client.send(lambda client: client.grpc_points.Query(request, timeout=self._timeout))
            return [messages.found_point(point) for point in answer.result]

        return self._from_shards(query.shard_keys, send, [])

    # Indexes

    def payload_indexes(self) -> dict[str, Any]:
        found = self._info().payload_schema
        return {field: index.params or index.data_type for field, index in found.items()}

    def create_payload_index(self, field: str, schema: Any) -> None:
        """Index a field; where a collection has no shards yet, each gets the index when it is created."""
        try:
            self._create_payload_index(field, schema)
        except grpc.RpcError as error:  # of older servers, once they have stored the schema
            if self._shard_key_field is None or not lacks_shards(error):
                raise

    def _create_payload_index(self, field: str, schema: Any) -> None:
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
