"""Loads with killed processes, broken connections and crashed servers: every row is loaded exactly once."""

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
from ingest_helpers import assert_holds, codes_by_id, load, run, start, vectors, with_ids, write_lines

import qvec
from qvec.client import Database
from qvec.errors import DatabaseError
from qvec.ingest import Reporter, pipeline
from qvec.postgres import embedded, loader

ROWS = 12_000
BAD = tuple(range(17, ROWS, 307))
KEPT = [row for row in range(ROWS) if row not in BAD]
KILLS = 12


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as database:
        yield database


@pytest.fixture(autouse=True)
def no_process_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill the processes that a failed test leaves."""
    started: list[subprocess.Popen[str]] = []
    create = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
        started.append(create(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    yield
    for process in started:
        if process.poll() is None:
            kill(process)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with ids, some of them bad."""
    lines = with_ids(vectors(ROWS))
    for row in BAD:
        lines[row] = {"id": row, "vector": [0.0] * 8}
    return write_lines(tmp_path_factory.mktemp("source") / "a.jsonl", lines)


def position(database: Database) -> int:
    """Return the checkpoint of the load; -1 before it began."""
    with database.store.connection() as connection:
        if not connection.execute("SELECT to_regclass('qvec.ingest')").fetchone()[0]:
            return -1
        return connection.execute("SELECT coalesce(max(position), -1) FROM qvec.ingest").fetchone()[0]


def wait_until(reached: Callable[[], Any], process: subprocess.Popen[str] | None = None, seconds: float = 60) -> bool:
    """Wait; return False where the process ended first."""
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
def test_a_load_killed_at_any_moment_loads_every_row_once(
    database: Database, url: str, source: Path, tmp_path: Path, workers: int
) -> None:
    rejects = tmp_path / "rejects.jsonl"
    command = ["ingest", source, "--db", url, "-c", "docs", "--workers", workers, "--json"]
    command += ["--on-error", "skip", "--rejects", rejects]
    moments = random.Random(workers)
    for seconds in (0.4, 0.8):  # while it starts and samples
        early = start(*map(str, command), batch_rows=6)
        time.sleep(seconds)
        kill(early)
    killed_at = set()
    for _ in range(KILLS):
        process = start(*map(str, command), batch_rows=6)
        target = position(database) + ROWS // (4 * KILLS)
        reached = wait_until(lambda target=target: position(database) >= target, process)
        time.sleep(moments.random() * 0.01)
        kill(process)
        if not reached:  # it was faster than the last kills
            break
        killed_at.add(position(database))
    assert len(killed_at) > KILLS // 2
    last = run(*map(str, command), batch_rows=20)
    assert last.returncode == 0, last.stderr
    summary = json.loads(last.stdout)
    assert (summary["total_rows"], summary["rejected"]) == (len(KEPT), len(BAD))
    assert summary["resumed_at"] > 0
    assert_holds(database, vectors(ROWS)[KEPT], KEPT)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(BAD)
    assert database.collection("docs").has_index()

    with_calibration = database.collection("docs").calibration
    load(database, source, collection="whole", calibration=with_calibration, on_error="skip")
    assert codes_by_id(database, "whole") == codes_by_id(database, "docs")


@pytest.mark.slow
def test_a_load_killed_while_its_index_is_built_builds_it_again(database: Database, url: str, tmp_path: Path) -> None:
    array = vectors(20_000, dimensions=64)
    np.save(tmp_path / "a.npy", array)
    command = ["ingest", tmp_path / "a.npy", "--db", url, "-c", "docs"]
    process = start(*command)

    def building() -> bool:
        with database.store.connection() as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_progress_create_index WHERE relid = to_regclass('docs')"
            ).fetchone()
        return bool(found and found[0])

    assert wait_until(building, process)
    kill(process)
    assert not database.collection("docs").has_index()
    last = run(*command, "--json")
    assert last.returncode == 0, last.stderr
    assert json.loads(last.stdout)["rows"] == 0
    assert database.collection("docs").has_index()
    assert_holds(database, array)


