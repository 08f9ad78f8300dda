"""The fake Qdrant server: behaviour that it shares with a real server (tested on both), and injected faults."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from conftest import realistic
from fake_qdrant import FakeQdrantServer
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client import grpc as messages
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

SERVER = os.environ.get("QVEC_TEST_QDRANT_URL")
ROWS, DIMENSIONS = 500, 32
VECTORS = realistic(ROWS, DIMENSIONS)
STORED = VECTORS.astype(np.float16).astype(np.float32)
QUERY = realistic(1, DIMENSIONS, seed=1)[0].astype(np.float16).astype(np.float32)
"""Rounded to float16, since the engine rounds the query as it rounds the vectors."""
UUID = "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
_names = (f"qvec_wire_{os.getpid()}_{number}" for number in itertools.count())

Connect = Callable[..., QdrantClient]


@pytest.fixture
def fake_server(tmp_path: Path) -> Iterator[FakeQdrantServer]:
    with FakeQdrantServer(tmp_path) as server:
        yield server


def options(server: FakeQdrantServer) -> dict[str, Any]:
    return {"host": "127.0.0.1", "grpc_port": server.port, "prefer_grpc": True, "check_compatibility": False}


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A function that connects clients, which are closed after the test."""
    clients = []

    def connected(**options: Any) -> QdrantClient:
        clients.append(QdrantClient(**options))
        return clients[-1]

    yield connected
    for client in clients:
        client.close()


@pytest.fixture(params=["fake", *(["server"] if SERVER else [])])
def client(request: pytest.FixtureRequest, connect: Connect) -> QdrantClient:
    """A client of the fake server and, if QVEC_TEST_QDRANT_URL is set, one of a real server."""
    if request.param == "fake":
        return connect(**options(request.getfixturevalue("fake_server")))
    url = urlsplit(SERVER)
    key = os.environ.get("QVEC_QDRANT_API_KEY")
    tls = url.scheme == "qdrants"
    port = url.port or 6334
    return connect(
        host=url.hostname, grpc_port=port, prefer_grpc=True, https=tls, api_key=key, check_compatibility=False
    )


@pytest.fixture
def name(client: QdrantClient) -> Iterator[str]:
    """The name of a new collection, which is dropped after the test."""
    name = next(_names)
    yield name
    client.delete_collection(name)


def create(client: QdrantClient, name: str, **given: Any) -> None:
    """Create a collection of float16 vectors with binary quantization and without indexing."""
    client.create_collection(
        name,
        vectors_config=models.VectorParams(
            size=DIMENSIONS, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16, on_disk=True
        ),
        quantization_config=models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(
                always_ram=True, query_encoding=models.BinaryQuantizationQueryEncoding.SCALAR8BITS
            )
        ),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
        **given,
    )


def rows() -> list[models.PointStruct]:
    return [
        models.PointStruct(id=id, vector=vector, payload={"metadata": {"kind": ("even", "odd")[id % 2]}, "number": id})
        for id, vector in enumerate(VECTORS.tolist())
    ]


def create_filled(client: QdrantClient, name: str) -> None:
    create(client, name)
    client.upsert(name, rows(), wait=True)


def status_of(client: QdrantClient, name: str) -> models.CollectionStatus:
    return client.get_collection(name).status


def is_indexed(info: models.CollectionInfo) -> bool:
    return info.status == models.CollectionStatus.GREEN and info.indexed_vectors_count > 0


