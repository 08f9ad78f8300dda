"""The embedded Postgres server: creation, sharing, restarts, killed processes, and unusable directories."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import qvec
from qvec import DatabaseError
from qvec.postgres import embedded

WRITE = "CREATE TABLE kept AS SELECT 42 AS answer"
READ = "SELECT answer FROM kept"


def run(program: str, directory: Path | str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate process, where `d` is the directory and `execute(sql)` runs a statement."""
    done = subprocess.run(command(program, directory), capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return done  # type: ignore[no-any-return]


def command(program: str, directory: Path | str) -> list[str]:
    prelude = """
import sys, psycopg
from qvec.postgres import embedded
d = sys.argv[1]
def execute(statement, url=None):
    with psycopg.connect(url or embedded.start(d), autocommit=True) as connection:
        return connection.execute(statement)
"""
    return [sys.executable, "-c", prelude + program, str(directory)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a database that a finished process created and filled; shared, because initdb takes a second."""
    path = tmp_path_factory.mktemp("embedded") / "new" / "data"
    run(f"execute({WRITE!r})", path)
    yield path
    embedded.stop(path)


def wait_until_stopped(directory: Path, seconds: float = 10) -> bool:
    """Return whether the server stops within some seconds."""
    deadline = time.monotonic() + seconds
    while embedded.running(directory) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not embedded.running(directory)


def test_server_stops_with_its_last_process_and_keeps_data(directory: Path) -> None:
    assert wait_until_stopped(directory)
    assert run(f"print(execute({READ!r}).fetchone())", directory).stdout == "(42,)\n"
    assert wait_until_stopped(directory)


def test_settings_are_written_once(directory: Path) -> None:
    for setting, value in (("max_wal_size", "4GB"), ("shared_buffers", "256MB")):
        assert run(f"print(execute('SHOW {setting}').fetchone())", directory).stdout == f"('{value}',)\n"
    assert (directory / "postgresql.auto.conf").read_text().count("Written by qvec") == 1


@pytest.fixture
def start_user(directory: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start processes that use the database until their standard input closes."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        program = "print(embedded.start(d), flush=True); sys.stdin.read()"
        process = subprocess.Popen(
            command(program, directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_exit(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def read_url(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def postmaster_pid(directory: Path) -> str:
    return (directory / "postmaster.pid").read_text().splitlines()[0]


def test_processes_share_the_server_of_a_directory(
    directory: Path, start_user: Callable[[], subprocess.Popen[str]]
) -> None:
    one, other = start_user(), start_user()  # at the same moment
    assert read_url(one) == read_url(other) != ""
    server = postmaster_pid(directory)
    wait_for_exit(one)
    assert embedded.running(directory)
    assert postmaster_pid(directory) == server
    wait_for_exit(other)
    assert wait_until_stopped(directory)


@pytest.mark.slow
def test_killed_process_does_not_keep_the_server_running(
    directory: Path, start_user: Callable[[], subprocess.Popen[str]]
) -> None:
    killed = start_user()
    read_url(killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert embedded.running(directory)
    last = start_user()
    read_url(last)
    wait_for_exit(last)
    assert wait_until_stopped(directory)


@pytest.mark.slow
def test_process_killed_while_another_uses_the_server(
    directory: Path, start_user: Callable[[], subprocess.Popen[str]]
) -> None:
    survivor, killed = start_user(), start_user()
    read_url(survivor)
    read_url(killed)
    killed.kill()
    killed.wait()
    wait_for_exit(survivor)
    last = start_user()
    read_url(last)
    wait_for_exit(last)
    assert wait_until_stopped(directory)


FORK_PROGRAM = """
import os, time, warnings, qvec
warnings.simplefilter("ignore")
db = qvec.connect(f"postgres:{d}")
parent, (used, use) = os.getpid(), os.pipe()
child = os.fork()
if child == 0:
    print(db.collections(), flush=True)
    os.write(use, b".")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_server_keeps_running_for_a_forked_child(directory: Path) -> None:
    """As in a program that becomes a daemon."""
    program = """
    while os.getppid() == parent:
        time.sleep(0.05)
    print(embedded.running(d), db.collections(), flush=True)
else:
    os.read(used, 1)
"""
    assert run(FORK_PROGRAM + program, directory).stdout == "[]\nTrue []\n"
    assert wait_until_stopped(directory)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.sampled(2)
@pytest.mark.parametrize("options", ["os.WEXITED | os.WNOWAIT", "os.WEXITED"])
def test_server_stops_after_short_lived_forked_children(directory: Path, options: str) -> None:
    """Also while the parent has not yet reaped the child."""
    program = f"""
    os._exit(0)
os.waitid(os.P_PID, child, {options})
"""
    assert run(FORK_PROGRAM + program, directory).stdout == "[]\n"
    assert wait_until_stopped(directory)


@pytest.mark.slow
def test_killed_server_restarts_with_its_data(directory: Path, start_user: Callable[[], subprocess.Popen[str]]) -> None:
    process = start_user()
    read_url(process)
    os.kill(int(postmaster_pid(directory)), signal.SIGKILL)
    time.sleep(2)  # the killed server's processes notice, also on a busy machine
    assert run(f"print(execute({READ!r}).fetchone())", directory).stdout == "(42,)\n"


@pytest.mark.slow
def test_reused_process_id_is_not_taken_for_the_server(
    directory: Path, start_user: Callable[[], subprocess.Popen[str]]
) -> None:
    # As after a restart of the machine or container: the test's own process has the dead server's id.
    read_url(start_user())
    os.kill(int(postmaster_pid(directory)), signal.SIGKILL)
    time.sleep(2)  # the killed server's processes notice, also on a busy machine
    pid_file = directory / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(postmaster_pid(directory), str(os.getpid()), 1))
    assert not embedded.running(directory)
    assert run(f"print(execute({READ!r}).fetchone())", directory).stdout == "(42,)\n"


@pytest.mark.slow
def test_kept_server_runs_until_it_is_stopped(directory: Path) -> None:
    url = run("print(embedded.keep(d))", directory).stdout.strip()
    assert embedded.running(directory)
    with psycopg.connect(url) as connection:
        assert connection.execute(READ).fetchone() == (42,)
    run(f"execute({READ!r})", directory)
    assert embedded.running(directory), "another user's exit must not stop a server that is kept"
    assert run("print(embedded.stop(d), embedded.stop(d))", directory).stdout == "True False\n"
    assert wait_until_stopped(directory)
    run(f"execute({READ!r})", directory)
    assert wait_until_stopped(directory), "after a stop it is an ordinary server again"


def test_stop_without_a_running_server(tmp_path: Path) -> None:
    assert embedded.stop(tmp_path) is False
    assert embedded.stop(tmp_path / "none") is False
    assert not (tmp_path / "none").exists()


UNUSUAL_NAMES = ["with space", "quo'te", "per%cent", "ünï ćode", "dollar$HOME", "hash#?&=", "x" * 110]


@pytest.mark.slow
@pytest.mark.parametrize("name", UNUSUAL_NAMES, ids=["space", "quote", "percent", "unicode", "dollar", "url", "long"])
def test_directories_with_unusual_names(tmp_path: Path, name: str) -> None:
    """The path is relative, below a new parent; the long name exceeds the limit of a socket path."""
    program = "import qvec\nwith qvec.connect('postgres:' + d) as db: print(len(db.collections()))"
    (tmp_path / "links").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "links")}
    assert run(program, f"new/{name}", cwd=tmp_path, env=environment).stdout == "0\n"
    assert (tmp_path / "new" / name / "PG_VERSION").exists()
    assert wait_until_stopped(tmp_path / "new" / name)


def test_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatabaseError, match=r"is not empty and holds no Postgres database; name a new or empty direct"):
        qvec.connect(f"postgres:{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_file_instead_of_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match=r"file is a file; the embedded database needs a directory$"):
        qvec.connect(f"postgres:{tmp_path}/file")
    with pytest.raises(DatabaseError, match=r"^cannot create .*/file/data: Not a directory$"):
        qvec.connect(f"postgres:{tmp_path}/file/data")


def test_database_of_another_major_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseError, match=r"^cannot open the embedded database in .*: .*version 12"):
        qvec.connect(f"postgres:{tmp_path}")


@pytest.mark.slow
def test_error_for_a_damaged_database_gives_the_reason(tmp_path: Path) -> None:
    run("embedded.start(d)", tmp_path / "data")
    assert wait_until_stopped(tmp_path / "data")
    (tmp_path / "data" / "global" / "pg_control").unlink()
    with pytest.raises(DatabaseError, match=r"^cannot start the embedded database in .*: .*pg_control"):
        qvec.connect(f"postgres:{tmp_path}/data")
