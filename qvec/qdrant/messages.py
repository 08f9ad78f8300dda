"""Requests built as protocol buffers without the models of qdrant-client, most of them because they have to be fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, json_to_value

from qvec.qdrant.point_query import PointQuery
from qvec.qdrant.points import DOCUMENT, FoundPoint, Payload, PointId, Points
from qvec.qdrant.shard_keys import ShardKey

_DENSE_FIELD = b"\x0a"
"""Key of DenseVector.data: field 1, length-delimited."""


def dense(values: NDArray[np.float32]) -> grpc.DenseVector:
    """Return a vector (d,). A packed repeated float is its little-endian bytes: no float is converted one by one."""
    vector = grpc.DenseVector()
    _set_dense(vector, values)
    return vector


def _set_dense(vector: grpc.DenseVector, values: NDArray[np.float32]) -> None:
    data = np.ascontiguousarray(values, "<f4").tobytes()
    vector.MergeFromString(_DENSE_FIELD + _varint(len(data)) + data)


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def upserts(
    collection: str,
    points: Points,
    max_bytes: int,
    shard_key: ShardKey | None,
    timeout: int,
    ordering: grpc.WriteOrdering | None = None,
) -> Iterator[grpc.UpsertPoints]:
    """Yield requests that write points in order, each of about `max_bytes` at most, or of one point.

    Points are filled in where they stay, since a message is copied when it is put into another.
    """
    empty = partial(_upsert, collection, shard_key, timeout, ordering)
    request, size = empty(), 0
    for id, vector, payload in zip(points.ids, points.vectors, points.payloads, strict=True):
        point = request.points.add()
        _fill(point, id, vector, payload)
        added = point.ByteSize()
        if size and size + added > max_bytes:
            following = empty()
            following.points.append(point)
            del request.points[-1]
            yield request
            request, size = following, 0
        size += added
    if size:
        yield request


def _fill(point: grpc.PointStruct, id: PointId, vector: NDArray[np.float32], payload: Payload) -> None:
    if isinstance(id, int):
        point.id.num = id
    else:
        point.id.uuid = id
    _set_dense(point.vectors.vector.dense, vector)
    for key, value in payload.items():
        if isinstance(value, str):
            point.payload[key].string_value = value
        else:
            point.payload[key].CopyFrom(json_to_value(value))


def _upsert(
    collection: str, shard_key: ShardKey | None, timeout: int, ordering: grpc.WriteOrdering | None
) -> grpc.UpsertPoints:
    return grpc.UpsertPoints(
        collection_name=collection,
        wait=True,
        shard_key_selector=selector(None if shard_key is None else [shard_key]),
        timeout=timeout,
        ordering=ordering,
    )


def selector(shard_keys: Sequence[ShardKey] | None) -> grpc.ShardKeySelector | None:
    """Return the selector of the shards with these keys; None for all shards."""
    return None if shard_keys is None else grpc.ShardKeySelector(shard_keys=[_shard_key(key) for key in shard_keys])


def _shard_key(key: ShardKey) -> grpc.ShardKey:
    return grpc.ShardKey(keyword=key) if isinstance(key, str) else grpc.ShardKey(number=key)


def vector_queries(
    collection: str,
    vectors: NDArray[np.float32],
    query: PointQuery,
    timeout: int,
    consistency: grpc.ReadConsistency | None = None,
) -> grpc.QueryBatchPoints:
    """Return one request that searches for each vector of (m, d)."""
    filter = None if query.filter is None else RestToGrpc.convert_filter(query.filter)
    params = grpc.SearchParams(
        hnsw_ef=query.ef,
        exact=query.exact,
        quantization=grpc.QuantizationSearchParams(
            ignore=query.exact,
            rescore=query.rescore,
            oversampling=query.oversampling if query.rescore else None,
        ),
    )
    return grpc.QueryBatchPoints(
        collection_name=collection,
        query_points=[
            grpc.QueryPoints(
                collection_name=collection,
                query=grpc.Query(nearest=grpc.VectorInput(dense=dense(vector))),
                limit=query.limit,
                filter=filter,
                params=params,
                with_payload=RestToGrpc.convert_with_payload_interface(query.payload),
                shard_key_selector=selector(query.shard_keys),
            )
            for vector in vectors
        ],
        timeout=timeout,
        read_consistency=consistency,
    )


def text_query(
    collection: str, question: str, query: PointQuery, timeout: int, consistency: grpc.ReadConsistency | None = None
) -> grpc.QueryPoints:
    """Return a request that searches the documents for the words of a question."""
    return grpc.QueryPoints(
        collection_name=collection,
        query=grpc.Query(text=grpc.TextQuery(query=question)),
        using=DOCUMENT,
        limit=query.limit,
        filter=None if query.filter is None else RestToGrpc.convert_filter(query.filter),
        with_payload=RestToGrpc.convert_with_payload_interface(query.payload),
        shard_key_selector=selector(query.shard_keys),
        timeout=timeout,
        read_consistency=consistency,
    )


def count(
    collection: str,
    filter: models.Filter | None,
    shard_keys: Sequence[ShardKey] | None,
    timeout: int,
    consistency: grpc.ReadConsistency | None,
) -> grpc.CountPoints:
    """Return a request that counts points; the count of qdrant-client takes no read consistency."""
    return grpc.CountPoints(
        collection_name=collection,
        filter=None if filter is None else RestToGrpc.convert_filter(filter),
        exact=True,
        shard_key_selector=selector(shard_keys),
        timeout=timeout,
        read_consistency=consistency,
    )


def found_point(point: Any) -> FoundPoint:
    """Return a ScoredPoint of an answer."""
    return FoundPoint(_id(point.id), point.score, GrpcToRest.convert_payload(point.payload))


def _id(id: Any) -> int | str:
    return int(id.num) if id.WhichOneof("point_id_options") == "num" else str(id.uuid)