def index(client: QdrantClient, name: str) -> None:
    """Turn indexing on and wait until the collection is green."""
    client.update_collection(name, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
    deadline = time.monotonic() + 30
    while not is_indexed(client.get_collection(name)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def best(scores: np.ndarray, limit: int = 10) -> list[int]:
    return np.argsort(-scores, kind="stable")[:limit].tolist()


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


ODD = models.Filter(must=[models.FieldCondition(key="metadata.kind", match=models.MatchValue(value="odd"))])
BY_FLOATS = models.SearchParams(quantization=models.QuantizationSearchParams(ignore=True))


def test_rescored_search_equals_numpy(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    index(client, name)
    scores = STORED @ QUERY
    rescoring = models.SearchParams(
        hnsw_ef=ROWS, quantization=models.QuantizationSearchParams(rescore=True, oversampling=20.0)
    )
    found = client.query_points(name, query=QUERY.tolist(), limit=10, search_params=rescoring).points
    assert [point.id for point in found] == best(scores)
    np.testing.assert_allclose([point.score for point in found], scores[best(scores)], rtol=1e-5)
    request = models.QueryRequest(query=QUERY.tolist(), limit=4, offset=3, params=rescoring, with_payload=["number"])
    one, other = client.query_batch_points(name, [request, request])
    assert [point.payload for point in one.points] == [{"number": id} for id in best(scores)[3:7]]
    assert one == other


def test_search_without_rescoring_scores_by_codes(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    index(client, name)
    coarse = models.SearchParams(quantization=models.QuantizationSearchParams(rescore=False))
    scored_by_codes, scored_by_floats = (
        client.query_points(name, query=QUERY.tolist(), limit=10, search_params=params).points
        for params in (coarse, BY_FLOATS)
    )
    assert [point.score for point in scored_by_codes] != pytest.approx([point.score for point in scored_by_floats])


def test_filters(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    scores = np.where(np.arange(ROWS) % 2, STORED @ QUERY, -np.inf)
    found = client.query_points(name, query=QUERY.tolist(), query_filter=ODD, limit=10, search_params=BY_FLOATS).points
    assert [point.id for point in found] == best(scores)
    assert client.count(name, count_filter=ODD).count == ROWS // 2
    client.delete(name, ODD, wait=True)
    assert client.count(name).count == ROWS // 2


def test_points_are_retrieved_replaced_and_deleted(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    client.upsert(name, [models.PointStruct(id=UUID, vector=VECTORS[0].tolist(), payload={"a": [1, 2.5, None]})])
    by_id = {point.id: point for point in client.retrieve(name, [3, UUID, 10**6], with_vectors=True)}
    assert set(by_id) == {3, UUID}
    assert by_id[UUID].payload == {"a": [1, 2.5, None]}
    np.testing.assert_array_equal(by_id[3].vector, STORED[3])
    client.set_payload(name, {"b": 2}, [UUID], wait=True)
    client.upsert(name, [models.PointStruct(id=3, vector=VECTORS[4].tolist(), payload={"new": 1})], wait=True)
    assert client.retrieve(name, [UUID])[0].payload == {"a": [1, 2.5, None], "b": 2}
    assert client.retrieve(name, [3])[0].payload == {"new": 1}
    client.delete(name, [3, UUID], wait=True)
    assert client.retrieve(name, [3, UUID]) == []
    assert client.count(name).count == ROWS - 1


def test_upsert_modes(client: QdrantClient, name: str) -> None:
    create(client, name)
    old, new = (
        [models.PointStruct(id=id, vector=VECTORS[0].tolist(), payload={"from": word}) for id in ids]
        for word, ids in (("old", [1, 2]), ("new", [2, 3]))
    )
    client.upsert(name, old, wait=True)
    client.upsert(name, new, wait=True, update_mode=models.UpdateMode.INSERT_ONLY)
    payloads = {point.id: point.payload["from"] for point in client.scroll(name)[0]}
    assert payloads == {1: "old", 2: "old", 3: "new"}


def test_scroll_returns_every_point_once(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    found, offset = client.scroll(name, limit=200)
    while offset is not None:
        following, offset = client.scroll(name, limit=200, offset=offset)
        found += following
    assert [point.id for point in found] == list(range(ROWS))


def test_metadata_is_patched_key_by_key(client: QdrantClient, name: str) -> None:
    create(client, name, metadata={"model": "m", "calibration": {"id": "abc", "planes": [1, 2]}})
    client.update_collection(name, metadata={"model": None, "calibration": {"id": "def"}, "count": 3})
    client.update_collection(name, metadata={})
    assert client.get_collection(name).config.metadata == {"calibration": {"id": "def"}, "count": 3}


def test_configuration_is_returned_and_patched(client: QdrantClient, name: str) -> None:
    create(client, name, hnsw_config=models.HnswConfigDiff(m=24))
    client.update_collection(
        name,
        hnsw_config=models.HnswConfigDiff(ef_construct=50),
        quantization_config=models.TurboQuantization(
            turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS2)
        ),
    )
    config = client.get_collection(name).config
    assert (config.hnsw_config.m, config.hnsw_config.ef_construct) == (24, 50)
    assert config.quantization_config.turbo.bits == models.TurboQuantBitSize.BITS2
    assert config.params.vectors.datatype == models.Datatype.FLOAT16
    assert config.optimizer_config.indexing_threshold == 0


def test_payload_indexes(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    client.create_payload_index(name, "number", models.PayloadSchemaType.INTEGER, wait=True)
    assert client.get_collection(name).payload_schema["number"].points == ROWS
    client.delete_payload_index(name, "number", wait=True)
    assert client.get_collection(name).payload_schema == {}


def test_collection_without_vectors(client: QdrantClient, name: str) -> None:
    client.create_collection(name, vectors_config={})
    client.upsert(name, [models.PointStruct(id=1, vector={}, payload={"state": "loading"})], wait=True)
    client.upsert(name, [models.PointStruct(id=1, vector={}, payload={"state": "done"})], wait=True)
    assert [(point.id, point.payload) for point in client.scroll(name)[0]] == [(1, {"state": "done"})]
    done = models.Filter(must=[models.FieldCondition(key="state", match=models.MatchValue(value="done"))])
    assert client.count(name, count_filter=done).count == 1


def test_aliases(client: QdrantClient, name: str) -> None:
    create_filled(client, name)
    alias = f"{name}_alias"
    create_alias = models.CreateAlias(collection_name=name, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create_alias)])
    assert client.count(alias).count == ROWS
    assert [found.alias_name for found in client.get_collection_aliases(name).aliases] == [alias]
    delete_alias = models.DeleteAlias(alias_name=alias)
    client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=delete_alias)])
    assert alias not in [found.alias_name for found in client.get_aliases().aliases]


def test_errors_have_the_status_codes_of_qdrant(client: QdrantClient, name: str) -> None:
    missing, short = f"{name}_missing", [models.PointStruct(id=1, vector=[1.0])]
    create(client, name)
    assert code_of(lambda: client.get_collection(missing)) == grpc.StatusCode.NOT_FOUND
    assert code_of(lambda: client.count(missing)) == grpc.StatusCode.NOT_FOUND
    assert code_of(lambda: create(client, name)) == grpc.StatusCode.ALREADY_EXISTS
    assert code_of(lambda: client.upsert(name, short, wait=True)) == grpc.StatusCode.INVALID_ARGUMENT
    assert not client.collection_exists(missing)
    assert not client.delete_collection(missing)


def test_collections_are_listed_until_deleted(client: QdrantClient, name: str) -> None:
    create(client, name)
    assert client.collection_exists(name)
    assert name in [found.name for found in client.get_collections().collections]
    assert client.delete_collection(name)
    assert not client.collection_exists(name)
    create(client, name)
    assert client.count(name).count == 0


@pytest.mark.parametrize("impossible", ["", "a/b", "x" * 256])
def test_impossible_names_are_refused(client: QdrantClient, impossible: str) -> None:
    assert code_of(lambda: create(client, impossible)) == grpc.StatusCode.INVALID_ARGUMENT
    assert code_of(lambda: client.get_collection(impossible)) == grpc.StatusCode.INVALID_ARGUMENT


def test_nodes_with_the_shards_of_a_collection(client: QdrantClient, name: str) -> None:
    create(client, name, shard_number=2)
    found = client.collection_cluster_info(name)
    assert found.shard_count == 2
    shards = [shard.shard_id for shard in [*found.local_shards, *found.remote_shards]]
    assert sorted(set(shards)) == [0, 1]


def test_collection_is_yellow_until_indexed(fake_server: FakeQdrantServer, connect: Connect) -> None:
    client = connect(**options(fake_server))
    create_filled(client, "docs")
    fake_server.optimizer_delay = 0.3
    assert status_of(client, "docs") == models.CollectionStatus.GREEN
    client.update_collection("docs", optimizers_config=models.OptimizersConfigDiff(indexing_threshold=1))
    assert status_of(client, "docs") == models.CollectionStatus.YELLOW
    index(client, "docs")
    assert client.get_collection("docs").indexed_vectors_count == ROWS


@pytest.mark.parametrize("after", [False, True])
def test_faults_before_and_after_the_server_did_the_work(
    fake_server: FakeQdrantServer, connect: Connect, after: bool
) -> None:
    client = connect(**options(fake_server))
    create(client, "docs")
    fake_server.fail("Upsert", skip=1, times=2, code=grpc.StatusCode.UNAVAILABLE, after=after)
    client.upsert("docs", rows()[:1])
    assert code_of(lambda: client.upsert("docs", rows()[1:2])) == grpc.StatusCode.UNAVAILABLE
    assert code_of(lambda: client.upsert("docs", rows()[2:3])) == grpc.StatusCode.UNAVAILABLE
    client.upsert("docs", rows()[3:4])
    assert {point.id for point in client.scroll("docs")[0]} == ({0, 1, 2, 3} if after else {0, 3})
    assert fake_server.count("Upsert") == fake_server.count("Points/Upsert") == 4


def test_retry_after_is_sent(fake_server: FakeQdrantServer, connect: Connect) -> None:
    client = connect(**options(fake_server))
    fake_server.fail("List", code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=7)
    with pytest.raises(ResourceExhaustedResponse) as caught:
        client.get_collections()
    assert caught.value.retry_after_s == 7


def test_delayed_calls_exceed_their_deadline(fake_server: FakeQdrantServer, connect: Connect) -> None:
    client = connect(**options(fake_server))
    fake_server.delay("List", 0.2)
    assert code_of(lambda: client.grpc_collections.List(messages.ListCollectionsRequest(), timeout=0.05)) == (
        grpc.StatusCode.DEADLINE_EXCEEDED
    )
    fake_server.delay("List", 0)
    assert client.get_collections().collections == []


def test_restart_keeps_port_and_points(fake_server: FakeQdrantServer, connect: Connect) -> None:
    client, port = connect(**options(fake_server)), fake_server.port
    create_filled(client, "docs")
    fake_server.stop()
    assert code_of(lambda: client.count("docs")) == grpc.StatusCode.UNAVAILABLE
    fake_server.restart()
    assert fake_server.port == port
    own_channels = {"grpc.use_local_subchannel_pool": 1}  # a shared channel waits a second before it reconnects
    new_client = connect(**options(fake_server), grpc_options=own_channels)
    assert new_client.count("docs").count == ROWS


def test_calls_need_the_api_key(tmp_path: Path, connect: Connect) -> None:
    with FakeQdrantServer(tmp_path, version="1.15.4", api_key="secret") as server:
        client_with_wrong_key = connect(**options(server), headers={"api-key": "wrong"})
        assert code_of(connect(**options(server)).get_collections) == grpc.StatusCode.UNAUTHENTICATED
        assert code_of(client_with_wrong_key.get_collections) == grpc.StatusCode.UNAUTHENTICATED
        assert client_with_wrong_key.info().version == "1.15.4"
        assert server.count("List") == 0
        connect(**options(server), headers={"api-key": "secret"}).get_collections()
        assert server.last("List").headers["api-key"] == "secret"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command to make a certificate with")
def test_tls_with_the_servers_certificate(tmp_path: Path, connect: Connect) -> None:
    with FakeQdrantServer(tmp_path, api_key="secret", tls=True) as server:
        trusting = connect(
            **options(server), https=True, api_key="secret", grpc_options={"root_certificates": server.certificate}
        )
        assert trusting.get_collections().collections == []
        assert code_of(connect(**options(server), https=True).get_collections) == grpc.StatusCode.UNAVAILABLE


def test_requests_are_recorded(fake_server: FakeQdrantServer, connect: Connect) -> None:
    client = connect(**options(fake_server))
    create(client, "docs", sharding_method=models.ShardingMethod.CUSTOM, shard_number=2)
    client.create_shard_key("docs", "tenant")
    assert code_of(lambda: client.upsert("docs", rows())) == grpc.StatusCode.INVALID_ARGUMENT
    client.upsert("docs", rows(), wait=False, shard_key_selector="tenant")
    request = fake_server.last("Upsert").request
    assert (len(request.points), request.wait) == (ROWS, False)
    assert client.count("docs", shard_key_selector="tenant").count == ROWS
    assert code_of(lambda: client.count("docs", shard_key_selector="else")) == grpc.StatusCode.INVALID_ARGUMENT
    assert client.get_collection("docs").config.params.shard_number == 2


def test_unsupported_requests_are_unimplemented(fake_server: FakeQdrantServer, connect: Connect) -> None:
    client = connect(**options(fake_server))
    create_filled(client, "docs")
    prefetch = models.Prefetch(query=QUERY.tolist(), limit=10)
    for call in (
        lambda: client.query_points("docs", prefetch=prefetch, query=QUERY.tolist()),
        lambda: client.query_points("docs", query=7),
        lambda: client.facet("docs", "number"),
        lambda: client.create_collection(
            "named", vectors_config={"a": models.VectorParams(size=2, distance=models.Distance.DOT)}
        ),
    ):
        assert code_of(call) == grpc.StatusCode.UNIMPLEMENTED


def test_async_client(fake_server: FakeQdrantServer) -> None:
    async def session() -> tuple[int, list[int], list[int]]:
        client = AsyncQdrantClient(**options(fake_server))
        try:
            await client.create_collection(
                "docs", vectors_config=models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
            )
            await client.upsert("docs", rows(), wait=True)
            found, others = await asyncio.gather(
                client.query_points("docs", query=QUERY.tolist(), limit=10), client.retrieve("docs", [1, 2])
            )
            count = await client.count("docs")
            return count.count, [point.id for point in found.points], sorted(point.id for point in others)
        finally:
            await client.close()

    lengths = np.linalg.norm(VECTORS, axis=1)
    assert asyncio.run(session()) == (ROWS, best(VECTORS @ QUERY / lengths), [1, 2])
