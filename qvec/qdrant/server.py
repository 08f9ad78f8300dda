"""A collection's points on a server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from qvec.errors import DatabaseError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import full_text, messages, metadata_index
from qvec.qdrant.engine import Found, IndexState, Record, Request, Sizes
from qvec.qdrant.ids import PointId
from qvec.qdrant.points import Points
from qvec.qdrant.steps import Compute, Pause, Steps, at_once
from qvec.stores import Progress

INDEXING_THRESHOLD_KB = 10_000
"""Vectors of a segment below this are scanned; the server's own default."""
_REQUEST_BYTES = 8 << 20
"""Of an upsert: a quarter of what a server takes by default."""
_POLL_SECONDS = 0.5
_SETTLED_POLLS = 3


class ServerEngine:
    """The points of one collection on a server. A request that was refused or whose answer was lost is sent again: it
    writes the same once more."""

    def __init__(self, collection: str, shard_key: str | None, timeout: int) -> None:
        """`timeout` is how many seconds a request may take."""
        self._collection = collection
        self._shard_key = shard_key
        self._timeout = timeout

    def upsert(self, points: Points) -> Steps[None]:
        requests = messages.upserts(self._collection, points, _REQUEST_BYTES, self._shard_key, self._timeout)
        while request := (yield Compute(partial(next, requests, None))):
            yield partial(_upsert, request, self._timeout)

    def delete(self, ids: Sequence[PointId]) -> Steps[None]:
        selector = models.PointIdsList(points=list(ids))
        yield lambda client: client.delete(self._collection, selector, wait=True)

    def retrieve(self, ids: Sequence[PointId], *, payload: bool, vectors: bool = False) -> Steps[list[Record]]:
        found = yield lambda client: client.retrieve(
            self._collection, list(ids), with_payload=payload, with_vectors=vectors
        )
        return [_record(record, vectors) for record in found]

    def search(self, queries: NDArray[np.float32], request: Request) -> Steps[list[list[Found]]]:
        wanted = messages.queries(self._collection, queries, request, self._timeout)
        answer = yield lambda client: client.grpc_points.QueryBatch(wanted, timeout=self._timeout)
        return [[messages.found(point) for point in batch.result] for batch in answer.result]

    def scroll(
        self,
        start: PointId | None,
        limit: int,
        *,
        vectors: bool,
        filter: models.Filter | None = None,
        payload: bool | list[str] = True,
    ) -> Steps[tuple[list[Record], PointId | None]]:
        found, following = yield lambda client: client.scroll(
            self._collection,
            scroll_filter=filter,
            limit=limit,
            offset=start,
            with_payload=payload,
            with_vectors=vectors,
        )
        return [_record(record, vectors) for record in found], following

    def count(self) -> Steps[int]:
        answer = yield lambda client: client.count(self._collection, exact=True)
        return int(answer.count)

    def clear(self) -> Steps[None]:
        everything = models.FilterSelector(filter=models.Filter())
        yield lambda client: client.delete(self._collection, everything, wait=True)

    def indexes(self) -> Steps[dict[str, Any]]:
        found = (yield from self._info()).payload_schema
        return {field: index.params or index.data_type for field, index in found.items()}

    def create_index(self, field: str, schema: Any) -> Steps[None]:
        yield lambda client: client.create_payload_index(self._collection, field, schema, wait=True)

    def index_metadata(self, index: MetadataIndex) -> Steps[None]:
        return self.create_index(*metadata_index.create(index))

    def index_texts(self, language: str) -> Steps[None]:
        yield from self.create_index(full_text.FIELD, full_text.create(language))
        if (yield from self.texts_language()) is None:
            raise DatabaseError("the server does not rank by words; that needs Qdrant 1.20 or newer")

    def texts_language(self) -> Steps[str | None]:
        index = (yield from self._info()).payload_schema.get(full_text.FIELD)
        return full_text.language(index and index.params)

    def search_text(self, question: str, request: Request) -> Steps[list[Found]]:
        wanted = messages.text_query(self._collection, question, request, self._timeout)
        answer = yield lambda client: client.grpc_points.Query(wanted, timeout=self._timeout)
        return [messages.found(point) for point in answer.result]

    def index_state(self) -> Steps[IndexState]:
        info = yield from self._info()
        if info.config.optimizer_config.indexing_threshold == 0:
            return "none"
        return "built" if info.status is models.CollectionStatus.GREEN else "building"

    def build_index(self, progress: Progress) -> Steps[None]:
        """Switches indexing on and waits until the server says that it is through."""
        if (yield from self._info()).config.optimizer_config.indexing_threshold == 0:
            yield from self._configure(models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD_KB))
        settled = 0
        while settled < _SETTLED_POLLS:
            info = yield from self._info()
            if info.status is models.CollectionStatus.RED:
                raise DatabaseError(f"the server cannot index collection {self._collection!r}: {_fault(info)}")
            if info.status is models.CollectionStatus.GREY:  # restarted, it waits for a change before it goes on
                yield from self._configure(models.OptimizersConfigDiff())
            settled = settled + 1 if info.status is models.CollectionStatus.GREEN else 0
            progress(info.indexed_vectors_count or 0, info.points_count)
            yield Pause(_POLL_SECONDS)

    def _configure(self, optimizers: models.OptimizersConfigDiff) -> Steps[None]:
        yield lambda client: client.update_collection(self._collection, optimizers_config=optimizers)

    def _info(self) -> Steps[models.CollectionInfo]:
        info: models.CollectionInfo = yield lambda client: client.get_collection(self._collection)
        return info

    @at_once
    def sizes(self) -> Sizes:
        """A server does not tell."""
        return Sizes(None, None, None)

    @at_once
    def flush(self) -> None:
        """A server's write-ahead log has what it acknowledged."""


def _upsert(request: Any, timeout: int, client: Any) -> Any:
    return client.grpc_points.Upsert(request, timeout=timeout)


def _record(found: Any, vectors: bool) -> Record:
    return Record(found.id, found.payload, np.array(found.vector, np.float32) if vectors else None)


def _fault(info: models.CollectionInfo) -> str:
    status = info.optimizer_status
    return status.error if isinstance(status, models.OptimizersStatusOneOf1) else str(status)
