"""Building the prefilter's index: memory and workers set for the machine, progress read from the server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from qvec.postgres import statements
from qvec.postgres.layout import Table
from qvec.postgres.schema import Connection

Progress = Callable[[int, int], None]
"""Called with blocks of the table done and their total; pgvector tells no total of rows."""

_POLL_SECONDS = 0.5
_GRAPH_BYTES = 700
"""Of one HNSW element beside its bits: pgvector's neighbours and bookkeeping at m = 16, with room to spare."""


@dataclass(frozen=True)
class Machine:
    """What an index build may use: bytes of memory and parallel workers beside the leader."""

    memory: int
    workers: int

    @classmethod
    def local(cls) -> Machine:
        """A quarter of this machine's memory, and its cores."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(memory // 4, max((os.cpu_count() or 1) - 1, 0))

    @classmethod
    def remote(cls, connection: Connection) -> Machine:
        """For a server elsewhere: what its own settings allow, but at least a gibibyte."""
        row = connection.execute(
            "SELECT pg_size_bytes(current_setting('maintenance_work_mem')),"
            " current_setting('max_parallel_workers')::int"
        ).fetchone()
        assert row
        return cls(max(row[0], 1 << 30), min(row[1], 7))


def exists(connection: Connection, table: Table) -> bool:
    """Whether the index is there and complete."""
    row = connection.execute(
        "SELECT indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = %s::regclass AND relname = %s",
        [table.identifier.as_string(), table.index],
    ).fetchone()
    return bool(row and row[0])


def build(connection: Connection, watcher: Connection, table: Table, machine: Machine, progress: Progress) -> None:
    """Builds the index in one transaction of `connection`, unless it exists; `watcher` reads the progress."""
    if exists(connection, table):
        return
    _stop_with_client(connection)
    try:
        _create(connection, watcher, table, machine, progress)
    except (errors.DiskFull, errors.OutOfMemory):
        if not machine.workers:
            raise
        # Parallel builds share their memory through /dev/shm, which containers keep small: do without.
        _create(connection, watcher, table, Machine(machine.memory, 0), progress)
    connection.execute(sql.SQL("ANALYZE {}").format(table.identifier))


def _stop_with_client(connection: Connection) -> None:
    """Without this the server goes on building for a client that was killed. Not every platform can."""
    with suppress(errors.InvalidParameterValue):
        connection.execute("SET client_connection_check_interval = '1s'")


def _create(connection: Connection, watcher: Connection, table: Table, machine: Machine, progress: Progress) -> None:
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(watcher, connection.info.backend_pid, progress, done), daemon=True)
    with connection.transaction():
        # Unlike SHARE this mode excludes itself: of two builds at once the second waits, and finds the index there.
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier))
        if exists(connection, table):
            return
        memory = _memory(connection, table, machine)
        for name, value in (
            ("maintenance_work_mem", f"{memory >> 10}kB"),
            ("max_parallel_maintenance_workers", str(machine.workers)),
            ("statement_timeout", "0"),
        ):
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        watch.start()
        try:
            connection.execute(statements.drop_index(table))
            connection.execute(statements.create_index(table))
        finally:
            done.set()
            watch.join()


def _memory(connection: Connection, table: Table, machine: Machine) -> int:
    """Bytes that hold the whole graph while it is built, within what the machine has."""
    row = connection.execute(statements.count(table)).fetchone()
    assert row
    needed = int(row[0] * (table.layout.prefilter_bits // 8 + _GRAPH_BYTES) * 1.2)
    return max(min(needed, machine.memory), 64 << 20)


def _watch(watcher: Connection, backend: int, progress: Progress, done: threading.Event) -> None:
    while not done.wait(_POLL_SECONDS):
        try:
            row = watcher.execute(
                "SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index"
                " WHERE pid = %s AND blocks_total > 0",
                [backend],
            ).fetchone()
        except psycopg.Error:
            return  # the build itself says what is wrong
        if row:
            progress(*row)
