"""Convert points, selectors and queries from protobuf to the engine's types and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import qdrant_edge as edge
from google.protobuf.message import Message
from qdrant_client import grpc as messages
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from qvec.qdrant import edge_filters

from .collection_config import options, refuse
from .status_errors import unimplemented


def upsert_operation(request: Any) -> edge.UpdateOperation:
    """Return the engine's operation for an UpsertPoints request."""
    mode = messages.UpdateMode.Name(request.update_mode)
    return edge.UpdateOperation.upsert_points(
        [_point(point) for point in request.points],
        condition=_filter(request, "update_filter"),
        update_mode=getattr(edge.UpdateMode, mode),
    )


def delete_operation(request: Any) -> edge.UpdateOperation:
    """Return the engine's operation for a DeletePoints request."""
    if request.points.HasField("filter"):
        return edge.UpdateOperation.delete_points_by_filter(_filter(request.points, "filter"))
    return edge.UpdateOperation.delete_points(ids(request.points.points.ids))


def set_payload_operation(request: Any) -> edge.UpdateOperation:
    """Return the engine's operation for a SetPayloadPoints request."""
    payload = GrpcToRest.convert_payload(request.payload)
    key = request.key if request.HasField("key") else None
    selector = request.points_selector
    if selector.HasField("filter"):
        return edge.UpdateOperation.set_payload_by_filter(_filter(selector, "filter"), payload, key)
    return edge.UpdateOperation.set_payload(ids(selector.points.ids), payload, key)


def query_request(request: Any) -> edge.QueryRequest:
    """Return the engine's request for a QueryPoints by one dense vector or by text."""
    refuse(request, "prefetch", "lookup_from", *(() if request.query.HasField("text") else ("using",)))
    return edge.QueryRequest(
        limit=request.limit if request.HasField("limit") else 10,
        offset=request.offset,
        query=_query(request) if request.HasField("query") else None,
        filter=_filter(request, "filter"),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        params=_search_params(request.params) if request.HasField("params") else None,
        with_payload=with_payload(request, default=False),
        with_vector=with_vectors(request),
    )


def scroll_request(request: Any) -> edge.ScrollRequest:
    """Return the engine's request for a ScrollPoints."""
    refuse(request, "order_by")
    return edge.ScrollRequest(
        offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
        limit=request.limit if request.HasField("limit") else 10,
        filter=_filter(request, "filter"),
        with_payload=with_payload(request, default=True),
        with_vector=with_vectors(request),
    )


def count_request(request: Any) -> edge.CountRequest:
    """Return the engine's request for a CountPoints."""
    exact = request.exact if request.HasField("exact") else True
    return edge.CountRequest(exact=exact, filter=_filter(request, "filter"))


def retrieved_point(found: edge.Record) -> Any:
    """Return a RetrievedPoint."""
    return messages.RetrievedPoint(**_common(found))


def scored_point(found: edge.ScoredPoint) -> Any:
    """Return a ScoredPoint."""
    return messages.ScoredPoint(**_common(found), score=found.score, version=found.version)


def shard_keys(given: Any) -> list[str | int]:
    """Return the keys of ShardKey messages."""
    return [key.keyword if key.HasField("keyword") else key.number for key in given]


def ids(given: Any) -> list[int | str]:
    return [GrpcToRest.convert_point_id(id) for id in given]


def point_id(id: Any) -> Any:
    """Return the PointId for an integer or UUID from the engine."""
    return RestToGrpc.convert_extended_point_id(id if isinstance(id, int) else str(id))


def with_payload(request: Any, default: bool) -> Any:
    """Return the engine's selector of all payload fields, none or some."""
    if not request.HasField("with_payload"):
        return default
    selector = request.with_payload
    if selector.HasField("exclude"):
        return edge.PayloadSelector.Exclude(list(selector.exclude.fields))
    return list(selector.include.fields) if selector.HasField("include") else selector.enable


def with_vectors(request: Any) -> bool:
    return request.with_vectors.enable or "" in request.with_vectors.include.names


def _common(found: edge.Record | edge.ScoredPoint) -> dict[str, Any]:
    return {
        "id": point_id(found.id),
        "payload": RestToGrpc.convert_payload(found.payload or {}),
        "vectors": RestToGrpc.convert_vector_struct_output(found.vector) if found.vector else None,
    }


def _point(point: Any) -> edge.Point:
    payload = GrpcToRest.convert_payload(point.payload)
    return edge.Point(GrpcToRest.convert_point_id(point.id), _vector(point.vectors), payload)


def _vector(vectors: Any) -> Any:
    """Return float32 (d,), or {} for a point without a vector. Older clients put the numbers directly into `data`."""
    if not vectors.HasField("vector") and not vectors.vectors.vectors:
        return {}
    if vectors.HasField("vectors") or vectors.vector.WhichOneof("vector") not in ("dense", None):
        raise unimplemented("vectors other than one unnamed dense vector")
    return np.array(vectors.vector.dense.data or vectors.vector.data, np.float32)


def _query(request: Any) -> edge.Query | edge.TextQuery:
    if request.query.HasField("text"):
        return edge.TextQuery(request.using, request.query.text.query)
    return _nearest(request.query)


def _nearest(query: Any) -> edge.Query:
    if query.WhichOneof("variant") != "nearest" or query.nearest.WhichOneof("variant") != "dense":
        raise unimplemented("queries other than nearest to a dense vector")
    return edge.Query.Nearest(np.array(query.nearest.dense.data, np.float32))


def _search_params(params: Any) -> edge.SearchParams:
    given = options(params, ignore=("quantization",))
    if params.HasField("quantization"):
        given["quantization"] = edge.QuantizationSearchParams(**options(params.quantization))
    return edge.SearchParams(**given)


def _filter(message: Message, field: str) -> edge.Filter | None:
    if not message.HasField(field):
        return None
    return edge_filters.convert(GrpcToRest.convert_filter(getattr(message, field)))
