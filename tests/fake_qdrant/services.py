"""The three gRPC services; each method passes one request to the store."""

# ruff: noqa: N802, ARG002 (names and arguments are those of the generated services)

from __future__ import annotations

from typing import Any

import grpc
from qdrant_client import grpc as messages

from . import point_conversion as convert
from .collection_store import CollectionStore
from .fake_collection import FakeCollection
from .status_errors import StatusError, bad_input, not_found, unimplemented

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
        self._store.get(request.collection_name).create_shard_key(request.request.shard_key)
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
        collection = self._written(request, needs_shard_key=True)
        return _write_response(request, collection.write(convert.upsert_operation(request)))

    def Delete(self, request: Any, context: Context) -> Any:
        if not request.points.HasField("filter") and not request.points.points.ids:
            raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, "Bad request: Empty update request")
        return _write_response(request, self._written(request).write(convert.delete_operation(request)))

    def SetPayload(self, request: Any, context: Context) -> Any:
        return _write_response(request, self._written(request).write(convert.set_payload_operation(request)))

    def CreateFieldIndex(self, request: Any, context: Context) -> Any:
        if not request.HasField("field_type"):
            raise bad_input(f"the index on {request.field_name!r} has no type")
        kind = messages.FieldType.Name(request.field_type).removeprefix("FieldType")
        parameters = request.field_index_params if request.HasField("field_index_params") else None
        collection = self._store.get(request.collection_name)
        collection.check_write(request)
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
        found = self._read(request).read(lambda shard: shard.retrieve(*arguments))
        return messages.GetResponse(result=map(convert.retrieved_point, found))

    def Scroll(self, request: Any, context: Context) -> Any:
        found, following = self._read(request).read(lambda shard: shard.scroll(convert.scroll_request(request)))
        offset = None if following is None else convert.point_id(following)
        return messages.ScrollResponse(result=map(convert.retrieved_point, found), next_page_offset=offset)

    def Count(self, request: Any, context: Context) -> Any:
        counted = self._read(request).read(lambda shard: shard.count(convert.count_request(request)))
        return messages.CountResponse(result=messages.CountResult(count=counted))

    def Query(self, request: Any, context: Context) -> Any:
        return messages.QueryResponse(result=_query(self._read(request), request))

    def QueryBatch(self, request: Any, context: Context) -> Any:
        collection = self._store.get(request.collection_name)
        collection.placement.check_read(request)
        found = [messages.BatchResult(result=_query(collection, one)) for one in request.query_points]
        return messages.QueryBatchResponse(result=found)

    def _read(self, request: Any) -> FakeCollection:
        """Return the collection of a read."""
        collection = self._store.get(request.collection_name)
        collection.placement.check_read(request)
        collection.check_shard_keys(request.shard_key_selector.shard_keys, is_needed=False)
        return collection

    def _written(self, request: Any, needs_shard_key: bool = False) -> FakeCollection:
        """Return the collection of a write."""
        collection = self._store.get(request.collection_name)
        collection.check_write(request)
        collection.check_shard_keys(request.shard_key_selector.shard_keys, needs_shard_key)
        return collection


def _query(collection: FakeCollection, request: Any) -> list[Any]:
    """Return the ScoredPoints for one QueryPoints."""
    query = convert.query_request(request)
    return [convert.scored_point(found) for found in collection.read(lambda shard: shard.query(query))]


def _write_response(request: Any, number: int) -> Any:
    """Return the response to a write: completed, or acknowledged if the client does not wait (it is done anyway)."""
    status = messages.UpdateStatus.Completed if request.wait else messages.UpdateStatus.Acknowledged
    return messages.PointsOperationResponse(result=messages.UpdateResult(operation_id=number, status=status))


def _aliases(aliases: dict[str, str]) -> Any:
    found = [messages.AliasDescription(alias_name=alias, collection_name=name) for alias, name in aliases.items()]
    return messages.ListAliasesResponse(aliases=found)