@pytest.mark.slow
def test_a_killed_load_from_a_pipe_continues_with_the_same_content(
    database: Database, url: str, source: Path, tmp_path: Path
) -> None:
    command = ["ingest", "-", "--db", url, "-c", "docs", "--json", "--on-error", "skip"]
    with source.open() as content:
        process = start(*command, batch_rows=6, stdin=content)
        assert wait_until(lambda: position(database) > ROWS // 3, process)
        kill(process)
    other = write_lines(tmp_path / "other.jsonl", with_ids(vectors(100, seed=1)))
    with other.open() as content:
        refused = run(*command, batch_rows=6, stdin=content)
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: - has changed since its load was interrupted")
    with source.open() as content:
        last = run(*command, batch_rows=6, stdin=content)
    assert json.loads(last.stdout)["resumed_at"] > ROWS // 3
    assert_holds(database, vectors(ROWS)[KEPT], KEPT)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_load_after_the_current_batch(database: Database, url: str, source: Path, number: int) -> None:
    command = ["ingest", source, "--db", url, "-c", "docs", "--on-error", "skip"]
    process = start(*command, batch_rows=6)
    assert wait_until(lambda: position(database) > 1000, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert out == ""
    assert "Stopping after the current batch" in err
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
    stopped_at = position(database)
    assert 1000 < stopped_at < ROWS
    kept = [row for row in KEPT if row < stopped_at]
    assert_holds(database, vectors(ROWS)[kept], kept)
    assert run(*command).returncode == 0
    assert_holds(database, vectors(ROWS)[KEPT], KEPT)


SLOW = """
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
    """Start the command with a slow function of qvec; return when that function begins."""
    script = SLOW.format(module=module, name=name, seconds=seconds)
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while process.stderr.readline() != "slow\n":
        assert process.poll() is None
    return process


def test_a_signal_while_sampling_ends_the_load_at_once(database: Database, url: str, source: Path) -> None:
    command = ["ingest", source, "--db", url, "-c", "docs", "--on-error", "skip"]
    process = start_slow("qvec.ingest.fit", "_sample_vectors", 30, *command)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
    assert not database.has_collection("docs")


@pytest.mark.slow
def test_a_second_signal_ends_a_load_at_once(url: str, source: Path) -> None:
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
    """Records messages and the positions that a load reports, and calls a function at each position."""

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
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between tries."""
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.05,) * 400)  # a server may take a while to recover


def terminate_all(url: str) -> int:
    """Terminate the connections of every load in this database; return their number."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'qvec' AND datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    return len(found)


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_survives_broken_connections(
    database: Database, url: str, source: Path, tmp_path: Path, workers: int
) -> None:
    ended, over, moments = 0, threading.Event(), random.Random(workers)

    def terminate_now_and_then() -> None:
        nonlocal ended
        while not over.wait(0.05 + 0.15 * moments.random()):
            ended += terminate_all(url)

    recorder, rejects = Recorder(lambda _: time.sleep(0.002)), tmp_path / "rejects.jsonl"
    options = {"on_error": "skip", "rejects": rejects, "workers": workers, "batch_rows": 20}
    thread = threading.Thread(target=terminate_now_and_then)
    database.install()
    calibration = qvec.Calibration.fit(vectors(ROWS))
    database.create_collection("docs", calibration=calibration)
    wait = recorder.stage
    recorder.stage = lambda name, total: (wait(name, total), thread.start())  # type: ignore[method-assign]
    recorder.finish = lambda _: (over.set(), thread.join())  # type: ignore[method-assign]
    summary = load(database, source, recorder, **options)
    assert ended >= 3
    assert recorder.retries >= 3
    assert (summary.rows, summary.rejected) == (len(KEPT), len(BAD))
    assert_holds(database, vectors(ROWS)[KEPT], KEPT)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(BAD)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("acknowledged", ["before the commit", "after the commit"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_survives_an_unacknowledged_commit(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    acknowledged: str,
) -> None:
    """The connection breaks just before a COMMIT arrives, or after it took effect and before the reply."""
    np.save(tmp_path / "a.npy", vectors(500))
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
        summary = load(database, tmp_path / "a.npy", recorder, workers=workers, batch_rows=20)
    assert recorder.retries >= 5
    assert summary.rows == 500
    assert_holds(database, vectors(500))


@pytest.mark.usefixtures("soon")
def test_the_beginning_of_a_load_survives_a_broken_connection(
    database: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection holds the lock from before the source is sampled, which may take long."""
    np.save(tmp_path / "a.npy", vectors(100))
    recorder = Recorder()
    monkeypatch.setattr(recorder, "stage", lambda name, _total: terminate_all(url) if name == "loading" else None)
    assert load(database, tmp_path / "a.npy", recorder, batch_rows=20).rows == 100
    assert recorder.retries == 1
    assert_holds(database, vectors(100))


