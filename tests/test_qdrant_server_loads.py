"""Loads onto a Qdrant server: lost responses, overload, restarts, the load registry, signals."""

import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors, with_ids, write_lines
from killed_commands import start_command
from qdrant_client import models
from qdrant_load_helpers import assert_holds, checkpoint_position, found_rows
from reporters import AtRow

import qvec
from qvec.client import Database
from qvec.errors import CollectionError, DatabaseError
from qvec.ingest import pipeline
from qvec.qdrant._sync import server

Code = grpc.StatusCode


@pytest.fixture
def url(qdrant_server: FakeQdrantServer) -> str:
    return qdrant_server.url


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("code", "after", "workers"),
    [
        (Code.UNAVAILABLE, False, 1),
        (Code.UNAVAILABLE, True, 4),
        (Code.DEADLINE_EXCEEDED, True, 1),
        (Code.DEADLINE_EXCEEDED, False, 4),
        (Code.RESOURCE_EXHAUSTED, False, 4),
        (Code.CANCELLED, True, 4),
    ],
)
@pytest.mark.usefixtures("short_retries")
def test_transient_failures_are_retried(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, code: grpc.StatusCode, after: bool, workers: int
) -> None:
    """The client retries a few failures; after more of them the load continues at its checkpoint."""
    qdrant_server.fail("Upsert", skip=3, times=3, code=code, after=after)
    qdrant_server.fail("Upsert", skip=9, times=20, code=code, after=after)
    reporter = AtRow()
    summary = load_source(database, source, reporter, batch_rows=20, workers=workers)
    assert (summary.rows, summary.total_rows) == (400, 400)
    assert reporter.retries >= 1
    assert_holds(database, random_vectors(400))


@pytest.mark.parametrize("method", ["Points/Get", "Points/Scroll", "Collections/Get", "Count", "CreateFieldIndex"])
@pytest.mark.usefixtures("short_retries")
def test_few_failures_are_retried_without_a_message(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, method: str
) -> None:
    reporter = AtRow()
    qdrant_server.fail(method, times=2)
    assert load_source(database, source, reporter, on_duplicate="skip", batch_rows=50).rows == 400
    assert qdrant_server.count(method) > 2
    assert reporter.retries == 0


