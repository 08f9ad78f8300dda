"""Read consistency and write ordering: options of a server's URL, sent with every request for points."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke, succeed
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors
from qdrant_client import grpc as messages
from qdrant_clusters import KINDS, TestCluster, open_cluster

import qvec
from qvec.client import Collection, Database
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant.address import Address

SERVER = os.environ.get("QVEC_TEST_QDRANT_URL")
VECTORS = random_vectors(20)
READS = ("QueryBatch", "Points/Query", "Points/Get", "Scroll", "Count")
WRITES = ("Upsert", "Points/Delete", "CreateFieldIndex")
BOTH = "?read_consistency=quorum&write_ordering=strong"


@pytest.fixture(params=["fake", *(["server"] if SERVER else [])])
def server_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fake server and, if QVEC_TEST_QDRANT_URL is set, that of a real one."""
    if request.param == "server":
        yield str(SERVER)
        return
    with FakeQdrantServer(tmp_path / "server") as server:
        yield server.url


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TestCluster]:
    with open_cluster(request.param, tmp_path / "server") as found:
        yield found


def use_everything(docs: Collection) -> None:
    """Send every kind of request for points, and check the answers."""
    docs.upsert(range(20), VECTORS, documents=[f"row {row}" for row in range(20)], metadata=[{"a": 1}] * 20)
    docs.index_metadata([MetadataIndex.parse("a:integer")])
    assert docs.delete([19]) == 1
    assert docs.search(VECTORS[3], k=1)[0].id == 3
    assert docs.get([3])[0].document == "row 3"  # type: ignore[union-attr]
    assert [hit.id for hit in docs.scroll({"a": 1})] == list(range(19))
    assert docs.count() == 19


@pytest.mark.parametrize("read", ["majority", "quorum", "all", "1", "2", "07"])
@pytest.mark.parametrize("write", ["weak", "medium", "strong"])
def test_options_of_an_address(read: str, write: str) -> None:
    address = Address.parse(f"qdrant://a,b?read_consistency={read}&write_ordering={write}&retry=1")
    assert {(node.consistency.read, node.consistency.write) for node in address.nodes} == {(read, write)}


@pytest.mark.parametrize("value", ["most", "0", "-1", "1.5", "ALL", "9999999999", "²", "weak"])
def test_invalid_read_consistency(value: str) -> None:
    with pytest.raises(InputError) as caught:
        Address.parse(f"qdrant://a?read_consistency={value}")
    assert str(caught.value) == (
        f"read_consistency is {value!r}, expected majority, quorum, all, or a number of replicas from 1 on"
    )


def test_invalid_write_ordering() -> None:
    with pytest.raises(InputError, match=r"^write_ordering is 'all', expected weak, medium or strong$"):
        qvec.connect("qdrant://a?write_ordering=all")
    with pytest.raises(InputError, match=r"^this is no URL of a Qdrant server; .*\?read_consistency= and \?write_ord"):
        Address.parse("qdrant://a?ordering=weak")


