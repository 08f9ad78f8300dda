"""The three gRPC services; each method passes one request to the store."""

# ruff: noqa: N802, ARG002 (names and arguments are those of the generated services)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from qdrant_client import grpc as messages

from . import point_conversion as convert
from .collection_store import CollectionStore
from .status_errors import StatusError, bad_input, not_found, unimplemented

Answer = TypeVar("Answer")
Context = grpc.ServicerContext


class Qdrant(messages.QdrantServicer):
    """Health and version."""

    def __init__(self, version: str) -> None:
        self._version = version

    def HealthCheck(self, request: Any, context: Context) -> Any:
        return messages.HealthCheckReply(title="qdrant - vector search engine", version=self._version)


class Collections(messages.CollectionsServicer):
    """Collections and aliases."""

    def __init__(self, store: CollectionStore) -> None:
        self._store = store

    def List(self, request: Any, context: Context) -> Any:
        found = [messages.CollectionDescription(name=name) for name in self._store.names]
        return messages.ListCollectionsResponse(collections=found)

    def CollectionExists(self, request: Any, context: Context) -> Any:
        exists = self._store.has(request.collection_name)
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=exists))

    def Get(self, request: Any, context: Context) -> Any:
        return messages.GetCollectionInfoResponse(result=self._store.reachable(request.collection_name).info())

    def Create(self, request: Any, context: Context) -> Any:
        self._store.create(request)
        return messages.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Context) -> Any:
        self._store.get(request.collection_name).update(request)
        return messages.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Context) -> Any:
        return messages.CollectionOperationResponse(result=self._store.delete(request.collection_name))

    def CreateShardKey(self, request: Any, context: Context) -> Any:
        (key,) = convert.shard_keys([request.request.shard_key])
        self._store.get(request.collection_name).create_shard_key(key)
        return messages.CreateShardKeyResponse(result=True)

    def CollectionClusterInfo(self, request: Any, context: Context) -> Any:
        return self._store.get(request.collection_name).placement.info()

    def UpdateCollectionClusterSetup(self, request: Any, context: Context) -> Any:
        if not request.HasField("replicate_shard"):
            raise unimplemented("this cluster operation")
        self._store.get(request.collection_name).placement.replicate(request.replicate_shard)
        return messages.UpdateCollectionClusterSetupResponse(result=True)

    def UpdateAliases(self, request: Any, context: Context) -> Any:
        self._store.change_aliases(request.actions)
        return messages.CollectionOperationResponse(result=True)

    def ListAliases(self, request: Any, context: Context) -> Any:
        return _aliases(self._store.aliases)

    def ListCollectionAliases(self, request: Any, context: Context) -> Any:
        if not self._store.has(request.collection_name):
            raise not_found(request.collection_name)
        aliases = self._store.aliases.items()
        return _aliases({alias: name for alias, name in aliases if name == request.collection_name})


