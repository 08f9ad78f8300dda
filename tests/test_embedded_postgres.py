"""The embedded Postgres server: created, shared, restarted, killed; and directories that it cannot use."""

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
    """Run a program in a separate process; `d` is the directory, `execute(sql)` runs a statement there."""
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
    """The directory of a database that an ended process created and filled; shared, because initdb takes a second."""
    path = tmp_path_factory.mktemp("embedded") / "new" / "data"
    run(f"execute({WRITE!r})", path)
    yield path
    embedded.stop(path)


def stopped(directory: Path, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while embedded.running(directory) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not embedded.running(directory)


def test_the_server_stops_with_its_only_process_and_keeps_the_data(directory: Path) -> None:
    assert stopped(directory)
    assert run(f"print(execute({READ!r}).fetchone())", directory).stdout == "(42,)\n"
    assert stopped(directory)


def test_settings_are_written_once(directory: Path) -> None:
    for setting, value in (("max_wal_size", "4GB"), ("shared_buffers", "256MB")):
        assert run(f"print(execute('SHOW {setting}').fetchone())", directory).stdout == f"('{value}',)\n"
    assert (directory / "postgresql.auto.conf").read_text().count("Written by qvec") == 1


@pytest.fixture
def user(directory: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that use the database until their standard input closes."""
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


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def postmaster(directory: Path) -> str:
    return (directory / "postmaster.pid").read_text().splitlines()[0]


def test_processes_on_one_directory_share_a_server(directory: Path, user: Callable[[], subprocess.Popen[str]]) -> None:
    one, other = user(), user()  # at the same moment
    assert url_of(one) == url_of(other) != ""
    server = postmaster(directory)
    leave(one)
    assert embedded.running(directory)
    assert postmaster(directory) == server
    leave(other)
    assert stopped(directory)


@pytest.mark.slow
def test_a_killed_process_does_not_keep_the_server_alive(
    directory: Path, user: Callable[[], subprocess.Popen[str]]
) -> None:
    killed = user()
    url_of(killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert embedded.running(directory)
    last = user()
    url_of(last)
    leave(last)
    assert stopped(directory)


@pytest.mark.slow
def test_a_process_killed_while_another_continues(directory: Path, user: Callable[[], subprocess.Popen[str]]) -> None:
    survivor, killed = user(), user()
    url_of(survivor)
    url_of(killed)
    killed.kill()
    killed.wait()
    leave(survivor)
    last = user()
    url_of(last)
    leave(last)
    assert stopped(directory)


FORKED = """
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
def test_the_server_keeps_running_for_a_forked_process_that_uses_it(directory: Path) -> None:
    """Like a program that becomes a daemon."""
    program = """
    while os.getppid() == parent:
        time.sleep(0.05)
    print(embedded.running(d), db.collections(), flush=True)
else:
    os.read(used, 1)
"""
    assert run(FORKED + program, directory).stdout == "[]\nTrue []\n"
    assert stopped(directory)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("options", ["os.WEXITED", "os.WEXITED | os.WNOWAIT"])
def test_the_server_stops_after_workers_that_ended_at_once(directory: Path, options: str) -> None:
    """Also where the parent has not yet reaped the process."""
    program = f"""
    os._exit(0)
os.waitid(os.P_PID, child, {options})
"""
    assert run(FORKED + program, directory).stdout == "[]\n"
    assert stopped(directory)


@pytest.mark.slow
def test_a_killed_server_starts_again_with_its_data(directory: Path, user: Callable[[], subprocess.Popen[str]]) -> None:
    process = user()
    url_of(process)
    os.kill(int(postmaster(directory)), signal.SIGKILL)
    time.sleep(2)  # the killed server's processes notice, also on a busy machine
    assert run(f"print(execute({READ!r}).fetchone())", directory).stdout == "(42,)\n"


@pytest.mark.slow
def test_a_process_id_that_another_program_has_now(directory: Path, user: Callable[[], subprocess.Popen[str]]) -> None:
    # As after a restart of the machine or container: this very process has the dead server's number.
    url_of(user())
    os.kill(int(postmaster(directory)), signal.SIGKILL)
    time.sleep(2)  # the killed server's processes notice, also on a busy machine
    pid_file = directory / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(postmaster(directory), str(os.getpid()), 1))
    assert not embedded.running(directory)
    assert run(f"print(execute({READ!r}).fetchone())", directory).stdout == "(42,)\n"


@pytest.mark.slow
def test_a_kept_server_runs_until_it_is_stopped(directory: Path) -> None:
    url = run("print(embedded.keep(d))", directory).stdout.strip()
    assert embedded.running(directory)
    with psycopg.connect(url) as connection:
        assert connection.execute(READ).fetchone() == (42,)
    run(f"execute({READ!r})", directory)
    assert embedded.running(directory), "another user's exit must not stop a server that is kept"
    assert run("print(embedded.stop(d), embedded.stop(d))", directory).stdout == "True False\n"
    assert stopped(directory)
    run(f"execute({READ!r})", directory)
    assert stopped(directory), "after a stop it is an ordinary server again"


def test_stopping_a_server_that_does_not_run(tmp_path: Path) -> None:
    assert embedded.stop(tmp_path) is False
    assert embedded.stop(tmp_path / "none") is False
    assert not (tmp_path / "none").exists()


ODD = ["with space", "quo'te", "per%cent", "ünï ćode", "dollar$HOME", "hash#?&=", "x" * 110]


@pytest.mark.slow
@pytest.mark.parametrize("odd", ODD, ids=["space", "quote", "percent", "unicode", "dollar", "url", "long"])
def test_directories_of_any_name(tmp_path: Path, odd: str) -> None:
    """Relative, below a parent that is new; the long one is beyond what a socket's path may have."""
    program = "import qvec\nwith qvec.connect('postgres:' + d) as db: print(len(db.collections()))"
    (tmp_path / "links").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "links")}
    assert run(program, f"new/{odd}", cwd=tmp_path, env=environment).stdout == "0\n"
    assert (tmp_path / "new" / odd / "PG_VERSION").exists()
    assert stopped(tmp_path / "new" / odd)


def test_a_directory_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DatabaseError, match=r"is not empty and holds no Postgres database; name a new or empty direct"):
        qvec.connect(f"postgres:{tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match=r"file is a file; the embedded database needs a directory$"):
        qvec.connect(f"postgres:{tmp_path}/file")
    with pytest.raises(DatabaseError, match=r"^cannot create .*/file/data: Not a directory$"):
        qvec.connect(f"postgres:{tmp_path}/file/data")


def test_a_database_of_another_major_version(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseError, match=r"^cannot open the embedded database in .*: .*version 12"):
        qvec.connect(f"postgres:{tmp_path}")


@pytest.mark.slow
def test_the_error_for_a_damaged_database_gives_the_reason(tmp_path: Path) -> None:
    run("embedded.start(d)", tmp_path / "data")
    assert stopped(tmp_path / "data")
    (tmp_path / "data" / "global" / "pg_control").unlink()
    with pytest.raises(DatabaseError, match=r"^cannot start the embedded database in .*: .*pg_control"):
        qvec.connect(f"postgres:{tmp_path}/data")