@pytest.mark.usefixtures("soon")
def test_the_end_of_a_load_survives_a_broken_connection(database: Database, url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(100))
    recorder = Recorder(lambda done: terminate_all(url) if done == 100 else None)
    assert load(database, tmp_path / "a.npy", recorder, batch_rows=20).rows == 100
    assert recorder.retries == 1
    assert load(database, tmp_path / "a.npy").rows == 0
    assert_holds(database, vectors(100))


def test_a_server_that_stays_away_is_one_error(
    database: Database, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", vectors(100))
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01, 0.02, 0.03))
    connect = database.store.direct_connection
    there = True

    def connect_while_there() -> Any:
        if there:
            return connect()
        raise DatabaseError("cannot connect")

    def leave(done: int) -> None:
        nonlocal there
        if done == 40:
            there = False
            terminate_all(url)

    monkeypatch.setattr(database.store, "direct_connection", connect_while_there)
    recorder = Recorder(leave)
    with pytest.raises(DatabaseError, match=r"^cannot load .*a\.npy into collection 'docs': the connection was lost"):
        load(database, tmp_path / "a.npy", recorder, batch_rows=20)
    assert [message.rpartition("; ")[2] for message in recorder.messages if "lost" in message] == [
        "next try in 0.01 s",
        "next try in 0.02 s",
        "next try in 0.03 s",
    ]
    with qvec.connect(url) as again:
        assert load(again, tmp_path / "a.npy").rows == 60
        assert_holds(again, vectors(100))


def test_a_batch_that_always_breaks_the_connection_ends_the_load(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", vectors(100))
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
        load(database, tmp_path / "a.npy", recorder, batch_rows=20, workers=1)
    assert recorder.retries == 2
    assert_holds(database, vectors(100)[:60])


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a server that tests stop and crash."""
    directory = tmp_path_factory.mktemp("server")
    embedded.start(directory)
    yield directory
    embedded.stop(directory)


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_survives_a_crash_of_the_server_and_the_commits_it_lost(
    own_server: Path, tmp_path: Path, workers: int
) -> None:
    """Commits do not wait for the disk, so a crash loses the last of them; their rows have to be loaded again."""
    np.save(tmp_path / "a.npy", vectors(2000))
    name = f"crash_{workers}"
    with qvec.connect(f"postgres:{own_server}") as database:
        with database.store.connection() as connection:
            for setting in ("wal_writer_delay = '10s'", "wal_writer_flush_after = '1GB'", "autovacuum = off"):
                connection.execute(f"ALTER SYSTEM SET {setting}".encode())
            connection.execute("SELECT pg_reload_conf()")
        crashes = 0

        def crash(done: int) -> None:
            nonlocal crashes
            if done in (600, 1200) and crashes < 2:
                crashes += 1
                with psycopg.connect(embedded.start(own_server), autocommit=True) as connection:
                    os.kill(connection.info.backend_pid, signal.SIGKILL)
                    time.sleep(0.2)

        recorder = Recorder(crash)
        options = {"collection": name, "id_start": 0, "workers": workers, "batch_rows": 20}
        summary = load(database, tmp_path / "a.npy", recorder, **options)
        assert recorder.retries >= 2
        assert any(later < earlier for earlier, later in zip(recorder.positions, recorder.positions[1:], strict=False))
        assert summary.rows == 2000
        assert_holds(database, vectors(2000), name=name)


@pytest.mark.slow
@pytest.mark.usefixtures("soon")
def test_a_load_survives_a_restart_of_the_server(own_server: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(2000))
    restarted = False

    def restart(done: int) -> None:
        nonlocal restarted
        if done >= 1000 and not restarted:
            restarted = True
            assert embedded.stop(own_server)
            embedded.start(own_server)

    with qvec.connect(f"postgres:{own_server}") as database:
        recorder = Recorder(restart)
        options = {"collection": "restarted", "batch_rows": 20}
        assert load(database, tmp_path / "a.npy", recorder, **options).rows == 2000
        assert recorder.retries >= 1
        assert_holds(database, vectors(2000), name="restarted")
