"""Several servers in one URL: which one is chosen, and how searches, writes and loads go on after a failover."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from command_line import invoke, succeed
from conftest import realistic
from ingest_helpers import assert_holds, load_source, random_vectors, run_command
from numpy.typing import NDArray
from patience import wait_until
from standby_servers import PostgresServer, free_port, primary_server

import qvec
from qvec import Calibration, DatabaseError
from qvec.ingest import Reporter
from qvec.postgres import loader
from qvec.postgres.pools import connect_arguments
from qvec.store.connect_options import ConnectOptions

Vectors = NDArray[np.float32]
ROWS = 300
VECTORS = realistic(1000)
CALIBRATION = Calibration.fit(VECTORS)


def several_url(*servers: PostgresServer | str, attributes: str = "read-write") -> str:
    """Return a URL with several servers; a string stands for a host and port where none listens."""
    hosts = ",".join(server if isinstance(server, str) else server.host for server in servers)
    return f"postgresql://postgres@{hosts}/postgres?target_session_attrs={attributes}"


def closed_host() -> str:
    return f"127.0.0.1:{free_port()}"


# The choice of the server


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    """A primary with the collection docs, which no test changes; `standby` follows it."""
    with primary_server() as server:
        fill(server.url())
        yield server


@pytest.fixture(scope="module")
def standby(primary: PostgresServer) -> PostgresServer:
    server = primary.add_standby("standby")
    server.start()
    server.wait_for_replay(primary)
    return server


def fill(url: str) -> None:
    with qvec.connect(url) as db:
        docs = db.create_collection("docs", calibration=CALIBRATION)
        docs.upsert(np.arange(ROWS), VECTORS[:ROWS])


def port_of(url: str) -> int:
    """Return the port of the server that a pool connects to, after a read and, where it can be, a write."""
    with qvec.connect(url) as db:
        assert db.collection("docs").search(VECTORS[7], 1)[0].id == 7
        with db.store.connection() as connection:  # type: ignore[attr-defined]
            return int(connection.info.port)


async def port_of_async(url: str) -> int:
    async with await qvec.connect_async(url) as db:
        assert (await (await db.collection("docs")).search(VECTORS[7], 1))[0].id == 7
        async with db.store.connection() as connection:  # type: ignore[attr-defined]
            return int(connection.info.port)


@pytest.mark.parametrize(
    ("attributes", "role"),
    [
        ("read-write", "primary"),
        ("primary", "primary"),
        ("read-only", "standby"),
        ("standby", "standby"),
        ("prefer-standby", "standby"),
        ("any", "first"),
    ],
)
@pytest.mark.parametrize("primary_first", [True, False])
def test_the_url_chooses_the_server(
    primary: PostgresServer, standby: PostgresServer, attributes: str, role: str, primary_first: bool
) -> None:
    servers = [primary, standby] if primary_first else [standby, primary]
    url = several_url(closed_host(), *servers, attributes=attributes)
    wanted = {"primary": primary, "standby": standby, "first": servers[0]}[role].port
    assert port_of(url) == wanted
    assert asyncio.run(port_of_async(url)) == wanted
    assert succeed("collections", "--db", url).exit_code == 0


def test_a_primary_is_taken_where_a_standby_is_preferred_and_none_runs(primary: PostgresServer) -> None:
    assert port_of(several_url(closed_host(), primary, attributes="prefer-standby")) == primary.port


def test_a_service_may_name_several_servers(
    primary: PostgresServer, standby: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = f"{free_port()},{primary.port},{standby.port}"
    lines = ["[search]", "host=127.0.0.1,127.0.0.1,127.0.0.1", f"port={ports}", "user=postgres", "dbname=postgres"]
    (tmp_path / "services").write_text("\n".join([*lines, "target_session_attrs=prefer-standby"]) + "\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert port_of("postgresql:///?service=search") == standby.port
    assert asyncio.run(port_of_async("postgresql:///?service=search")) == standby.port


@pytest.mark.parametrize("attributes", ["read-write", "primary"])
def test_one_line_says_why_no_server_was_chosen(standby: PostgresServer, attributes: str) -> None:
    url = several_url(closed_host(), standby, attributes=attributes)
    refused = invoke("collections", "--db", url)
    assert refused.exit_code == 1
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"Error: cannot connect to {url}: ")
    assert "Connection refused; " in refused.stderr
    assert f"port {standby.port} failed: " in refused.stderr
    assert "target_session_attrs asks for a" in refused.stderr
    with pytest.raises(DatabaseError, match=r"Connection refused; .*\(target_session_attrs asks for a"):
        asyncio.run(port_of_async(url))


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_passed_over(primary: PostgresServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = several_url(f"127.0.0.1:{silent.getsockname()[1]}", primary)
        with qvec.connect(url, timeout=6) as db:
            assert db.collections()[0].search(VECTORS[7], 1)[0].id == 7

        async def search() -> None:
            async with await qvec.connect_async(url, timeout=6) as db:
                assert (await (await db.collection("docs")).search(VECTORS[7], 1))[0].id == 7

        asyncio.run(search())


def test_the_servers_share_the_time_that_a_call_waits() -> None:
    def seconds(url: str, timeout: float = 30) -> int:
        return int(connect_arguments(url, ConnectOptions(timeout=timeout))["connect_timeout"])

    assert (seconds("postgresql://a/x"), seconds("postgresql://a/x", 4), seconds("postgresql://a/x", 0.1)) == (10, 4, 1)
    assert (seconds("postgresql://a,b:1,c/x"), seconds("postgresql://a,b:1,c/x", 6)) == (10, 2)
    assert seconds("postgresql://a,b/x?target_session_attrs=prefer-standby", 20) == 5
    assert seconds("postgresql:///x?hostaddr=127.0.0.1,127.0.0.2", 8) == 4
    assert seconds("postgresql://a,b/x?connect_timeout=3") == 3


# Failover


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary and a standby without which nothing is committed, for one test."""
    with primary_server() as primary:
        standby = primary.add_standby("standby")
        standby.start()
        primary.fetch("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        primary.fetch("SELECT pg_reload_conf()")
        wait_until(lambda: primary.fetch("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"))
        yield primary, standby


def fail_over(primary: PostgresServer, standby: PostgresServer, mode: str = "immediate") -> None:
    """Stop the primary and promote the standby, which does not wait for another."""
    primary.stop(mode)
    standby.promote()


class Load:
    """Searches and writes of many callers; what they found, and the ids whose write was acknowledged."""

    def __init__(self) -> None:
        self.wrong: list[Any] = []
        self.errors: list[Exception] = []
        self.searches = 0
        self.acknowledged: list[int] = []
        self._ids = iter(range(ROWS, 100_000))
        self._lock = threading.Lock()

    def next_id(self) -> int:
        with self._lock:
            return next(self._ids)

    def count_search(self, row: int, hits: list[Any]) -> None:
        self.searches += 1
        if not hits or hits[0].id != row:
            self.wrong.append((row, hits))

    def search_forever(self, docs: Any, row: int, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self.count_search(row, docs.search(VECTORS[row], 1))
            except Exception as error:
                self.errors.append(error)

    def write_forever(self, docs: Any, stop: threading.Event) -> None:
        while not stop.is_set():
            id = self.next_id()
            try:
                docs.upsert([id], VECTORS[id % 1000][None])
                self.acknowledged.append(id)
            except Exception as error:
                self.errors.append(error)

    async def search_forever_async(self, docs: Any, row: int, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                self.count_search(row, await docs.search(VECTORS[row], 1))
            except Exception as error:
                self.errors.append(error)

    async def write_forever_async(self, docs: Any, stop: threading.Event) -> None:
        while not stop.is_set():
            id = self.next_id()
            try:
                await docs.upsert([id], VECTORS[id % 1000][None])
                self.acknowledged.append(id)
            except Exception as error:
                self.errors.append(error)

    def fail_over(self, primary: PostgresServer, standby: PostgresServer, mode: str) -> None:
        """Fail over while the load runs, and wait until searches and writes go on."""
        wait_until(lambda: self.searches > 50 and len(self.acknowledged) > 20)
        fail_over(primary, standby, mode)
        searches, writes = self.searches, len(self.acknowledged)
        wait_until(lambda: self.searches > searches + 50 and len(self.acknowledged) > writes + 20)

    def check(self, standby: PostgresServer, callers: int) -> None:
        """Check that nothing wrong was found, no acknowledged write is lost, and only running calls failed."""
        assert self.wrong == []
        assert [error for error in self.errors if not isinstance(error, DatabaseError)] == []
        assert {str(error).partition(" (")[0] for error in self.errors} <= {
            "cannot write to collection 'docs': the connection was lost"
        }
        assert len(self.errors) <= callers
        with qvec.connect(standby.url()) as db:
            found = [hit.id for hit in db.collection("docs").scroll(texts=False)]
        assert set(self.acknowledged) <= set(found)
        assert set(range(ROWS)) <= set(found)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_threads_go_on_after_a_failover(pair: tuple[PostgresServer, PostgresServer], mode: str) -> None:
    url = several_url(*pair)
    fill(url)
    load, stop = Load(), threading.Event()
    with qvec.connect(url, pool_size=6, timeout=60) as db, ThreadPoolExecutor(8) as threads:
        docs = db.collection("docs")
        running = [threads.submit(load.search_forever, docs, row, stop) for row in range(4)]
        running += [threads.submit(load.write_forever, docs, stop) for _ in range(2)]
        try:
            load.fail_over(*pair, mode)
        finally:
            stop.set()
        for each in running:
            each.result(60)
    load.check(pair[1], callers=2)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_tasks_go_on_after_a_failover(pair: tuple[PostgresServer, PostgresServer], mode: str) -> None:
    url = several_url(*pair)
    fill(url)
    load, stop = Load(), threading.Event()

    async def run() -> None:
        async with await qvec.connect_async(url, pool_size=6, timeout=60) as db:
            docs = await db.collection("docs")
            running = [asyncio.create_task(load.search_forever_async(docs, row, stop)) for row in range(4)]
            running += [asyncio.create_task(load.write_forever_async(docs, stop)) for _ in range(2)]
            try:
                await asyncio.to_thread(load.fail_over, *pair, mode)
            finally:
                stop.set()
            await asyncio.gather(*running)

    asyncio.run(run())
    load.check(pair[1], callers=2)


def test_a_client_goes_on_after_a_failover(pair: tuple[PostgresServer, PostgresServer]) -> None:
    url = several_url(*pair)
    fill(url)
    with qvec.connect(url) as db:
        docs = db.collection("docs")
        assert docs.upsert([1000], VECTORS[999:]) == 1
        fail_over(*pair)
        assert docs.search(VECTORS[999], 1)[0].id == 1000
        assert docs.upsert([1001], VECTORS[998:999]) == 1
        assert docs.count() == ROWS + 2


def test_without_a_primary_calls_end_after_their_timeout(pair: tuple[PostgresServer, PostgresServer]) -> None:
    primary, standby = pair
    url = several_url(*pair)
    fill(url)
    with qvec.connect(url, timeout=0.5) as db:
        docs = db.collection("docs")
        primary.stop("immediate")
        for work in (lambda: docs.search(VECTORS[7], 1), lambda: docs.delete([1])):
            with pytest.raises(DatabaseError, match=r"^cannot .*: all connections are busy or the server is away \("):
                work()
        standby.promote()
        wait_until(lambda: succeeds(lambda: docs.search(VECTORS[7], 1)))
        assert docs.search(VECTORS[7], 1)[0].id == 7


def succeeds(work: Callable[[], object]) -> bool:
    try:
        work()
    except DatabaseError:
        return False
    return True


# Loads


class Interrupting(Reporter):
    """Calls a function once, when so many rows are loaded; keeps what is said."""

    def __init__(self, interruptions: dict[int, Callable[[], object]]) -> None:
        self.said: list[str] = []
        self._interruptions = interruptions

    def advance(self, stage: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if stage == "loading" and done in self._interruptions:
            self._interruptions.pop(done)()

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.ingest.pipeline._RETRY_SECONDS", (0.1,) * 100)


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_load_goes_on_after_a_failover(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, workers: int
) -> None:
    array = random_vectors(400)
    np.save(tmp_path / "a.npy", array)
    with qvec.connect(several_url(*pair)) as db:
        reporter = Interrupting({100: lambda: fail_over(*pair)})
        load_source(db, tmp_path / "a.npy", reporter, workers=workers, batch_rows=20, index=True)
        assert "the connection was lost" in "".join(reporter.said)
        assert_holds(db, array)
        assert db.collection("docs").has_index()


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
def test_a_load_on_a_standby_waits_for_its_promotion(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    """An address that always leads to some server may lead to the standby before it is the primary."""
    primary, standby = pair
    array = random_vectors(400)
    np.save(tmp_path / "a.npy", array)

    class Promoting(Interrupting):
        def say(self, message: str) -> None:
            super().say(message)
            if len(self.said) == 3:
                standby.promote()

    with qvec.connect(several_url(*pair, attributes="any")) as db:
        db.create_collection("docs", calibration=Calibration.fit(array))
        reporter = Promoting({100: lambda: primary.stop("immediate")})
        load_source(db, tmp_path / "a.npy", reporter, batch_rows=20)
        assert len(reporter.said) >= 3
        assert_holds(db, array)


@pytest.mark.slow
@pytest.mark.usefixtures("short_pauses")
def test_a_load_repeats_batches_that_the_standby_did_not_receive(tmp_path: Path) -> None:
    """Batches are not waited for: the new primary has the first ones, and the checkpoint after them."""
    array = random_vectors(400)
    np.save(tmp_path / "a.npy", array)
    with primary_server() as primary:
        with qvec.connect(primary.url()) as db:
            db.create_collection("docs", calibration=Calibration.fit(array))
        standby = primary.add_standby("standby")
        standby.start()
        kept: list[int] = []

        def stop_standby() -> None:
            standby.wait_for_replay(primary)
            standby.stop()

        def promote() -> None:
            primary.stop("immediate")
            standby.start()
            kept.append(standby.fetch("SELECT position FROM qvec.ingest"))
            standby.promote()

        with qvec.connect(several_url(primary, standby)) as db:
            reporter = Interrupting({100: stop_standby, 300: promote})
            load_source(db, tmp_path / "a.npy", reporter, workers=1, batch_rows=20)
            assert kept == [100]
            assert_holds(db, array)


def test_a_finished_load_is_complete_after_a_failover(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    """Its last commit waits for the synchronous standby, and all earlier ones come before it."""
    array = random_vectors(400)
    np.save(tmp_path / "a.npy", array)
    with qvec.connect(several_url(*pair)) as db:
        load_source(db, tmp_path / "a.npy", batch_rows=20)
        fail_over(*pair)
        assert_holds(db, array)
        assert load_source(db, tmp_path / "a.npy").rows == 0


def test_the_last_commit_of_a_load_waits_as_the_server_is_set(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for the disk at least, and for standbys where the server says so."""
    found: dict[bool, str] = {}
    write = loader._write_checkpoint

    def watch(connection: Any, collection: str, source: str, checkpoint: Any) -> None:
        (found[checkpoint.finished],) = connection.execute("SHOW synchronous_commit").fetchone()
        write(connection, collection, source, checkpoint)

    monkeypatch.setattr(loader, "_write_checkpoint", watch)
    np.save(tmp_path / "a.npy", random_vectors(20))
    for setting, wanted in (("off", "on"), ("on", "on"), ("remote_apply", "remote_apply"), ("local", "local")):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = {setting}".encode())
        with qvec.connect(url) as db:
            load_source(db, tmp_path / "a.npy", collection=f"docs_{setting}")
        assert found == {False: "off", True: wanted}


@pytest.mark.slow
def test_a_command_continues_a_load_after_a_failover(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path
) -> None:
    array = random_vectors(20_000)
    np.save(tmp_path / "a.npy", array)
    url = several_url(*pair)
    with qvec.connect(url) as db, ThreadPoolExecutor() as threads:
        db.install()
        command = ["ingest", str(tmp_path / "a.npy"), "--db", url, "-c", "docs", "--no-index"]
        loading = threads.submit(run_command, *command, batch_rows=20)
        position = "SELECT coalesce(max(position), 0) FROM qvec.ingest"
        wait_until(lambda: pair[0].fetch(position) > 1000)
        fail_over(*pair)
        done = loading.result(120)
        if done.returncode:  # its pauses together are a second
            assert done.stderr.count("Traceback") == 0
            time.sleep(0.1)
            done = run_command(*command, batch_rows=2000)
        assert done.returncode == 0, done.stderr
        assert_holds(db, array)
