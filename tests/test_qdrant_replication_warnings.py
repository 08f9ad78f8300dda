"""Warnings about the replicas of a new collection on a Qdrant server."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from command_line import succeed
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors
from qdrant_clusters import KINDS, NODES, TestCluster, open_cluster

import qvec
from qvec.errors import CollectionError
from qvec.recalibration import recalibrate

SERVER = os.environ.get("QVEC_TEST_QDRANT_URL")
CALIBRATION = qvec.Calibration.fit(random_vectors(20))
FEW_NODES = (
    "collection {!r} has a replication factor of {}, but the server has only {} to hold its shards; to survive the "
    "loss of a node, add nodes and replicate the shards to them"
)
STOPS_WRITES = (
    "collection {!r} has {} replicas and a write consistency factor of {}: writes fail while one node is down; a "
    "factor of {} or less lets them go on"
)


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestCluster]:
    with open_cluster(request.param, tmp_path / "server") as found:
        yield found


def create(url: str, name: str, **settings: Any) -> None:
    with qvec.connect(url) as database:
        database.create_collection(name, calibration=CALIBRATION, **settings)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({}, []),
        ({"replication_factor": 1, "write_consistency_factor": 1}, []),
        ({"replication_factor": 1, "write_consistency_factor": 2}, []),
        ({"replication_factor": 2}, [(FEW_NODES, 2, "1 node")]),
        ({"replication_factor": 3, "shards": 2}, [(FEW_NODES, 3, "1 node")]),
        ({"replication_factor": 2, "write_consistency_factor": 2}, [(FEW_NODES, 2, "1 node")]),
        ({"replication_factor": 2, "shard_key": "a"}, [(FEW_NODES, 2, "1 node")]),
    ],
)
def test_single_node_has_no_replicas(
    qdrant_server: FakeQdrantServer, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warnings: list[Any]
) -> None:
    create(qdrant_server.url, "docs", **settings)
    assert logged(caplog) == [text.format("docs", *values) for text, *values in warnings]


@pytest.mark.skipif(not SERVER, reason="QVEC_TEST_QDRANT_URL is not set")
def test_real_server_warns_of_more_replicas_than_nodes(caplog: pytest.LogCaptureFixture) -> None:
    name = f"qvec_test_{uuid.uuid4().hex[:12]}"
    try:
        create(str(SERVER), name, replication_factor=100)
    finally:
        with qvec.connect(str(SERVER)) as database, suppress(CollectionError):
            database.drop_collection(name)
    (warning,) = logged(caplog)
    assert warning.startswith(f"collection {name!r} has a replication factor of 100, but the server has only ")


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        ({}, []),
        ({"replication_factor": 2}, []),
        ({"replication_factor": 2, "write_consistency_factor": 1}, []),
        ({"replication_factor": 2, "write_consistency_factor": 2}, [(STOPS_WRITES, 2, 2, 1)]),
        ({"replication_factor": 3, "write_consistency_factor": 2}, []),
        ({"replication_factor": 3, "write_consistency_factor": 3}, [(STOPS_WRITES, 3, 3, 2)]),
        ({"replication_factor": 2, "write_consistency_factor": 3}, [(STOPS_WRITES, 2, 3, 1)]),
        (
            {"replication_factor": NODES + 1, "write_consistency_factor": 3},
            [(FEW_NODES, NODES + 1, f"{NODES} nodes"), (STOPS_WRITES, 3, 3, 2)],
        ),
    ],
)
def test_cluster_with_replicas(
    cluster: TestCluster, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warnings: list[Any]
) -> None:
    name = cluster.new_name()
    create(cluster.url, name, **settings)
    assert logged(caplog) == [text.format(name, *values) for text, *values in warnings]


def test_one_warning_for_a_load_and_none_for_a_recalibration(
    qdrant_server: FakeQdrantServer, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with qvec.connect(qdrant_server.url) as database:
        load_source(database, source, settings={"replication_factor": 2})
        load_source(database, source, restart=True)
        recalibrate(database, "docs", allow_worse=True)
    assert logged(caplog) == [FEW_NODES.format("docs", 2, "1 node")]


def test_async_creation_warns(qdrant_server: FakeQdrantServer, caplog: pytest.LogCaptureFixture) -> None:
    async def create_async() -> None:
        async with await qvec.connect_async(qdrant_server.url) as database:
            await database.create_collection("docs", calibration=CALIBRATION, replication_factor=2)

    asyncio.run(create_async())
    assert logged(caplog) == [FEW_NODES.format("docs", 2, "1 node")]


@pytest.mark.usefixtures("short_retries")
def test_creation_does_not_fail_where_replicas_cannot_be_read(
    qdrant_server: FakeQdrantServer, caplog: pytest.LogCaptureFixture
) -> None:
    qdrant_server.fail("CollectionClusterInfo", times=9, code=grpc.StatusCode.PERMISSION_DENIED)
    create(qdrant_server.url, "docs", replication_factor=2)
    assert logged(caplog) == []


def test_command_line_shows_one_line(
    qdrant_server: FakeQdrantServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # of pytest: Python prints warnings where there are none
    arguments = ("ingest", source, "--db", qdrant_server.url, "-c", "docs", "--replication-factor", "2", "--quiet")
    assert succeed(*arguments).stderr == FEW_NODES.format("docs", 2, "1 node") + "\n"