class Points(messages.PointsServicer):
    """Points and payload indexes."""

    def __init__(self, store: CollectionStore) -> None:
        self._store = store

    def Upsert(self, request: Any, context: Context) -> Any:
        return self._write(request, convert.upsert_operation(request))

    def Delete(self, request: Any, context: Context) -> Any:
        if not request.points.HasField("filter") and not request.points.points.ids:
            raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, "Bad request: Empty update request")
        return self._write(request, convert.delete_operation(request))

    def SetPayload(self, request: Any, context: Context) -> Any:
        return self._write(request, convert.set_payload_operation(request))

    def CreateFieldIndex(self, request: Any, context: Context) -> Any:
        if not request.HasField("field_type"):
            raise bad_input(f"the index on {request.field_name!r} has no type")
        kind = messages.FieldType.Name(request.field_type).removeprefix("FieldType")
        parameters = request.field_index_params if request.HasField("field_index_params") else None
        collection = self._store.get(request.collection_name)
        collection.check_write(request, [])
        return _write_response(request, collection.create_index(request.field_name, kind, parameters))

    def DeleteFieldIndex(self, request: Any, context: Context) -> Any:
        collection = self._store.get(request.collection_name)
        return _write_response(request, collection.delete_index(request.field_name))

    def Get(self, request: Any, context: Context) -> Any:
        arguments = (
            convert.ids(request.ids),
            convert.with_payload(request, default=True),
            convert.with_vectors(request),
        )
        found = self._read(request, lambda shard: shard.retrieve(*arguments))
        by_id = {str(record.id): record for records in found for record in records}
        return messages.GetResponse(result=map(convert.retrieved_point, by_id.values()))

    def Scroll(self, request: Any, context: Context) -> Any:
        scrolled = convert.scroll_request(request)
        pages = self._read(request, lambda shard: shard.scroll(scrolled))
        found, following = _merged(pages, request.limit if request.HasField("limit") else 10)
        offset = None if following is None else convert.point_id(following)
        return messages.ScrollResponse(result=map(convert.retrieved_point, found), next_page_offset=offset)

    def Count(self, request: Any, context: Context) -> Any:
        counted = self._read(request, lambda shard: shard.count(convert.count_request(request)))
        return messages.CountResponse(result=messages.CountResult(count=sum(counted)))

    def Query(self, request: Any, context: Context) -> Any:
        return messages.QueryResponse(result=self._query(request, request))

    def QueryBatch(self, request: Any, context: Context) -> Any:
        found = [messages.BatchResult(result=self._query(one, request)) for one in request.query_points]
        return messages.QueryBatchResponse(result=found)

    def _query(self, request: Any, whole: Any) -> list[Any]:
        """Return the ScoredPoints for one QueryPoints, whose consistency is that of the `whole` request."""
        query = convert.query_request(request)
        found = self._read(request, lambda shard: shard.query(query), whole)
        if len(found) > 1 and request.offset:
            raise unimplemented("an offset in several shards")
        best = sorted((point for points in found for point in points), key=lambda point: -point.score)
        return [convert.scored_point(point) for point in best[: request.limit if request.HasField("limit") else 10]]

    def _read(self, request: Any, function: Callable[[Any], Answer], whole: Any = None) -> list[Answer]:
        """Return what a function returns for each shard that a request reads."""
        collection = self._store.get(request.collection_name)
        keys = convert.shard_keys(request.shard_key_selector.shard_keys)
        collection.placement.check_read(request if whole is None else whole, keys)
        return collection.read(function, keys)

    def _write(self, request: Any, operation: Any) -> Any:
        """Apply an operation to the shards that a request names, and return the response."""
        collection = self._store.get(request.collection_name)
        keys = convert.shard_keys(request.shard_key_selector.shard_keys)
        collection.check_write(request, keys)
        return _write_response(request, collection.write(operation, keys))


def _merged(pages: list[tuple[list[Any], Any]], limit: int) -> tuple[list[Any], Any]:
    """Return the first records of all shards in the order of their ids, and the id of the next one."""
    records = sorted((record for found, _ in pages for record in found), key=lambda record: _order(record.id))
    following = [record.id for record in records[limit:]] + [id for _, id in pages if id is not None]
    return records[:limit], min(following, key=_order, default=None)


def _order(id: Any) -> tuple[bool, int, str]:
    """Return the place of an id: numbers come before UUIDs."""
    return (False, id, "") if isinstance(id, int) else (True, 0, str(id))


def _write_response(request: Any, number: int) -> Any:
    """Return the response to a write: completed, or acknowledged if the client does not wait (it is done anyway)."""
    status = messages.UpdateStatus.Completed if request.wait else messages.UpdateStatus.Acknowledged
    return messages.PointsOperationResponse(result=messages.UpdateResult(operation_id=number, status=status))


def _aliases(aliases: dict[str, str]) -> Any:
    found = [messages.AliasDescription(alias_name=alias, collection_name=name) for alias, name in aliases.items()]
    return messages.ListAliasesResponse(aliases=found)
