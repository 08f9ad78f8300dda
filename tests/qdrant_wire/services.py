"""The three gRPC services, each method one request of the store."""

# ruff: noqa: N802, ARG002 (names and arguments are those of the generated services)

from __future__ import annotations

from typing import Any

import grpc
from qdrant_client import grpc as messages

from . import points
from .collection import Collection
from .errors import bad_input, not_found
from .store import Store

Context = grpc.ServicerContext


class Qdrant(messages.QdrantServicer):
    """Health and version."""

    def __init__(self, version: str) -> None:
        self._version = version

    def HealthCheck(self, request: Any, context: Context) -> Any:
        return messages.HealthCheckReply(title="qdrant - vector search engine", version=self._version)


class Collections(messages.CollectionsServicer):
    """Collections and aliases."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def List(self, request: Any, context: Context) -> Any:
        found = [messages.CollectionDescription(name=name) for name in self._store.names]
        return messages.ListCollectionsResponse(collections=found)

    def CollectionExists(self, request: Any, context: Context) -> Any:
        exists = self._store.has(request.collection_name)
        return messages.CollectionExistsResponse(result=messages.CollectionExists(exists=exists))

    def Get(self, request: Any, context: Context) -> Any:
        return messages.GetCollectionInfoResponse(result=self._store.get(request.collection_name).info())

    def Create(self, request: Any, context: Context) -> Any:
        self._store.create(request)
        return messages.CollectionOperationResponse(result=True)

    def Update(self, request: Any, context: Context) -> Any:
        self._store.get(request.collection_name).update(request)
        return messages.CollectionOperationResponse(result=True)

    def Delete(self, request: Any, context: Context) -> Any:
        return messages.CollectionOperationResponse(result=self._store.delete(request.collection_name))

    def CreateShardKey(self, request: Any, context: Context) -> Any:
        self._store.get(request.collection_name).create_shard_key(request.request.shard_key)
        return messages.CreateShardKeyResponse(result=True)

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

    def __init__(self, store: Store) -> None:
        self._store = store

    def Upsert(self, request: Any, context: Context) -> Any:
        collection = self._collection(request, needs_shard_key=True)
        return _written(request, collection.write(points.upserted(request)))

    def Delete(self, request: Any, context: Context) -> Any:
        return _written(request, self._collection(request).write(points.deleted(request)))

    def SetPayload(self, request: Any, context: Context) -> Any:
        return _written(request, self._collection(request).write(points.payload_set(request)))

    def CreateFieldIndex(self, request: Any, context: Context) -> Any:
        if not request.HasField("field_type"):
            raise bad_input(f"the index on {request.field_name!r} has no type")
        kind = messages.FieldType.Name(request.field_type).removeprefix("FieldType")
        parameters = request.field_index_params if request.HasField("field_index_params") else None
        collection = self._store.get(request.collection_name)
        return _written(request, collection.create_index(request.field_name, kind, parameters))

    def DeleteFieldIndex(self, request: Any, context: Context) -> Any:
        collection = self._store.get(request.collection_name)
        return _written(request, collection.delete_index(request.field_name))

    def Get(self, request: Any, context: Context) -> Any:
        wanted = points.ids(request.ids), points.with_payload(request, default=True), points.with_vectors(request)
        found = self._collection(request).read(lambda shard: shard.retrieve(*wanted))
        return messages.GetResponse(result=map(points.record, found))

    def Scroll(self, request: Any, context: Context) -> Any:
        found, following = self._collection(request).read(lambda shard: shard.scroll(points.scroll(request)))
        offset = None if following is None else points.point_id(following)
        return messages.ScrollResponse(result=map(points.record, found), next_page_offset=offset)

    def Count(self, request: Any, context: Context) -> Any:
        counted = self._collection(request).read(lambda shard: shard.count(points.count(request)))
        return messages.CountResponse(result=messages.CountResult(count=counted))

    def Query(self, request: Any, context: Context) -> Any:
        return messages.QueryResponse(result=_queried(self._collection(request), request))

    def QueryBatch(self, request: Any, context: Context) -> Any:
        collection = self._store.get(request.collection_name)
        found = [messages.BatchResult(result=_queried(collection, one)) for one in request.query_points]
        return messages.QueryBatchResponse(result=found)

    def _collection(self, request: Any, needs_shard_key: bool = False) -> Collection:
        collection = self._store.get(request.collection_name)
        collection.check_shard_keys(request.shard_key_selector.shard_keys, needs_shard_key)
        return collection


def _queried(collection: Collection, request: Any) -> list[Any]:
    """ScoredPoints for one QueryPoints."""
    query = points.query(request)
    return [points.scored(found) for found in collection.read(lambda shard: shard.query(query))]


def _written(request: Any, number: int) -> Any:
    """The answer to a write: done, or only taken when the client does not wait (it is done here all the same)."""
    status = messages.UpdateStatus.Completed if request.wait else messages.UpdateStatus.Acknowledged
    return messages.PointsOperationResponse(result=messages.UpdateResult(operation_id=number, status=status))


def _aliases(aliases: dict[str, str]) -> Any:
    found = [messages.AliasDescription(alias_name=alias, collection_name=name) for alias, name in aliases.items()]
    return messages.ListAliasesResponse(aliases=found)
