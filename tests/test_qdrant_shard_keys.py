"""Many tenants in one Qdrant collection: each value of a metadata field has shards of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import grpc
import numpy as np
import pytest
from command_line import invoke, succeed
from fake_qdrant import FakeQdrantServer
from hypothesis import given
from hypothesis import strategies as st
from ingest_helpers import load_source, random_vectors, write_lines
from killed_commands import run_command
from qdrant_client import QdrantClient
from reporters import AtRow

import qvec
from qvec import Calibration
from qvec.client import Collection, Database
from qvec.errors import CollectionError, InputError, RowError
from qvec.filters import matches, parse
from qvec.metadata_index import MetadataIndex
from qvec.qdrant.address import Address
from qvec.qdrant.shard_keys import ShardKey, keys_of_filter
from qvec.recalibration import drop_old, recalibrate

SERVER = os.environ.get("QVEC_TEST_QDRANT_URL")
ROWS = 60
VECTORS = random_vectors(ROWS)
CALIBRATION = Calibration.fit(VECTORS)
TENANTS: list[ShardKey] = ["acme", "bolt", 7]
TENANT_OF = [TENANTS[row % 3] for row in range(ROWS)]


@dataclass
class Server:
    """A server, and the collections that a test created there."""

    url: str
    database: Database
    created: list[str] = field(default_factory=list)

    def new_name(self) -> str:
        self.created.append(f"qvec_test_{uuid.uuid4().hex[:12]}")
        return self.created[-1]

    def create(self, **settings: Any) -> Collection:
        settings = {"shard_key_field": "tenant"} | settings
        return self.database.create_collection(self.new_name(), calibration=CALIBRATION, **settings)

    def filled(self, **settings: Any) -> Collection:
        """Return a collection of `ROWS` rows of three tenants."""
        docs = self.create(**settings)
        docs.upsert(range(ROWS), VECTORS, documents=texts(), metadata=[{"tenant": key} for key in TENANT_OF])
        return docs

    def rows_by_key(self, name: str) -> dict[ShardKey, list[int]]:
        """Return the ids of the rows in the shards of each key, as Qdrant's own client reads them."""
        address = Address.parse(self.url).nodes[0]
        client = QdrantClient(
            host=address.host, grpc_port=address.port, prefer_grpc=True, check_compatibility=False, https=address.tls
        )
        info = client.collection_cluster_info(name)
        keys = {shard.shard_key for shards in (info.local_shards, info.remote_shards) for shard in shards}
        found = {}
        for key in keys:
            records, _ = client.scroll(name, limit=10_000, shard_key_selector=key, with_payload=False)
            found[key] = [record.id for record in records]
        client.close()
        return found  # type: ignore[return-value]


def texts() -> list[str]:
    return [f"row {row}" for row in range(ROWS)]


def rows_of(*tenants: ShardKey) -> list[int]:
    return [row for row in range(ROWS) if TENANT_OF[row] in tenants]


def ids(hits: list[Any]) -> list[int]:
    return sorted(hit.id for hit in hits)


