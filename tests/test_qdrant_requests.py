"""Upsert requests to a Qdrant server: their size, and their equality with those of qdrant-client."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from ingest_helpers import random_vectors
from qdrant_client import models
from qdrant_client.conversions.conversion import RestToGrpc

from qvec.qdrant import messages
from qvec.qdrant.points import Points


def points(sizes: list[int]) -> Points:
    array = random_vectors(len(sizes), 16)
    return Points(list(range(len(sizes))), array, [{"document": "x" * size} for size in sizes])


def test_upserts_are_split_by_bytes() -> None:
    """A point above the limit gets its own request; the order stays the same."""
    sizes = [10, 10, 5000, 10, 400, 400, 400, 10, 5000, 5000]
    requests = list(messages.upserts("docs", points(sizes), 1000, None, 7))
    assert [[point.id.num for point in request.points] for request in requests] == [
        [0, 1],
        [2],
        [3, 4],
        [5, 6],
        [7],
        [8],
        [9],
    ]
    assert all(len(request.points) == 1 or request.ByteSize() < 1100 for request in requests)
    assert {(request.collection_name, request.wait, request.timeout) for request in requests} == {("docs", True, 7)}


floats = st.floats(width=32, allow_nan=False)


@given(arrays.arrays(np.float32, st.integers(1, 300), elements=floats))
def test_dense_vectors_equal_the_clients_conversion(vector: Any) -> None:
    assert messages.dense(vector) == RestToGrpc.convert_vector_struct(vector.tolist()).vector.dense


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1) | st.uuids().map(str), st.text(max_size=5)), min_size=1, max_size=5),
    st.none() | st.text(min_size=1, max_size=3),
)
def test_upsert_requests_equal_the_clients(rows: list[tuple[int | str, str]], shard_key: str | None) -> None:
    array = random_vectors(len(rows), 5)
    payloads = [{"document": text, "metadata": {"a": [1, 2.5, None, True, {"b": text}]}} for _, text in rows]
    (request,) = messages.upserts("docs", Points([id for id, _ in rows], array, payloads), 1 << 20, shard_key, 60)
    structs = [
        models.PointStruct(id=id, vector=vector, payload=payload)
        for (id, _), vector, payload in zip(rows, array.tolist(), payloads, strict=True)
    ]
    assert list(request.points) == [RestToGrpc.convert_point_struct(struct) for struct in structs]
    assert request.HasField("shard_key_selector") == (shard_key is not None)
    if shard_key is not None:
        assert request.shard_key_selector == RestToGrpc.convert_shard_key_selector(shard_key)