@pytest.mark.parametrize("method", ["Collections/Create", "CreateShardKey"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.usefixtures("short_retries")
def test_collection_is_created_though_responses_are_lost(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, method: str, after: bool
) -> None:
    qdrant_server.fail(method, times=2, after=after)
    assert load_source(database, source, settings={"shard_key": "here"}).rows == 400
    assert_holds(database, random_vectors(400))


def test_retries_wait_as_long_as_an_overloaded_server_asks(
    qdrant_server: FakeQdrantServer, database: Database, source: Path
) -> None:
    load_source(database, source)
    reporter = AtRow()
    qdrant_server.fail("Upsert", skip=4, code=Code.RESOURCE_EXHAUSTED, retry_after=1)
    summary = load_source(database, source, reporter, restart=True, batch_rows=100, workers=1)
    assert (summary.rows, reporter.retries) == (400, 0)
    assert summary.seconds > 1


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.usefixtures("short_retries")
def test_checkpoint_excludes_refused_batches(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, workers: int
) -> None:
    load_source(database, source, collection="other")
    qdrant_server.fail("Upsert", skip=8, times=1000, code=Code.INVALID_ARGUMENT)
    with pytest.raises(DatabaseError, match=r"^cannot load .*a\.npy into collection 'docs': a fault on purpose"):
        load_source(database, source, batch_rows=20, workers=workers)
    reached = checkpoint_position(database, source)
    assert 0 <= reached < 200
    assert set(range(reached)) <= found_rows(database).keys()
    assert len(found_rows(database)) < 200


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.usefixtures("short_retries")
def test_load_survives_a_server_restart(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, workers: int
) -> None:
    def restart() -> None:
        qdrant_server.stop()
        threading.Timer(0.3, qdrant_server.start).start()

    reporter = AtRow(100, restart)
    assert load_source(database, source, reporter, batch_rows=20, workers=workers).rows == 400
    assert reporter.retries >= 1
    assert_holds(database, random_vectors(400))


@pytest.mark.usefixtures("short_retries")
def test_unreachable_server_is_one_clear_error(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01, 0.02))
    reporter = AtRow(100, qdrant_server.stop)
    with pytest.raises(DatabaseError, match=r"^cannot load .*a\.npy into collection 'docs': .+"):
        load_source(database, source, reporter, batch_rows=20)
    assert reporter.retries == 2
    qdrant_server.start()
    deadline = time.monotonic() + 10
    while not is_reachable(database):
        assert time.monotonic() < deadline
    again = load_source(database, source, batch_rows=20)
    assert again.rows == 400 - again.resumed_at
    assert 100 <= again.resumed_at <= 140
    assert_holds(database, random_vectors(400))


def is_reachable(database: Database) -> bool:
    try:
        return database.has_collection("docs")
    except DatabaseError:
        return False


@pytest.mark.slow
@pytest.mark.usefixtures("short_retries")
def test_timeout_of_the_url_applies_to_each_request(qdrant_server: FakeQdrantServer, source: Path) -> None:
    with qvec.connect(f"{qdrant_server.url}?timeout=1") as database:

        def delay() -> None:
            qdrant_server.delay("Upsert", 1.3)
            threading.Timer(2.5, qdrant_server.delay, ("Upsert", 0)).start()

        reporter = AtRow(100, delay)
        summary = load_source(database, source, reporter, batch_rows=20, workers=2)
    assert summary.rows == 400
    assert summary.seconds < 8
    assert reporter.retries >= 1
    assert any("Deadline Exceeded" in message for message in reporter.messages)


def test_load_into_an_unmanaged_collection_is_refused(
    qdrant_server: FakeQdrantServer, database: Database, source: Path
) -> None:
    with qdrant_server.client() as client:
        client.create_collection("docs", models.VectorParams(size=8, distance=models.Distance.DOT))
        with pytest.raises(
            CollectionError, match="has a collection 'docs' that qvec did not make; choose another name"
        ):
            load_source(database, source)
        assert client.count("docs").count == 0
        assert client.get_collection("docs").config.metadata is None


def test_concurrent_loads_create_the_load_registry_once(qdrant_server: FakeQdrantServer) -> None:
    qdrant_server.delay("Collections/Create", 0.2)
    databases = [qvec.connect(qdrant_server.url) for _ in range(4)]
    barrier, written = threading.Barrier(4), []

    def write(number: int) -> None:
        barrier.wait()
        databases[number].store.backend.write_load("docs", f"{number}.npy", {"position": number})
        written.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [0, 1, 2, 3]
    assert databases[0].store.backend.read_loads("docs") == {
        f"{number}.npy": {"position": number} for number in range(4)
    }
    assert databases[0].store.backend.read_loads("others") == {}
    assert qdrant_server.count("Collections/Create") == 4
    for database in databases:
        database.close()


def test_load_registry_is_read_to_its_last_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOADS_PAGE", 3)
    expected = {f"{number}.npy": {"position": number, "first_id": None} for number in range(10)}
    for source, state in expected.items():
        database.store.backend.write_load("docs", source, state)
    assert database.store.backend.read_loads("docs") == expected
    assert database.store.backend.read_load("docs", "4.npy") == {"position": 4, "first_id": None}
    database.store.backend.write_load("docs", "4.npy", None)
    assert database.store.backend.read_load("docs", "4.npy") is None


def test_documents_of_one_megabyte(qdrant_server: FakeQdrantServer, database: Database, tmp_path: Path) -> None:
    lines = [{**line, "text": chr(97 + row) * (1 << 20)} for row, line in enumerate(with_ids(random_vectors(20)))]  # type: ignore[dict-item]
    load_source(database, write_lines(tmp_path / "a.jsonl", lines))
    hits = database.collection("docs").get(range(20))
    assert [hit.document and (hit.document[0], len(hit.document)) for hit in hits] == [
        (chr(97 + row), 1 << 20) for row in range(20)
    ]
    assert qdrant_server.count("Points/Upsert") >= 3 + 3  # of 8 MB each, and the checkpoints


def test_requests_contain_the_sharding_settings(
    qdrant_server: FakeQdrantServer, database: Database, source: Path
) -> None:
    seen = []
    settings = {"shards": 3, "replication_factor": 2, "write_consistency_factor": 2, "shard_key": "Åland"}
    load_source(
        database, source, AtRow(0, lambda: seen.append(qdrant_server.last("Upsert").request)), settings=settings
    )
    with qdrant_server.client() as client:
        params = client.get_collection("docs").config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    assert params.sharding_method is models.ShardingMethod.CUSTOM
    assert qdrant_server.last("CreateShardKey").request.request.shard_key.keyword == "Åland"
    load_source(database, source, restart=True, batch_rows=400)
    uploads = [request for request in seen if request.collection_name == "docs"]
    assert not [request for request in uploads if request.shard_key_selector.shard_keys[0].keyword != "Åland"]
    assert database.collection("docs").settings["shards"] == 3
    assert_holds(database, random_vectors(400))


def start_and_wait(*arguments: Any, reached: Callable[[], bool]) -> subprocess.Popen[str]:
    """Start the command and return it when `reached` is true."""
    process = start_command(*arguments, batch_rows=2)
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_first_sigint_ends_a_load_after_its_batch_and_a_second_immediately(
    qdrant_server: FakeQdrantServer, database: Database, tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", random_vectors(2000))
    command = ["ingest", tmp_path / "a.npy", "--db", qdrant_server.url, "-c", "docs", "--workers", "2"]
    process = start_and_wait(*command, reached=lambda: qdrant_server.count("Upsert") > 100)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out) == (130, "")
    assert "Stopping after the current batch" in err
    assert "Traceback" not in err
    stopped_at = checkpoint_position(database, tmp_path / "a.npy")
    assert 0 < stopped_at < 2000
    assert_holds(database, random_vectors(2000)[:stopped_at])

    before = qdrant_server.count("Upsert")
    qdrant_server.delay("Upsert", 30)
    process = start_and_wait(*command, reached=lambda: qdrant_server.count("Upsert") > before)
    qdrant_server.delay("Upsert", 0)
    started = time.monotonic()
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - started < 5
    assert "Traceback" not in err, err