@pytest.fixture(params=["fake", *(["server"] if SERVER else [])])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A fake server and, if QVEC_TEST_QDRANT_URL is set, a real one."""
    if request.param == "fake":
        with FakeQdrantServer(tmp_path / "server") as fake, qvec.connect(fake.url) as database:
            yield Server(fake.url, database)
        return
    with qvec.connect(str(SERVER)) as database:
        found = Server(str(SERVER), database)
        try:
            yield found
        finally:
            for name in found.created:
                with suppress(CollectionError):
                    database.drop_collection(name)


@pytest.fixture
def fake(qdrant_server: FakeQdrantServer) -> Iterator[Server]:
    with qvec.connect(qdrant_server.url) as database:
        yield Server(qdrant_server.url, database)


def selected(server: FakeQdrantServer, method: str) -> list[ShardKey] | None:
    """Return the shard keys in the latest request of a method; None where it asked all shards."""
    request = server.last(method).request
    request = request.query_points[0] if method == "QueryBatch" else request
    if not request.HasField("shard_key_selector"):
        return None
    return [key.keyword or key.number for key in request.shard_key_selector.shard_keys]


# Rows


def test_rows_are_in_the_shards_of_their_tenants(server: Server) -> None:
    docs = server.filled()
    assert server.rows_by_key(docs.name) == {key: rows_of(key) for key in TENANTS}
    assert docs.count() == ROWS
    assert ids(docs.scroll()) == list(range(ROWS))
    assert [hit and hit.id for hit in docs.get([5, ROWS, 3])] == [5, None, 3]
    assert np.isfinite(docs.vectors([0, 1, 2])).all()
    assert docs.settings["shard_key_field"] == "tenant"


def test_row_moves_to_another_tenant(server: Server) -> None:
    docs = server.filled()
    docs.upsert([0, 1, 2], VECTORS[:3], metadata=[{"tenant": "bolt"}, {"tenant": "bolt"}, {"tenant": "new"}])
    assert docs.count() == ROWS
    assert server.rows_by_key(docs.name) == {
        "acme": rows_of("acme")[1:],
        "bolt": [0, *rows_of("bolt")],
        7: rows_of(7)[1:],
        "new": [2],
    }
    assert [hit.metadata for hit in docs.search(VECTORS[0], k=1)] == [{"tenant": "bolt"}]


def test_deletes_and_skips_by_id_in_any_shard(server: Server) -> None:
    docs = server.filled()
    assert docs.delete([0, 1, 2, 3, ROWS]) == 4
    assert server.rows_by_key(docs.name) == {key: [row for row in rows_of(key) if row > 3] for key in TENANTS}
    written = docs.upsert([3, 4], VECTORS[3:5], metadata=[{"tenant": "acme"}] * 2, on_duplicate="skip")
    assert written == 1
    with pytest.raises(CollectionError, match="id 4 exists already"):
        docs.upsert([4], VECTORS[:1], metadata=[{"tenant": "acme"}], on_duplicate="error")


def test_delete_of_a_tenant(fake: Server, qdrant_server: FakeQdrantServer) -> None:
    docs = fake.filled()
    assert docs.delete([0, 1], filter={"tenant": "bolt"}) == 1
    assert docs.delete(filter={"tenant": "acme"}) == len(rows_of("acme"))
    assert (selected(qdrant_server, "Scroll"), selected(qdrant_server, "Points/Delete")) == (["acme"], ["acme"])
    assert docs.delete(filter={"tenant": "nobody"}) == 0
    assert fake.rows_by_key(docs.name) == {"acme": [], "bolt": rows_of("bolt")[1:], 7: rows_of(7)}


@pytest.mark.parametrize("value", [None, "", -1, 1.0, True, ["acme"], {"name": "acme"}])
def test_row_without_a_tenant_is_refused(fake: Server, value: Any) -> None:
    docs = fake.create()
    with pytest.raises(RowError) as caught:
        docs.upsert([0, 1], VECTORS[:2], metadata=[{"tenant": "acme"}, {"tenant": value}])
    assert str(caught.value) == (
        f"row 1: metadata field 'tenant', which names the row's shard, is {value!r}, expected a string that is not "
        "empty or an integer from 0 on"
    )
    assert docs.count() == 0


def test_field_inside_an_object(fake: Server, qdrant_server: FakeQdrantServer) -> None:
    docs = fake.create(shard_key_field="owner.name")
    docs.upsert([0, 1], VECTORS[:2], metadata=[{"owner": {"name": "acme"}}, {"owner": {"name": "bolt"}}])
    assert fake.rows_by_key(docs.name) == {"acme": [0], "bolt": [1]}
    assert ids(docs.search(VECTORS[0], filter={"owner.name": "bolt"})) == [1]
    assert selected(qdrant_server, "QueryBatch") == ["bolt"]


# Filters


@pytest.mark.parametrize(
    ("where", "keys", "found"),
    [
        ({"tenant": "acme"}, ["acme"], rows_of("acme")),
        ({"tenant": 7}, [7], rows_of(7)),
        ({"tenant": 7.0}, [7], rows_of(7)),
        ({"tenant": {"$in": ["acme", "bolt"]}}, ["acme", "bolt"], rows_of("acme", "bolt")),
        ({"$or": [{"tenant": "acme"}, {"tenant": 7}]}, [7, "acme"], rows_of("acme", 7)),
        ({"tenant": "acme", "$not": {"tenant": "bolt"}}, ["acme"], rows_of("acme")),
        ({"tenant": {"$like": "%olt", "$in": ["bolt", 7]}}, [7, "bolt"], rows_of("bolt")),
        ({"tenant": {"$ilike": "ACME"}}, None, rows_of("acme")),
        ({"tenant": {"$ne": "acme"}}, None, rows_of("bolt", 7)),
        ({"$or": [{"tenant": "acme"}, {"tenant": {"$gt": 6}}]}, None, rows_of("acme", 7)),
        ({}, None, list(range(ROWS))),
    ],
)
def test_filter_on_the_field_asks_only_its_shards(
    fake: Server, qdrant_server: FakeQdrantServer, where: dict[str, Any], keys: list[ShardKey] | None, found: list[int]
) -> None:
    docs = fake.filled()
    docs.index_texts("english")
    assert ids(docs.search(VECTORS[0], k=ROWS, filter=where)) == found
    assert selected(qdrant_server, "QueryBatch") == keys
    assert ids(docs.scroll(where)) == found
    assert selected(qdrant_server, "Scroll") == keys
    assert docs.count(where) == len(found)
    assert selected(qdrant_server, "Scroll" if "like" in str(where) else "Count") == keys
    assert ids(docs.search_text("row", k=ROWS, filter=where)) == found
    assert selected(qdrant_server, "Points/Query") == keys
    assert ids(docs.search_hybrid("row", k=ROWS, vector=VECTORS[0], filter=where)) == found


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({"tenant": "nobody"}, []),
        ({"tenant": {"$in": ["nobody", "bolt"]}}, rows_of("bolt")),
        ({"tenant": True}, []),
        ({"tenant": None}, []),
        ({"tenant": 7.5}, []),
        ({"tenant": 2**52}, []),
        ({"tenant": "acme", "$and": [{"tenant": "bolt"}]}, []),
    ],
)
def test_tenants_without_rows(server: Server, where: dict[str, Any], found: list[int]) -> None:
    docs = server.filled()
    assert ids(docs.search(VECTORS[0], k=ROWS, filter=where)) == found
    assert [ids(hits) for hits in docs.search(VECTORS[:2], k=ROWS, filter=where)] == [found] * 2
    assert ids(docs.scroll(where)) == found
    assert docs.count(where) == len(found)


def test_collection_without_rows(server: Server) -> None:
    docs = server.create()
    docs.index_metadata([MetadataIndex("tenant")])
    assert docs.search(VECTORS[0]) == docs.search(VECTORS[0], filter={"tenant": "acme"}) == docs.scroll() == []
    assert (docs.count(), docs.delete([1])) == (0, 0)
    docs.upsert([1], VECTORS[:1], metadata=[{"tenant": "acme"}])
    assert ids(docs.search(VECTORS[0], filter={"tenant": "acme"})) == [1]


def test_index_before_the_first_row_on_an_older_server(fake: Server, qdrant_server: FakeQdrantServer) -> None:
    """It stores the schema, and then finds no shard to send it to."""
    no_shard = "Wrong input: Shard key not specified"
    index = [MetadataIndex("tenant")]
    qdrant_server.fail("CreateFieldIndex", times=2, code=grpc.StatusCode.INVALID_ARGUMENT, details=no_shard)
    fake.create().index_metadata(index)
    with pytest.raises(qvec.DatabaseError, match="Shard key not specified"):
        fake.create(shard_key_field=None).index_metadata(index)


values = st.sampled_from(["acme", "bolt", "", 7, 0, -1, 7.0, 7.5, True, None])
conditions = st.one_of(
    st.builds(lambda value: {"tenant": value}, values),
    st.builds(lambda many: {"tenant": {"$in": many}}, st.lists(values, max_size=3)),
    st.builds(lambda value: {"tenant": {"$ne": value}}, values),
    st.builds(lambda value: {"other": value}, values),
    st.just({"tenant": {"$gte": 0}}),
    st.just({"tenant": {"$like": "a%"}}),
)
filters = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"$and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"$or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"$not": part}, inner),
    ),
    max_leaves=6,
)


@given(filters, st.sampled_from(["acme", "bolt", "else", 7, 0]))
def test_no_row_that_passes_is_in_another_shard(where: dict[str, Any], tenant: ShardKey) -> None:
    tree = parse(where)
    keys = keys_of_filter(tree, "tenant")
    if keys is not None and tenant not in keys:
        assert not matches(tree, {"tenant": tenant, "other": "acme"})


# Loads


def write_source(path: Path, start: int = 0) -> Path:
    rows: list[dict[str, Any] | str] = [
        {"id": start + row, "vector": vector, "tenant": TENANT_OF[row], "text": f"row {row}"}
        for row, vector in enumerate(VECTORS.tolist())
    ]
    return write_lines(path, rows)


FIELD = {"shard_key_field": "tenant"}


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize("workers", [1, 4])
def test_load_survives_lost_requests_and_answers(
    fake: Server, qdrant_server: FakeQdrantServer, tmp_path: Path, workers: int
) -> None:
    source = write_source(tmp_path / "a.jsonl")
    for method in ("Upsert", "CreateShardKey", "Points/Get", "CollectionClusterInfo"):
        qdrant_server.fail(method, times=2, skip=1)
        qdrant_server.fail(method, times=2, skip=2, after=True)
    assert load_source(fake.database, source, settings=FIELD, batch_rows=7, workers=workers).rows == ROWS
    assert fake.rows_by_key("docs") == {key: rows_of(key) for key in TENANTS}
    assert load_source(fake.database, source, restart=True, batch_rows=7, workers=workers).total_rows == ROWS


@pytest.mark.usefixtures("short_retries")
def test_load_continues_after_the_server_restarts(
    fake: Server, qdrant_server: FakeQdrantServer, tmp_path: Path
) -> None:
    reporter = AtRow(20, qdrant_server.restart)
    source = write_source(tmp_path / "a.jsonl")
    assert load_source(fake.database, source, reporter, settings=FIELD, batch_rows=7, workers=2).rows == ROWS
    assert fake.rows_by_key("docs") == {key: rows_of(key) for key in TENANTS}


ENGINE = "qvec.qdrant._sync.server_engine:ServerEngine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("after qvec.qdrant._sync.shard_keys:ShardKeys.create", 2),
        (f"after {ENGINE}._delete_moved", 2),
        (f"after {ENGINE}._send_upsert", 4),
        (f"before {ENGINE}._delete", 3),
    ],
)
def test_killed_load_of_rows_that_move_to_other_tenants(fake: Server, tmp_path: Path, moment: str, number: int) -> None:
    load_source(fake.database, write_source(tmp_path / "a.jsonl"), settings=FIELD)
    moved = ["bolt", "new", 8]
    rows: list[dict[str, Any] | str] = [
        {"id": row, "vector": vector, "tenant": moved[row % 3]} for row, vector in enumerate(VECTORS.tolist())
    ]
    source = write_lines(tmp_path / "b.jsonl", rows)
    command = ("ingest", source, "--db", fake.url, "-c", "docs", "--quiet")
    killed = run_command(*command, moment=moment, number=number, batch_rows=15)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert run_command(*command, batch_rows=15).returncode == 0
    expected = {"acme": [], "bolt": rows_of("acme"), 7: [], "new": rows_of("bolt"), 8: rows_of(7)}
    assert fake.rows_by_key("docs") == expected


def test_several_loads_create_the_same_keys(server: Server, tmp_path: Path) -> None:
    """Each has its own connection, so that none knows the keys of the others."""
    docs = server.create()
    sources = [write_source(tmp_path / f"{start}.jsonl", start) for start in range(0, 4 * ROWS, ROWS)]
    started = Barrier(len(sources))

    def load(source: Path) -> int:
        with qvec.connect(server.url) as database:
            started.wait()
            return load_source(database, source, collection=docs.name, batch_rows=9).rows

    with ThreadPoolExecutor(len(sources)) as threads:
        assert list(threads.map(load, sources)) == [ROWS] * len(sources)
    expected = {key: [start + row for start in range(0, 4 * ROWS, ROWS) for row in rows_of(key)] for key in TENANTS}
    assert server.rows_by_key(docs.name) == expected


@pytest.mark.usefixtures("short_retries")
@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 'Wrong input: Shard key "acme" not found'),
        (grpc.StatusCode.NOT_FOUND, 'Not found: Shard key "acme" not found'),
    ],
)
def test_write_waits_for_a_key_that_another_client_creates(
    fake: Server, qdrant_server: FakeQdrantServer, code: grpc.StatusCode, details: str
) -> None:
    docs = fake.create()
    key_exists = 'Bad request: Shard key "acme" already exists'
    qdrant_server.fail("CreateShardKey", code=grpc.StatusCode.INVALID_ARGUMENT, details=key_exists, after=True)
    qdrant_server.fail("Upsert", times=2, code=code, details=details)
    docs.upsert([0], VECTORS[:1], metadata=[{"tenant": "acme"}])
    assert fake.rows_by_key(docs.name) == {"acme": [0]}


def test_rows_without_a_tenant_are_rejected(fake: Server, tmp_path: Path) -> None:
    rows: list[dict[str, Any] | str] = [
        {"id": row, "vector": VECTORS[row].tolist(), "tenant": tenant}
        for row, tenant in enumerate(["acme", None, "", 3])
    ]
    source = write_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError, match="line 2: metadata field 'tenant', which names the row's shard, is None"):
        load_source(fake.database, source, settings=FIELD, calibration=CALIBRATION)
    summary = load_source(fake.database, source, settings=FIELD, calibration=CALIBRATION, on_error="skip")
    assert (summary.rows, summary.rejected) == (2, 2)
    assert fake.rows_by_key("docs") == {"acme": [0], 3: [3]}


def test_command_line(fake: Server, tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.jsonl")
    command = ("ingest", source, "--db", fake.url, "-c", "docs", "--quiet", "--index-metadata", "tenant")
    succeed(*command, "--shard-key-field", "tenant")
    assert fake.rows_by_key("docs") == {key: rows_of(key) for key in TENANTS}
    succeed(*command)  # the collection knows its field
    conflict = invoke(*command, "--shard-key-field", "owner")
    assert "collection 'docs' has shard_key_field tenant, not owner" in conflict.stderr
    np.save(tmp_path / "query.npy", VECTORS[:1])
    query = ("--vectors", tmp_path / "query.npy", "-k", ROWS, "--filter", '{"tenant": "bolt"}', "--json")
    hits = json.loads(succeed("search", "--db", fake.url, "-c", "docs", *query).stdout)["hits"]
    assert sorted(hit["id"] for hit in hits) == rows_of("bolt")


# Versions and copies


def test_recalibration_keeps_the_shards(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.qdrant.version_record.LOOK_SECONDS", 0.05)
    docs = server.filled()
    docs.delete([0])
    result = recalibrate(server.database, docs.name, allow_worse=True)
    server.created.append(f"{docs.name}@{result.calibration}")
    docs.upsert([1], VECTORS[1:2], metadata=[{"tenant": 7}])
    expected = {"acme": rows_of("acme")[1:], "bolt": rows_of("bolt")[1:], 7: [1, *rows_of(7)]}
    assert server.rows_by_key(server.created[-1]) == expected
    assert ids(docs.search(VECTORS[1], k=ROWS, filter={"tenant": 7})) == expected[7]
    drop_old(server.database, docs.name)
    assert {row for rows in server.rows_by_key(docs.name).values() for row in rows} == set()
    assert docs.count() == ROWS - 1


def test_copies_keep_the_shards(server: Server, tmp_path: Path) -> None:
    docs = server.filled()
    copied, again = server.new_name(), server.new_name()
    succeed("copy", "--from", server.url, "--to", server.url, "-c", docs.name, "--as", copied, "--quiet")
    assert server.rows_by_key(copied) == {key: rows_of(key) for key in TENANTS}
    directory = f"qdrant:{tmp_path / 'directory'}"
    succeed("copy", "--from", server.url, "--to", directory, "-c", docs.name, "--as", "docs", "--quiet")
    field = ("--shard-key-field", "tenant")
    succeed("copy", "--from", directory, "--to", server.url, "-c", "docs", "--as", again, *field, "--quiet")
    assert server.rows_by_key(again) == {key: rows_of(key) for key in TENANTS}


def test_async_collection(fake: Server, qdrant_server: FakeQdrantServer) -> None:
    async def use() -> None:
        async with await qvec.connect_async(fake.url) as database:
            docs = await database.create_collection("docs", calibration=CALIBRATION, shard_key_field="tenant")
            await docs.upsert(range(ROWS), VECTORS, metadata=[{"tenant": key} for key in TENANT_OF])
            assert ids(await docs.search(VECTORS[0], k=ROWS, filter={"tenant": "bolt"})) == rows_of("bolt")
            assert await docs.count({"tenant": "acme"}) == len(rows_of("acme"))
            assert await docs.delete([0]) == 1

    asyncio.run(use())
    assert selected(qdrant_server, "Points/Delete") == ["acme"]


# Clusters and refusals


@pytest.mark.usefixtures("short_retries")
def test_tenant_is_found_while_the_node_of_another_is_down(tmp_path: Path) -> None:
    """Each key has one shard here, on one node after the other."""
    with FakeQdrantServer(tmp_path, nodes=3) as cluster, qvec.connect(cluster.url) as database:
        docs = Server(cluster.url, database).filled()
        cluster.stop_node(2)
        assert ids(docs.search(VECTORS[0], k=ROWS, filter={"tenant": "acme"})) == rows_of("acme")
        assert docs.count({"tenant": "bolt"}) == len(rows_of("bolt"))
        for where in ({"tenant": 7}, None):
            with pytest.raises(qvec.DatabaseError, match="node http://node-2:6335 of the cluster does not answer"):
                docs.count(where)


def test_warning_comes_with_the_first_shard(fake: Server, caplog: pytest.LogCaptureFixture) -> None:
    docs = fake.create(replication_factor=2)
    assert caplog.records == []
    docs.upsert(range(ROWS), VECTORS, metadata=[{"tenant": key} for key in TENANT_OF])
    (record,) = caplog.records
    assert "has a replication factor of 2, but the server has only 1 node to hold its shards" in record.getMessage()


def test_fixed_shard_key_is_in_every_write(server: Server) -> None:
    """A server refuses writes without one."""
    docs = server.create(shard_key_field=None, shard_key="acme")
    docs.upsert(range(ROWS), VECTORS)
    assert docs.delete([0, 1]) == 2
    assert server.rows_by_key(docs.name) == {"acme": list(range(2, ROWS))}


def test_fields_that_are_refused(fake: Server, tmp_path: Path) -> None:
    both = r"shard_key is 'a' and shard_key_field 'tenant'; give one of them"
    with pytest.raises(InputError, match=both):
        fake.create(shard_key="a")
    for name in ("", "a..b", 'a"b'):
        with pytest.raises(InputError, match="metadata field"):
            fake.create(shard_key_field=name)
    with (
        qvec.connect(f"qdrant:{tmp_path / 'vectors'}") as database,
        pytest.raises(InputError, match="is one shard in one process; shards and replicas are for a server"),
    ):
        database.create_collection("docs", calibration=CALIBRATION, shard_key_field="tenant")