@pytest.mark.parametrize("option", ["read_consistency=all", "write_ordering=weak", "timeout=3"])
def test_embedded_engine_has_no_options(tmp_path: Path, option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(InputError, match=rf"^{name} is an option of a server .*: qdrant:{tmp_path / 'vectors'}$"):
        qvec.connect(f"qdrant:{tmp_path / 'vectors'}?{option}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "consistency", "ordering"),
    [
        ("", None, None),
        ("?read_consistency=majority", messages.ReadConsistency(type=messages.ReadConsistencyType.Majority), None),
        ("?read_consistency=2", messages.ReadConsistency(factor=2), None),
        ("?write_ordering=medium", None, messages.WriteOrdering(type=messages.WriteOrderingType.Medium)),
        ("?write_ordering=weak", None, messages.WriteOrdering(type=messages.WriteOrderingType.Weak)),
        (
            "?read_consistency=all&write_ordering=strong",
            messages.ReadConsistency(type=messages.ReadConsistencyType.All),
            messages.WriteOrdering(type=messages.WriteOrderingType.Strong),
        ),
    ],
)
def test_every_request_for_points_has_the_options(
    qdrant_server: FakeQdrantServer, source: Path, options: str, consistency: Any, ordering: Any
) -> None:
    """Requests for the progress of loads have them too."""
    with qvec.connect(qdrant_server.url + options) as database:
        docs = database.create_collection("docs", calibration=qvec.Calibration.fit(VECTORS))
        use_everything(docs)
        docs.index_texts("english")
        assert docs.search_text("row", k=1)
        load_source(database, source, on_duplicate="skip", id_start="auto")
        database.drop_collection("docs")
    calls = [call for call in qdrant_server.calls if call.method.startswith("Points/")]
    for name, field, expected in (
        *((name, "read_consistency", consistency) for name in READS),
        *((name, "ordering", ordering) for name in WRITES),
    ):
        sent = [call.request for call in calls if call.method.endswith("/" + name.rpartition("/")[2])]
        assert {request.HasField(field) for request in sent} == {expected is not None}
        assert all(expected is None or getattr(request, field) == expected for request in sent)
    assert {call.request.collection_name for call in calls} == {"docs", "qvec_loads"}


@pytest.mark.parametrize("options", [BOTH, "?read_consistency=all&write_ordering=medium", "?read_consistency=2"])
def test_server_accepts_the_options(server_url: str, options: str) -> None:
    name = f"qvec_test_{uuid.uuid4().hex[:12]}"
    with qvec.connect(server_url + options) as database:
        try:
            use_everything(database.create_collection(name, calibration=qvec.Calibration.fit(VECTORS)))
        finally:
            with suppress(CollectionError):
                database.drop_collection(name)


def test_async_requests_have_the_options(qdrant_server: FakeQdrantServer) -> None:
    async def search() -> None:
        async with await qvec.connect_async(qdrant_server.url + BOTH) as database:
            docs = await database.create_collection("docs", calibration=qvec.Calibration.fit(VECTORS))
            await docs.upsert(range(20), VECTORS)
            assert (await docs.search(VECTORS[3], k=1))[0].id == 3

    asyncio.run(search())
    read, written = qdrant_server.last("QueryBatch").request, qdrant_server.last("Upsert").request
    assert read.read_consistency.type == messages.ReadConsistencyType.Quorum
    assert written.ordering.type == messages.WriteOrderingType.Strong


def test_command_line_takes_the_options(qdrant_server: FakeQdrantServer, source: Path) -> None:
    succeed("ingest", source, "--db", qdrant_server.url + BOTH, "-c", "docs")
    assert qdrant_server.last("Upsert").request.ordering.type == messages.WriteOrderingType.Strong
    result = invoke("info", "--db", qdrant_server.url + "?read_consistency=some")
    assert result.exit_code == 1
    assert "read_consistency is 'some', expected majority, quorum, all, or a number of replicas" in result.stderr


def create(database: Database, cluster: TestCluster) -> Collection:
    docs = database.create_collection(
        cluster.new_name(), calibration=qvec.Calibration.fit(VECTORS), replication_factor=3, shards=1
    )
    docs.upsert(range(20), VECTORS)
    return docs


def test_quorum_and_medium_ordering_survive_the_loss_of_a_node(cluster: TestCluster) -> None:
    with qvec.connect(f"{cluster.url}?read_consistency=quorum&write_ordering=medium") as database:
        docs = create(database, cluster)
        cluster.stop_node()
        docs.upsert([20], VECTORS[:1])
        assert docs.count() == 21
        assert docs.search(VECTORS[3], k=1)[0].id == 3
        cluster.start_node()
        assert docs.count() == 21


@pytest.mark.parametrize("consistency", ["all", "majority", "3", "7"])
def test_reads_of_all_replicas_need_all_nodes(cluster: TestCluster, consistency: str) -> None:
    with qvec.connect(f"{cluster.url}?retry=0&read_consistency={consistency}") as database:
        docs = create(database, cluster)
        assert docs.count() == 20
        cluster.stop_node()
        with pytest.raises(DatabaseError, match="does not answer"):
            docs.count()
        cluster.start_node()
        assert docs.count() == 20


def test_strong_ordering_needs_the_node_with_the_highest_id(tmp_path: Path) -> None:
    with open_cluster("fake", tmp_path) as cluster, qvec.connect(f"{cluster.url}?write_ordering=strong&retry=0") as db:
        docs = create(db, cluster)
        cluster.stop_node()
        with pytest.raises(DatabaseError, match=r"node 1002 of the cluster \(its peer id\) does not answer"):
            docs.upsert([20], VECTORS[:1])
        cluster.start_node()
        docs.upsert([20], VECTORS[:1])
