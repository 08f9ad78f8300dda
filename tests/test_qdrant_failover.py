"""Several nodes of a Qdrant cluster in one URL: searches and loads go on when the one in use dies."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors
from qdrant_clusters import KINDS, open_cluster
from qdrant_load_helpers import assert_holds
from reporters import AtRow

import qvec
from qvec.client import Collection
from qvec.errors import DatabaseError, InputError
from qvec.qdrant.address import Address


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[FakeQdrantServer, FakeQdrantServer]]:
    """Two servers with the same collections."""
    with FakeQdrantServer(tmp_path / "server") as first, first.twin() as second:
        yield first, second


def url_of(*servers: FakeQdrantServer, options: str = "") -> str:
    return "qdrant://" + ",".join(f"127.0.0.1:{server.port}" for server in servers) + options


def test_address_of_several_nodes() -> None:
    address = Address.parse("qdrants://a,b:77,[::1]:78?timeout=3&connect_timeout=2").limited(5)
    assert [(node.host, node.port) for node in address.nodes] == [("a", 6334), ("b", 77), ("::1", 78)]
    assert {(node.tls, node.timeout, node.connect_timeout) for node in address.nodes} == {(True, 5, 2)}
    assert address.name == "qdrants://a:6334,b:77,[::1]:78"


@pytest.mark.parametrize(
    "url",
    [
        "qdrant://a,",
        "qdrant://,b",
        "qdrant://a:x,b",
        "qdrant://a,b/c",
        "qdrant://a?connect_timeout=0",
        "qdrant://a?retry=-1",
    ],
)
def test_invalid_address_of_several_nodes(url: str) -> None:
    with pytest.raises(InputError, match=r"^this is no URL of a Qdrant server; expected .*commas between the nodes"):
        Address.parse(url)


def test_searches_go_on_when_the_node_in_use_dies(
    nodes: tuple[FakeQdrantServer, FakeQdrantServer], source: Path
) -> None:
    first, second = nodes
    with qvec.connect(url_of(first, second)) as database:
        load_source(database, source)
        docs = database.collection("docs")
        expected = docs.search(random_vectors(5), 3)
        assert second.count("QueryBatch") == 0
        for dead, alive in ((first, second), (second, first)):
            dead.stop()
            assert docs.search(random_vectors(5), 3) == expected
            assert alive.count("QueryBatch") > 0
            dead.start()


@pytest.mark.usefixtures("short_retries")
def test_async_searches_go_on_when_the_node_in_use_dies(
    nodes: tuple[FakeQdrantServer, FakeQdrantServer], source: Path
) -> None:
    first, second = nodes

    async def search() -> None:
        async with await qvec.connect_async(url_of(first, second)) as database:
            docs = await database.collection("docs")
            expected = await docs.search(random_vectors(5), 3)
            first.stop()
            found = await asyncio.gather(*(docs.search(random_vectors(5), 3) for _ in range(20)))
            assert found == [expected] * 20

    with qvec.connect(first.url) as database:
        load_source(database, source)
    asyncio.run(search())


@pytest.mark.usefixtures("short_retries")
def test_outage_that_64_threads_meet_is_logged_once(
    nodes: tuple[FakeQdrantServer, FakeQdrantServer], source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = nodes
    with qvec.connect(first.url) as database:
        load_source(database, source)
    search_in_64_threads(url_of(first, second), "docs", first.stop)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("a request to Qdrant failed and is sent again: ")


@pytest.mark.slow
@pytest.mark.skipif("real" not in KINDS, reason="no real cluster is given")
def test_outage_of_a_real_node_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vectors = random_vectors(400)
    with open_cluster("real", tmp_path) as cluster:
        name, address = cluster.new_name(), Address.parse(cluster.url)
        places = [node.name.partition("://")[2] for node in reversed(address.nodes)]
        with qvec.connect(cluster.url) as database:
            docs = database.create_collection(name, calibration=qvec.Calibration.fit(vectors), replication_factor=2)
            docs.upsert(range(400), vectors)
        search_in_64_threads(f"{address.name.partition('://')[0]}://{','.join(places)}", name, cluster.stop_node)
    assert len(caplog.records) == 1


def search_in_64_threads(url: str, name: str, stop: Callable[[], None]) -> None:
    """Search in 8 threads of each of 8 databases, after their first node was stopped."""
    started = threading.Barrier(64)

    def search(docs: Collection) -> None:
        started.wait()
        assert docs.search(random_vectors(5), 1) == expected

    with ExitStack() as stack:
        opened = [stack.enter_context(qvec.connect(url)).collection(name) for _ in range(8)]
        expected = opened[0].search(random_vectors(5), 1)
        stop()
        with ThreadPoolExecutor(64) as threads:
            list(threads.map(search, opened * 8))


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.usefixtures("short_retries")
def test_load_goes_on_when_the_node_in_use_dies(
    nodes: tuple[FakeQdrantServer, FakeQdrantServer], source: Path, workers: int
) -> None:
    first, second = nodes
    with qvec.connect(url_of(first, second)) as database:
        reporter = AtRow(100, first.stop)
        assert load_source(database, source, reporter, batch_rows=20, workers=workers).rows == 400
        assert second.count("Upsert") > 0
        assert_holds(database, random_vectors(400))


@pytest.mark.usefixtures("short_retries")
def test_connects_to_the_node_that_answers(nodes: tuple[FakeQdrantServer, FakeQdrantServer]) -> None:
    first, second = nodes
    first.stop()
    with qvec.connect(url_of(first, second)) as database:
        assert database.collections() == []
        assert database.name == f"qdrant://127.0.0.1:{first.port},127.0.0.1:{second.port}"


@pytest.mark.usefixtures("short_retries")
def test_connect_timeout_limits_a_connection_attempt(qdrant_server: FakeQdrantServer) -> None:
    """The first node accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        started = time.monotonic()
        url = f"qdrant://127.0.0.1:{port},127.0.0.1:{qdrant_server.port}?connect_timeout=1"
        with qvec.connect(url) as database:
            assert database.collections() == []
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("retry", "attempts"), [(0, 1), (1, 3)])
def test_retry_budget(qdrant_server: FakeQdrantServer, retry: int, attempts: int) -> None:
    """Pauses are 0.1, 0.3 and 1 s; one that ends after the budget is not begun."""
    vectors = random_vectors(20)
    with qvec.connect(f"{qdrant_server.url}?retry={retry}") as database:
        docs = database.create_collection("docs", calibration=qvec.Calibration.fit(vectors))
        qdrant_server.fail("Count", times=100)
        with pytest.raises(DatabaseError, match="a fault on purpose"):
            docs.count()
    assert qdrant_server.count("Count") == attempts
