"""The two requests that have to be fast, built as protocol buffers without the client's models between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, json_to_value

from qvec.qdrant.engine import Found, Request
from qvec.qdrant.ids import PointId
from qvec.qdrant.points import Payload, Points

_DENSE_FIELD = b"\x0a"
"""Key of DenseVector.data: field 1, length-delimited."""


def dense(values: NDArray[np.float32]) -> grpc.DenseVector:
    """A vector (d,). A packed repeated float is its little-endian bytes, so that no float is touched one by one."""
    data = np.ascontiguousarray(values, "<f4").tobytes()
    vector: grpc.DenseVector = grpc.DenseVector.FromString(_DENSE_FIELD + _varint(len(data)) + data)
    return vector


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def upserts(
    collection: str, points: Points, most_bytes: int, shard_key: str | None, timeout: int
) -> Iterator[grpc.UpsertPoints]:
    """Requests that write points in order, each of about `most_bytes` at most, or of one point."""
    batch: list[grpc.PointStruct] = []
    size = 0
    for id, vector, payload in zip(points.ids, points.vectors, points.payloads, strict=True):
        point = _point(id, vector, payload)
        if batch and size + point.ByteSize() > most_bytes:
            yield _upsert(collection, batch, shard_key, timeout)
            batch, size = [], 0
        batch.append(point)
        size += point.ByteSize()
    if batch:
        yield _upsert(collection, batch, shard_key, timeout)


def _point(id: PointId, vector: NDArray[np.float32], payload: Payload) -> grpc.PointStruct:
    return grpc.PointStruct(
        id=point_id(id),
        vectors=grpc.Vectors(vector=grpc.Vector(dense=dense(vector))),
        payload={key: json_to_value(value) for key, value in payload.items()},
    )


def point_id(id: PointId) -> grpc.PointId:
    return grpc.PointId(num=id) if isinstance(id, int) else grpc.PointId(uuid=id)


def _upsert(collection: str, batch: list[grpc.PointStruct], shard_key: str | None, timeout: int) -> grpc.UpsertPoints:
    return grpc.UpsertPoints(
        collection_name=collection, points=batch, wait=True, shard_key_selector=selector(shard_key), timeout=timeout
    )


def selector(shard_key: str | None) -> grpc.ShardKeySelector | None:
    return None if shard_key is None else grpc.ShardKeySelector(shard_keys=[grpc.ShardKey(keyword=shard_key)])


def queries(collection: str, vectors: NDArray[np.float32], request: Request, timeout: int) -> grpc.QueryBatchPoints:
    """A search for each vector (m, d)."""
    filter = None if request.filter is None else RestToGrpc.convert_filter(request.filter)
    params = grpc.SearchParams(
        exact=request.exact,
        quantization=grpc.QuantizationSearchParams(
            ignore=request.exact,
            rescore=request.rescore,
            oversampling=request.oversampling if request.rescore else None,
        ),
    )
    return grpc.QueryBatchPoints(
        collection_name=collection,
        query_points=[
            grpc.QueryPoints(
                collection_name=collection,
                query=grpc.Query(nearest=grpc.VectorInput(dense=dense(vector))),
                limit=request.limit,
                filter=filter,
                params=params,
                with_payload=RestToGrpc.convert_with_payload_interface(request.payload),
            )
            for vector in vectors
        ],
        timeout=timeout,
    )


def found(point: Any) -> Found:
    """A ScoredPoint of an answer."""
    return Found(_id(point.id), point.score, GrpcToRest.convert_payload(point.payload))


def _id(id: Any) -> int | str:
    return int(id.num) if id.WhichOneof("point_id_options") == "num" else str(id.uuid)
