"""Clusters of three or more Qdrant nodes, of which one stops and starts: a fake one, and a real one if it is given.

`QVEC_TEST_QDRANT_CLUSTER_URL` names all nodes of a real cluster, as in qdrant://a:6334,b:6334,c:6334;
`QVEC_TEST_QDRANT_STOP_NODE` and `QVEC_TEST_QDRANT_START_NODE` are shell commands that stop and start its last node.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fake_qdrant import FakeQdrantServer

import qvec
from qvec.qdrant.address import Address
from qvec.qdrant.replicas import replicas_by_shard

URL, STOP, START = (f"QVEC_TEST_QDRANT_{name}" for name in ("CLUSTER_URL", "STOP_NODE", "START_NODE"))
KINDS = ["fake", *(["real"] if all(os.environ.get(name) for name in (URL, STOP, START)) else [])]
NODES = 3
_RECOVERY_SECONDS = 60


class TestCluster(ABC):
    """A cluster of `NODES` nodes at `url`."""

    __test__ = False
    url: str

    def __init__(self) -> None:
        self.created: list[str] = []

    def new_name(self) -> str:
        """Return an unused collection name; the collection is dropped at the end."""
        self.created.append(f"qvec_test_{uuid.uuid4().hex[:12]}")
        return self.created[-1]

    @abstractmethod
    def stop_node(self) -> None:
        """Stop the last node."""

    @abstractmethod
    def start_node(self) -> None:
        """Start it; return when all replicas are active."""


class FakeCluster(TestCluster):
    def __init__(self, server: FakeQdrantServer) -> None:
        super().__init__()
        self.url = server.url
        self._server = server

    def stop_node(self) -> None:
        self._server.stop_node(NODES - 1)

    def start_node(self) -> None:
        self._server.start_node(NODES - 1)


class RealCluster(TestCluster):
    def __init__(self) -> None:
        super().__init__()
        self.url = os.environ[URL]
        self._is_stopped = False

    def stop_node(self) -> None:
        self._is_stopped = True
        subprocess.run(os.environ[STOP], shell=True, check=True)

    def start_node(self) -> None:
        if not self._is_stopped:
            return
        subprocess.run(os.environ[START], shell=True, check=True)
        self._is_stopped = False
        ends = time.monotonic() + _RECOVERY_SECONDS
        while not self._is_whole():
            assert time.monotonic() < ends, "the node that was started again does not take part"
            time.sleep(0.5)

    def _is_whole(self) -> bool:
        """Return whether every node answers, and sees all replicas of the test's collections as active."""
        for node in Address.parse(self.url).nodes:
            with suppress(qvec.DatabaseError), qvec.connect(f"{node.name}?retry=0&timeout=5") as database:
                names = [name for name in self.created if database.has_collection(name)]
                infos = [database.store.backend._cluster_info(name) for name in names]
                shards = [replicas for info in infos for replicas in replicas_by_shard(info).values()]
                if all(active for replicas in shards for active in replicas.values()):
                    continue
            return False
        return True


@contextmanager
def open_cluster(kind: str, directory: Path) -> Iterator[TestCluster]:
    if kind == "fake":
        with FakeQdrantServer(directory, nodes=NODES) as server:
            yield FakeCluster(server)
        return
    cluster = RealCluster()
    try:
        yield cluster
    finally:
        cluster.start_node()
        with qvec.connect(cluster.url) as database:
            for name in cluster.created:
                with suppress(qvec.CollectionError):
                    database.drop_collection(name)
