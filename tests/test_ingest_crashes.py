"""Loads with killed processes, lost connections and crashed servers: every row is loaded exactly once."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from ingest_helpers import (
    assert_holds,
    codes_by_id,
    load_source,
    random_vectors,
    run_command,
    start_command,
    with_ids,
    write_lines,
)

import qvec
from qvec.client import Database
from qvec.errors import DatabaseError
from qvec.ingest import Reporter, pipeline
from qvec.postgres import embedded, loader

ROWS = 12_000
BAD = tuple(range(17, ROWS, 307))
KEPT = [row for row in range(ROWS) if row not in BAD]
KILLS = 12


@pytest.fixture(autouse=True)
def kill_leftover_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill the processes that a failed test leaves running."""
    started: list[subprocess.Popen[str]] = []
    create = subprocess.Popen

    def create_and_record(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(create(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", create_and_record)
    yield
    for process in started:
        if process.poll() is None:
            kill(process)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with ids, some of them bad."""
    lines = with_ids(random_vectors(ROWS))
    for row in BAD:
        lines[row] = {"id": row, "vector": [0.0] * 8}
    return write_lines(tmp_path_factory.mktemp("source") / "a.jsonl", lines)


def checkpoint(database: Database) -> int:
    """Return the checkpoint of the load, or -1 before the load began."""
    with database.store.connection() as connection:
        if not connection.execute("SELECT to_regclass('qvec.ingest')").fetchone()[0]:
            return -1
        return connection.execute("SELECT coalesce(max(position), -1) FROM qvec.ingest").fetchone()[0]


def wait_until(reached: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 60) -> bool:
    """Wait until `reached()`; return False if the process ends first."""
    end = time.monotonic() + seconds
    while not reached():
        if process is not None and process.poll() is not None:
            return False
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.003)
    return True


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_load_killed_at_any_moment_loads_every_row_once(
    database: Database, url: str, source: Path, tmp_path: Path, workers: int
) -> None:
    rejects = tmp_path / "rejects.jsonl"
    command = ["ingest", source, "--db", url, "-c", "docs", "--workers", workers, "--json"]
    command += ["--on-error", "skip", "--rejects", rejects]
    rng = random.Random(workers)
    for seconds in (0.4, 0.8):  # while it starts and samples
        starting = start_command(*map(str, command), batch_rows=6)
        time.sleep(seconds)
        kill(starting)
    killed_at = set()
    for _ in range(KILLS):
        process = start_command(*map(str, command), batch_rows=6)
        target = checkpoint(database) + ROWS // (4 * KILLS)
        reached = wait_until(lambda target=target: checkpoint(database) >= target, process)
        time.sleep(rng.random() * 0.01)
        kill(process)
        if not reached:  # the load finished before the kill
            break
        killed_at.add(checkpoint(database))
    assert len(killed_at) > KILLS // 2
    last = run_command(*map(str, command), batch_rows=20)
    assert last.returncode == 0, last.stderr
    summary = json.loads(last.stdout)
    assert (summary["total_rows"], summary["rejected"]) == (len(KEPT), len(BAD))
    assert summary["resumed_at"] > 0
    assert_holds(database, random_vectors(ROWS)[KEPT], KEPT)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(BAD)
    assert database.collection("docs").has_index()

    calibration = database.collection("docs").calibration
    load_source(database, source, collection="whole", calibration=calibration, on_error="skip")
    assert codes_by_id(database, "whole") == codes_by_id(database, "docs")


@pytest.mark.slow
def test_load_killed_during_the_index_build_builds_it_again(database: Database, url: str, tmp_path: Path) -> None:
    array = random_vectors(20_000, dimensions=64)
    np.save(tmp_path / "a.npy", array)
    command = ["ingest", tmp_path / "a.npy", "--db", url, "-c", "docs"]
    process = start_command(*command)

    def building() -> bool:
        with database.store.connection() as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_progress_create_index WHERE relid = to_regclass('docs')"
            ).fetchone()
        return bool(found and found[0])

    assert wait_until(building, process)
    kill(process)
    assert not database.collection("docs").has_index()
    last = run_command(*command, "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["rows"] == 0
    assert database.collection("docs").has_index()
    assert_holds(database, array)


@pytest.mark.slow
def test_killed_load_from_a_pipe_resumes_with_the_same_content(
    database: Database, url: str, source: Path, tmp_path: Path
) -> None:
    command = ["ingest", "-", "--db", url, "-c", "docs", "--json", "--on-error", "skip"]
    with source.open() as content:
        process = start_command(*command, batch_rows=6, stdin=content)
        assert wait_until(lambda: checkpoint(database) > ROWS // 3, process)
        kill(process)
    other = write_lines(tmp_path / "other.jsonl", with_ids(random_vectors(100, seed=1)))
    with other.open() as content:
        refused = run_command(*command, batch_rows=6, stdin=content)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: - has changed since its load was interrupted")
    with source.open() as content:
        last = run_command(*command, batch_rows=6, stdin=content)
    assert json.loads(last.stdout)["resumed_at"] > ROWS // 3
    assert_holds(database, random_vectors(ROWS)[KEPT], KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_a_load_after_the_current_batch(
    database: Database, url: str, source: Path, signal_number: int
) -> None:
    command = ["ingest", source, "--db", url, "-c", "docs", "--on-error", "skip"]
    process = start_command(*command, batch_rows=6)
    assert wait_until(lambda: checkpoint(database) > 1000, process)
    process.send_signal(signal_number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert out == ""
    assert "Stopping after the current batch" in err
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
    stopped_at = checkpoint(database)
    assert 1000 < stopped_at < ROWS
    kept = [row for row in KEPT if row < stopped_at]
    assert_holds(database, random_vectors(ROWS)[kept], kept)
    assert run_command(*command).returncode == 0
    assert_holds(database, random_vectors(ROWS)[KEPT], KEPT)


SLOW_PROGRAM = """
import sys, time
from qvec.cli import main
import {module} as module
real = module.{name}
def slow(*arguments, **options):
    print("slow", file=sys.stderr, flush=True)
    time.sleep({seconds})
    return real(*arguments, **options)
module.{name} = slow
main()
"""


def start_slow(module: str, name: str, seconds: float, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command with one of qvec's functions slowed down; return when that function begins."""
    script = SLOW_PROGRAM.format(module=module, name=name, seconds=seconds)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while process.stderr.readline() != "slow\n":
        assert process.poll() is None
    return process


def test_signal_during_sampling_stops_the_load_immediately(database: Database, url: str, source: Path) -> None:
    command = ["ingest", source, "--db", url, "-c", "docs", "--on-error", "skip"]
    process = start_slow("qvec.ingest.fit", "_sample_vectors", 30, *command)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not database.has_collection("docs")


@pytest.mark.slow
def test_second_signal_stops_the_load_immediately(url: str, source: Path) -> None:
    """The current batch takes 30 seconds to encode."""
    command = ["ingest", source, "--db", url, "-c", "docs", "--on-error", "skip"]
    process = start_slow("qvec.postgres._sync.collection", "encode_rows", 30, *command)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    _, err = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "Traceback" not in err


class Recorder(Reporter):
    """Record messages and reported positions, and call a function at each position."""

    def __init__(self, at_position: Callable[[int], Any] = lambda _: None) -> None:
        self.messages: list[str] = []
        self.positions: list[int] = []
        self._at_position = at_position

    def advance(self, name: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if name == "loading":
            self.positions.append(done)
            self._at_position(done)

    def say(self, message: str) -> None:
        self.messages.append(message)

    @property
    def retries(self) -> int:
        return sum("the connection was lost" in message for message in self.messages)


@pytest.fixture
def short_retry_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits between retries."""
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.05,) * 400)  # a server may take a while to recover


def terminate_connections(url: str) -> int:
    """Terminate the connections of every load into this database; return their number."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'qvec' AND datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return len(found)


@pytest.mark.slow
@pytest.mark.usefixtures("short_retry_waits")
@pytest.mark.parametrize("workers", [1, 3])
def test_load_survives_lost_connections(
    database: Database, url: str, source: Path, tmp_path: Path, workers: int
) -> None:
    terminated, finished, rng = 0, threading.Event(), random.Random(workers)

    def terminate_now_and_then() -> None:
        nonlocal terminated
        while not finished.wait(0.05 + 0.15 * rng.random()):
            terminated += terminate_connections(url)

    recorder, rejects = Recorder(lambda _: time.sleep(0.002)), tmp_path / "rejects.jsonl"
    options = {"on_error": "skip", "rejects": rejects, "workers": workers, "batch_rows": 20}
    thread = threading.Thread(target=terminate_now_and_then)
    database.install()
    calibration = qvec.Calibration.fit(random_vectors(ROWS))
    database.create_collection("docs", calibration=calibration)
    wait = recorder.stage
    recorder.stage = lambda name, total: (wait(name, total), thread.start())  # type: ignore[method-assign]
    recorder.finish = lambda _: (finished.set(), thread.join())  # type: ignore[method-assign]
    summary = load_source(database, source, recorder, **options)
    assert terminated >= 3
    assert recorder.retries >= 3
    assert (summary.rows, summary.rejected) == (len(KEPT), len(BAD))
    assert_holds(database, random_vectors(ROWS)[KEPT], KEPT)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(BAD)


@pytest.mark.slow
@pytest.mark.usefixtures("short_retry_waits")
@pytest.mark.parametrize("acknowledged", ["before the commit", "after the commit"])
@pytest.mark.parametrize("workers", [1, 3])
def test_load_survives_an_unacknowledged_commit(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    acknowledged: str,
) -> None:
    """The connection breaks just before a COMMIT arrives, or after it took effect but before the reply."""
    np.save(tmp_path / "a.npy", random_vectors(500))
    execute = psycopg.Connection.execute
    commits = 0

    def broken(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal commits
        commits += query == "COMMIT"
        if query != "COMMIT" or commits % 3:
            return execute(self, query, *arguments, **options)
        if acknowledged == "after the commit":
            execute(self, query, *arguments, **options)
        self.close()
        raise psycopg.OperationalError("the connection broke")

    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", broken)
        summary = load_source(database, tmp_path / "a.npy", recorder, workers=workers, batch_rows=20)
    assert recorder.retries >= 5
    assert summary.rows == 500
    assert_holds(database, random_vectors(500))


@pytest.mark.usefixtures("short_retry_waits")
def test_load_survives_a_connection_lost_before_the_first_batch(
    database: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection holds the lock of the load while the source is sampled, which may take long."""
    np.save(tmp_path / "a.npy", random_vectors(100))
    recorder = Recorder()
    monkeypatch.setattr(
        recorder, "stage", lambda name, _total: terminate_connections(url) if name == "loading" else None
    )
    assert load_source(database, tmp_path / "a.npy", recorder, batch_rows=20).rows == 100
    assert recorder.retries == 1
    assert_holds(database, random_vectors(100))


@pytest.mark.usefixtures("short_retry_waits")
def test_load_survives_a_connection_lost_after_the_last_batch(database: Database, url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    recorder = Recorder(lambda done: terminate_connections(url) if done == 100 else None)
    assert load_source(database, tmp_path / "a.npy", recorder, batch_rows=20).rows == 100
    assert recorder.retries == 1
    assert load_source(database, tmp_path / "a.npy").rows == 0
    assert_holds(database, random_vectors(100))


def test_unreachable_server_ends_the_load_with_one_error(
    database: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01, 0.02, 0.03))
    connect = database.store.direct_connection
    reachable = True

    def connect_while_reachable(**options: Any) -> Any:
        if reachable:
            return connect(**options)
        raise DatabaseError("cannot connect")

    def disconnect(done: int) -> None:
        nonlocal reachable
        if done == 40:
            reachable = False
            terminate_connections(url)

    monkeypatch.setattr(database.store, "direct_connection", connect_while_reachable)
    recorder = Recorder(disconnect)
    with pytest.raises(DatabaseError, match=r"^cannot load .*a\.npy into collection 'docs': the connection was lost"):
        load_source(database, tmp_path / "a.npy", recorder, batch_rows=20)
    assert [message.rpartition("; ")[2] for message in recorder.messages if "lost" in message] == [
        "next try in 0.01 s",
        "next try in 0.02 s",
        "next try in 0.03 s",
    ]
    with qvec.connect(url) as again:
        assert load_source(again, tmp_path / "a.npy").rows == 60
        assert_holds(again, random_vectors(100))


def test_batch_that_always_loses_the_connection_ends_the_load(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01, 0.01))
    copy = loader.copy_rows
    copied = 0

    def copy_and_break(connection: Any, table: Any, rows: bytes) -> int:
        nonlocal copied
        if copied == 3:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        copied += 1
        return copy(connection, table, rows)

    monkeypatch.setattr(loader, "copy_rows", copy_and_break)
    recorder = Recorder()
    with pytest.raises(DatabaseError, match="the connection was lost"):
        load_source(database, tmp_path / "a.npy", recorder, batch_rows=20, workers=1)
    assert recorder.retries == 2
    assert_holds(database, random_vectors(100)[:60])


@pytest.fixture(scope="module")
def separate_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a separate server for tests to stop and crash."""
    directory = tmp_path_factory.mktemp("server")
    embedded.start(directory)
    yield directory
    embedded.stop(directory)


@pytest.mark.slow
@pytest.mark.usefixtures("short_retry_waits")
@pytest.mark.parametrize("workers", [1, 3])
def test_load_survives_a_server_crash_and_its_lost_commits(separate_server: Path, tmp_path: Path, workers: int) -> None:
    """Commits do not wait for the disk, so a crash loses the last ones; their rows must be loaded again."""
    np.save(tmp_path / "a.npy", random_vectors(2000))
    name = f"crash_{workers}"
    with qvec.connect(f"postgres:{separate_server}") as database:
        with database.store.connection() as connection:
            for setting in ("wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'", "autovacuum = off"):
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
        crashes = 0

        def crash(done: int) -> None:
            nonlocal crashes
            if done in (600, 1200) and crashes < 2:
                crashes += 1
                with psycopg.connect(embedded.start(separate_server), autocommit=True) as connection:
                    os.kill(connection.info.backend_pid, signal.SIGKILL)
                    time.sleep(0.2)

        recorder = Recorder(crash)
        options = {"collection": name, "id_start": 0, "workers": workers, "batch_rows": 20}
        summary = load_source(database, tmp_path / "a.npy", recorder, **options)
        assert recorder.retries >= 2
        assert any(later < earlier for earlier, later in zip(recorder.positions, recorder.positions[1:], strict=False))
        assert summary.rows == 2000
        assert_holds(database, random_vectors(2000), name=name)


@pytest.mark.slow
@pytest.mark.usefixtures("short_retry_waits")
def test_load_survives_a_server_restart(separate_server: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(2000))
    restarted = False

    def restart(done: int) -> None:
        nonlocal restarted
        if done >= 1000 and not restarted:
            restarted = True
            assert embedded.stop(separate_server)
            embedded.start(separate_server)

    with qvec.connect(f"postgres:{separate_server}") as database:
        recorder = Recorder(restart)
        options = {"collection": "restarted", "batch_rows": 20}
        assert load_source(database, tmp_path / "a.npy", recorder, **options).rows == 2000
        assert recorder.retries >= 1
        assert_holds(database, random_vectors(2000), name="restarted")
