"""Postgres servers on TCP ports, by the programs of the embedded package: a primary, and hot standbys of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from patience import wait_until

from qvec.postgres import embedded

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "hot_standby_feedback": "on",  # searches on a standby are not cancelled by vacuum on the primary
}


class PostgresServer:
    """A server with its data in a folder, and a port that it keeps."""

    def __init__(self, folder: Path, programs: Programs, **settings: str) -> None:
        """`settings` are added to those in the folder."""
        self.folder = folder
        self.port = free_port()
        self._programs = programs
        self._set({**settings, "port": str(self.port)})

    @property
    def host(self) -> str:
        """Host and port as in a URL."""
        return f"127.0.0.1:{self.port}"

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@{self.host}/{database}"

    def start(self) -> None:
        self._programs.run("pg_ctl", "-w", "-s", "-D", self.folder, "-l", self.folder / "log", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server unless it is stopped: `fast` ends all sessions, `immediate` is a crash."""
        if (self.folder / "postmaster.pid").exists():
            self._programs.run("pg_ctl", "-w", "-s", "-D", self.folder, "-m", mode, "stop")

    def promote(self) -> None:
        """Make a primary of a standby."""
        assert self.fetch("SELECT pg_promote()") is True

    def fetch(self, statement: str) -> Any:
        """Execute a statement as superuser; return the first value of its first row, if any."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def use_tls(self, certificate: Path, key: Path, authority: Path) -> None:
        """Accept connections with TLS, also with client certificates of an authority."""
        for source, name in ((certificate, "server.crt"), (key, "server.key"), (authority, "root.crt")):
            self._own(Path(shutil.copy(source, self.folder / name)))
        self._set({"ssl": "on", "ssl_ca_file": "root.crt"})
        self.fetch("SELECT pg_reload_conf()")
        wait_until(lambda: self.fetch("SELECT current_setting('ssl') = 'on'"))

    def authenticate(self, *rules: str) -> None:
        """Put rules before those in pg_hba.conf, which trust everyone."""
        file = self.folder / "pg_hba.conf"
        file.write_text("\n".join([*rules, file.read_text()]))
        loaded = self.fetch("SELECT pg_conf_load_time()")
        self.fetch("SELECT pg_reload_conf()")
        wait_until(lambda: self.fetch("SELECT pg_conf_load_time()") > loaded)

    def add_standby(self, name: str, **settings: str) -> PostgresServer:
        """Return a standby with a copy of the data, not started. It streams as `name` from this server."""
        folder = self.folder.parent / name
        source = f"host=127.0.0.1 port={self.port} user=postgres"
        self._programs.run("pg_basebackup", "-d", source, "-D", folder, "-c", "fast", "--no-sync")
        (folder / "standby.signal").touch()
        (folder / "postmaster.pid").unlink(missing_ok=True)
        following = {"primary_conninfo": f"{source} application_name={name}", "wal_retrieve_retry_interval": "100ms"}
        return PostgresServer(folder, self._programs, **following, **settings)

    def wait_for_replay(self, primary: PostgresServer) -> None:
        """Wait until this standby has replayed what is committed on the primary."""
        # A transaction of its own also flushes commits that did not wait for the disk.
        position = primary.fetch("SELECT pg_logical_emit_message(true, 'tests', '')")
        wait_until(lambda: self.fetch(f"SELECT pg_last_wal_replay_lsn() >= '{position}'"))

    def _own(self, file: Path) -> None:
        """Make a file one that only the server's user can read."""
        owner = self.folder.stat()
        os.chown(file, owner.st_uid, owner.st_gid)
        file.chmod(0o600)

    def _set(self, settings: dict[str, str]) -> None:
        with (self.folder / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())


class Programs:
    """The programs of a Postgres installation; Postgres refuses to run as root, so there another user runs them."""

    def __init__(self, folder: Path, **owner: Any) -> None:
        self._folder = folder
        self._owner = owner

    def run(self, program: str, *arguments: object) -> None:
        command = [str(self._folder / program), *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as output:  # a server that is started would keep a pipe open
            done = subprocess.run(command, stdout=output, stderr=output, cwd="/", check=False, **self._owner)
            output.seek(0)
            assert done.returncode == 0, output.read()


@contextmanager
def primary_server(programs: Path | None = None, **settings: str) -> Iterator[PostgresServer]:
    """Start a primary; at the end stop it and every standby beside it, and remove their data.

    `programs` is the folder of another installation than the embedded package.
    """
    folder = Path(tempfile.mkdtemp(prefix="qvec-servers-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    try:
        runner = programs_for(folder, programs)
        runner.run("initdb", "-D", folder / "primary", "-U", "postgres", "-A", "trust", "-E", "utf8", "--no-sync")
        server = PostgresServer(folder / "primary", runner, **SETTINGS, **settings)
        server.start()
        yield server
    finally:
        for pid_file in folder.glob("*/postmaster.pid"):
            runner.run("pg_ctl", "-w", "-s", "-D", pid_file.parent, "-m", "immediate", "stop")
        shutil.rmtree(folder)


def programs_for(folder: Path, programs: Path | None) -> Programs:
    """Return the programs of an installation, run by the owner of `folder`.

    As root it gets another owner: the user of the embedded package.
    """
    package = embedded._package()
    if programs is None:
        programs = package.postgres_server.POSTGRES_VERSIONS[package.postgres_server.TARGET_POSTGRES_VERSION]
    if os.geteuid() != 0:
        return Programs(programs)
    user = package.utils.ensure_user_exists("pgserver")
    package.utils.ensure_prefix_permissions(programs)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return Programs(programs, user=user.pw_uid, group=user.pw_gid, extra_groups=[])


def tls_programs() -> Path | None:
    """Return the programs of an installed Postgres that knows TLS, unlike the embedded package's, if there is one."""
    config = shutil.which("pg_config")
    if config is None or "openssl" not in _output(config, "--configure"):
        return None
    programs = Path(_output(config, "--bindir"))
    return programs if (programs / "postgres").exists() and (programs / "initdb").exists() else None


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
