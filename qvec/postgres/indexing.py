"""Building the prefilter's index: memory and workers set for the machine, progress read from the server."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

from qvec.defaults import HNSW_M
from qvec.postgres import statements
from qvec.postgres.layout import Table
from qvec.postgres.steps import AsyncConnection, Connection, Execute, Fetch, Steps, Transaction, perform, perform_async

Progress = Callable[[int, int], None]
"""Called with blocks of the table done and their total; pgvector tells no total of rows."""

_POLL_SECONDS = 0.5
_GRAPH_BYTES = 700 * HNSW_M // 16
"""Memory of one HNSW element beside its bits while the index is built: pgvector's links and bookkeeping take somewhat
less than 700 bytes at m = 16."""


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
    def remote(cls) -> Steps[Machine]:
        """For a server elsewhere: what its own settings allow, but at least a gibibyte."""
        ((memory, workers),) = yield Fetch(
            "SELECT pg_size_bytes(current_setting('maintenance_work_mem')),"
            " current_setting('max_parallel_workers')::int"
        )
        return cls(max(memory, 1 << 30), min(workers, 7))


def exists(table: Table) -> Steps[bool]:
    """Whether the index is there and complete."""
    found = yield Fetch(
        "SELECT indisvalid FROM pg_index JOIN pg_class c ON c.oid = indexrelid"
        " WHERE indrelid = %s::regclass AND relname = %s",
        [table.identifier.as_string(), table.index],
    )
    return bool(found and found[0][0])


def build(table: Table, machine: Machine) -> Steps[None]:
    """Builds the index in one transaction, unless it exists."""
    if (yield from exists(table)):
        return
    yield from _stop_with_client()
    try:
        yield Transaction(_create(table, machine))
    except (errors.DiskFull, errors.OutOfMemory):
        if not machine.workers:
            raise
        # Parallel builds share their memory through /dev/shm, which containers keep small: do without.
        yield Transaction(_create(table, Machine(machine.memory, 0)))
    yield Execute(sql.SQL("ANALYZE {}").format(table.identifier))


def _stop_with_client() -> Steps[None]:
    """Without this the server goes on building for a client that was killed. Not every platform can."""
    with suppress(errors.InvalidParameterValue):
        yield Execute("SET client_connection_check_interval = '1s'")


def _create(table: Table, machine: Machine) -> Steps[None]:
    # Unlike SHARE this mode excludes itself: of two builds at once the second waits, and finds the index there.
    yield Execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(table.identifier))
    if (yield from exists(table)):
        return
    memory = yield from _memory(table, machine)
    for name, value in (
        ("maintenance_work_mem", f"{memory >> 10}kB"),
        ("max_parallel_maintenance_workers", str(machine.workers)),
        ("statement_timeout", "0"),
    ):
        yield Execute("SELECT set_config(%s, %s, true)", [name, value])
    yield Execute(statements.drop_index(table))
    yield Execute(statements.create_index(table))


def _memory(table: Table, machine: Machine) -> Steps[int]:
    """Bytes that hold the whole graph while it is built, within what the machine has."""
    ((rows,),) = yield Fetch(statements.count(table))
    needed = int(rows * (table.layout.prefilter_bits // 8 + _GRAPH_BYTES) * 1.2)
    return max(min(needed, machine.memory), 64 << 20)


def progress_of(backend: int) -> Steps[tuple[int, int] | None]:
    """How far the build of a server process is; None while none is under way."""
    found = yield Fetch(
        "SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index WHERE pid = %s AND blocks_total > 0",
        [backend],
    )
    return found[0] if found else None


@contextmanager
def watching(watcher: Connection, backend: int, progress: Progress) -> Iterator[None]:
    """Tells the progress of a server process's build, read over a connection of its own."""
    done = threading.Event()

    def watch() -> None:
        with suppress(psycopg.Error):  # the build itself says what is wrong
            while not done.wait(_POLL_SECONDS):
                if found := perform(watcher, progress_of(backend)):
                    progress(*found)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@asynccontextmanager
async def watching_async(watcher: AsyncConnection, backend: int, progress: Progress) -> AsyncIterator[None]:
    """Tells the progress of a server process's build, read over a connection of its own."""

    async def watch() -> None:
        with suppress(psycopg.Error):  # the build itself says what is wrong
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                if found := await perform_async(watcher, progress_of(backend)):
                    progress(*found)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
