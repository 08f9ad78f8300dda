"""A PgBouncer in front of the server of the tests."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
SOCKET = ".s.PGSQL.5432"
START_SECONDS = 10


@contextmanager
def pooled(url: str, mode: str = "transaction", servers: int = 4, **settings: object) -> Iterator[str]:
    """Start PgBouncer in front of a server; yield the URL of the same database by way of it.

    It refuses to run as root, so there it runs as the user of the embedded servers, and gets to a socket by a link:
    pytest closes the folders above to others whenever another run begins.
    """
    assert PROGRAM is not None
    server = conninfo_to_dict(url)
    directory = Path(tempfile.mkdtemp(prefix="qvec-pooler-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    place = f"host={server['host']} port={server.get('port', 5432)}"
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = pwd.getpwnam("pgserver")  # of the embedded servers
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(directory, user.pw_uid, user.pw_gid)
        if str(server["host"]).startswith("/"):
            os.link(Path(str(server["host"])) / SOCKET, directory / SOCKET)
            place = f"host={directory}"
    port = _free_port()
    options = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "any",
        "pool_mode": mode,
        "default_pool_size": servers,
        "max_client_conn": 500,
        "logfile": directory / "log",
        **settings,
    }
    lines = ["[databases]", f"* = {place} user=postgres", "[pgbouncer]"]
    file = directory / "pgbouncer.ini"
    file.write_text("\n".join(lines + [f"{name} = {value}" for name, value in options.items()]) + "\n")
    process = subprocess.Popen([PROGRAM, str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user)
    try:
        pooled_url = f"postgresql://postgres@127.0.0.1:{port}/{server['dbname']}"
        _wait_for(pooled_url, directory / "log")
        yield pooled_url
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError as error:
            if time.monotonic() > end:
                raise AssertionError(log.read_text() if log.exists() else "PgBouncer did not start") from error
            time.sleep(0.02)
