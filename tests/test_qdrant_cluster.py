"""A Qdrant cluster with a node that is down: errors, retries, and the replicas of the load registry."""

import logging
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors
from qdrant_client import models
from qdrant_load_helpers import assert_holds
from reporters import AtRow

import qvec
from qvec.client import Database
from qvec.errors import DatabaseError
from qvec.ingest import pipeline
from qvec.qdrant import connection
from qvec.qdrant._sync.client import Retries
from qvec.qdrant.errors import is_transient, reason
from qvec.qdrant.replicas import missing_replicas, replicas_by_shard

Code = grpc.StatusCode
READS_FAILED = "Service internal error: 1 of 1 read operations failed:\n  Service internal error: Tonic status error: "
REFUSED = (
    'status: Unavailable, message: "Failed to connect to http://qdrant-2.qdrant:6335/, error: transport error", '
    "details: [], metadata: MetadataMap { headers: {} }"
)
RECOVERY = (
    "; start it again; a collection with a replication factor of 2 or more is searched and written while a node is down"
)


class ServerError(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__()
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.fixture
def qdrant_server(tmp_path: Path) -> Any:
    """A fake Qdrant server that is node 0 of 3."""
    with FakeQdrantServer(tmp_path / "server", nodes=3) as server:
        yield server


@pytest.fixture
def url(qdrant_server: FakeQdrantServer) -> str:
    return qdrant_server.url


@pytest.mark.parametrize(
    ("details", "shown"),
    [
        (READS_FAILED + REFUSED, f"node http://qdrant-2.qdrant:6335 of the cluster does not answer{RECOVERY}"),
        (
            READS_FAILED + "code: 'The service is currently unavailable', message: \"dns error\", source: ...",
            f"a node of the cluster does not answer (dns error){RECOVERY}",
        ),
        (
            "Service internal error: The replica set for shard 3 on peer 6358360577973509 does not have enough active "
            "replicas",
            "a node of the cluster that holds shard 3 does not answer (The replica set for shard 3 on peer "
            f"6358360577973509 does not have enough active replicas){RECOVERY}",
        ),
        (
            "Service internal error: Failed to apply operation to at least one `Active` replica. Consistency of this "
            "update is not guaranteed. Please retry. Failed peer: 77, error: Timeout",
            f"node 77 of the cluster (its peer id) does not answer{RECOVERY}",
        ),
        (
            "Service internal error: Waiting for consensus operation commit failed. Timeout set at: 10 seconds",
            "the nodes of the cluster do not agree (Waiting for consensus operation commit failed); more than half of "
            "them have to be up",
        ),
        (
            "Service internal error: Failed to propose operation: leader is not established within 10s",
            "the nodes of the cluster do not agree (Failed to propose operation: leader is not established within "
            "10s); more than half of them have to be up",
        ),
    ],
)
def test_internal_error_of_a_cluster_is_transient_and_names_the_node(details: str, shown: str) -> None:
    error = ServerError(Code.INTERNAL, details)
    assert is_transient(error)
    assert reason(error) == shown


def test_internal_error_of_the_server_is_not_transient() -> None:
    error = ServerError(Code.INTERNAL, "Service internal error: No space left on device\nbacktrace")
    assert not is_transient(error)
    assert reason(error) == "Service internal error: No space left on device"


@pytest.mark.usefixtures("short_retries")
def test_error_of_a_search_names_the_node_that_is_down(
    qdrant_server: FakeQdrantServer, database: Database, source: Path
) -> None:
    load_source(database, source)
    docs = database.collection("docs")
    qdrant_server.stop_node(2)
    with pytest.raises(DatabaseError) as caught:
        docs.search(random_vectors(1)[0])
    assert str(caught.value) == (
        f"cannot read collection 'docs': node http://node-2:6335 of the cluster does not answer{RECOVERY}"
    )


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.usefixtures("short_retries")
def test_load_continues_when_a_node_is_back(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, workers: int
) -> None:
    def restart_node() -> None:
        qdrant_server.stop_node(1)
        threading.Timer(0.3, qdrant_server.start_node, (1,)).start()

    reporter = AtRow(100, restart_node)
    assert load_source(database, source, reporter, batch_rows=20, workers=workers).rows == 400
    assert reporter.retries >= 1
    assert any("node http://node-1:6335 of the cluster does not answer" in said for said in reporter.messages)
    assert_holds(database, random_vectors(400))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", ["Collections/Get", "Collections/Create", "Points/Get", "CreateFieldIndex"])
@pytest.mark.parametrize(
    ("code", "details"), [(Code.UNAVAILABLE, "the server is starting"), (Code.INTERNAL, READS_FAILED + REFUSED)]
)
@pytest.mark.usefixtures("short_retries")
def test_planning_retries_as_long_as_loading(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, method: str, code: grpc.StatusCode, details: str
) -> None:
    qdrant_server.fail(method, times=12, code=code, details=details)
    assert load_source(database, source).rows == 400
    assert qdrant_server.count(method) > 12
    assert_holds(database, random_vectors(400))


def test_planning_waits_at_least_as_long_as_a_load_without_connection() -> None:
    assert sum(connection.RETRY_SECONDS + connection.LOAD_RETRY_SECONDS) >= sum(pipeline._RETRY_SECONDS)


@pytest.mark.usefixtures("short_retries")
def test_requests_outside_a_load_fail_soon(qdrant_server: FakeQdrantServer, database: Database, source: Path) -> None:
    load_source(database, source)
    qdrant_server.fail("Count", times=12)
    with pytest.raises(DatabaseError, match="a fault on purpose"):
        database.collection("docs").count()
    assert qdrant_server.count("Count") == 1 + len(connection.RETRY_SECONDS) + 1


@pytest.mark.usefixtures("short_retries")
def test_outage_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    retries = Retries(5)

    def fail() -> None:
        raise ServerError(Code.UNAVAILABLE, "refused")

    def call() -> None:
        with pytest.raises(grpc.RpcError):
            retries(fail)

    with caplog.at_level(logging.WARNING, "qvec.qdrant"):
        threads = [threading.Thread(target=call) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [record.getMessage() for record in caplog.records] == [
        "a request to Qdrant failed and is sent again: refused"
    ]


def replicas(server: FakeQdrantServer, name: str = "qvec_loads") -> list[set[int]]:
    """Return the nodes of each shard, by number."""
    with server.client() as client:
        found = replicas_by_shard(client.collection_cluster_info(name))
    return [{node - 1000 for node in nodes} for _, nodes in sorted(found.items())]


@pytest.mark.parametrize(("factor", "copies"), [(None, 2), (1, 2), (2, 2), (3, 3), (5, 3)])
def test_loads_have_at_least_as_many_replicas_as_the_collection(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, factor: int | None, copies: int
) -> None:
    load_source(database, source, settings={} if factor is None else {"replication_factor": factor})
    held = replicas(qdrant_server)
    assert [len(nodes) for nodes in held] == [copies] * 3
    with qdrant_server.client() as client:
        assert client.get_collection("qvec_loads").config.params.replication_factor == max(factor or 1, 2)


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("node", [1, 2])
def test_everything_works_while_a_node_is_down(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, tmp_path: Path, node: int
) -> None:
    np.save(tmp_path / "b.npy", random_vectors(60, seed=3))
    settings = {"replication_factor": 2}
    load_source(database, source, settings=settings)
    qdrant_server.stop_node(node)
    assert load_source(database, tmp_path / "b.npy", id_start="auto").total_rows == 460
    assert load_source(database, source, collection="new", settings=settings).rows == 400
    for name in ("docs", "new"):
        database.drop_collection(name)
    assert database.collections() == []


def test_replicas_of_older_loads_are_added(qdrant_server: FakeQdrantServer, source: Path) -> None:
    """An older qvec created the collection of loads with one replica."""
    with qdrant_server.client() as client:
        client.create_collection("qvec_loads", vectors_config={})
    assert [len(nodes) for nodes in replicas(qdrant_server)] == [1, 1, 1]
    for factor in (2, 3):
        with qvec.connect(qdrant_server.url) as database:
            settings = {"replication_factor": factor}
            load_source(database, source, collection=f"docs{factor}", settings=settings)
        assert [len(nodes) for nodes in replicas(qdrant_server)] == [factor] * 3
    changes = qdrant_server.count("UpdateCollectionClusterSetup")
    with qvec.connect(qdrant_server.url) as database:
        load_source(database, source, collection="docs3", restart=True)
        load_source(database, source, collection="docs2", restart=True)
    assert qdrant_server.count("UpdateCollectionClusterSetup") == changes == 6


@pytest.mark.usefixtures("short_retries")
def test_load_does_not_need_replicas(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    qdrant_server.fail("UpdateCollectionClusterSetup", times=100, code=Code.PERMISSION_DENIED, details="Forbidden: no")
    assert load_source(database, source).rows == 400
    assert [record.getMessage() for record in caplog.records] == [
        "qvec_loads cannot be replicated, and loads fail while a node is down: Forbidden: no"
    ]


def test_single_server_has_one_replica(tmp_path: Path, source: Path) -> None:
    with FakeQdrantServer(tmp_path / "single") as server, qvec.connect(server.url) as database:
        load_source(database, source)
        assert replicas(server) == [{0}]
        assert server.count("UpdateCollectionClusterSetup") == 0


def test_replicas_are_copied_from_active_ones_to_nodes_that_are_up() -> None:
    def shard(peer: int, shard_id: int, state: models.ReplicaState) -> models.RemoteShardInfo:
        return models.RemoteShardInfo(peer_id=peer, shard_id=shard_id, state=state)

    active, dead = models.ReplicaState.ACTIVE, models.ReplicaState.DEAD
    info = models.CollectionClusterInfo(
        peer_id=1,
        shard_count=3,
        local_shards=[models.LocalShardInfo(shard_id=0, points_count=0, state=active)],
        remote_shards=[shard(2, 1, active), shard(3, 2, dead)],
        shard_transfers=[],
    )
    found = [operation.replicate_shard for operation in missing_replicas(info, {1, 2, 3, 4}, 2)]
    assert [(copy.shard_id, copy.from_peer_id, copy.to_peer_id) for copy in found] == [(0, 1, 4), (1, 2, 1)]
