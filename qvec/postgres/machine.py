"""What an index build may use of the server's machine, and its progress as the server reports it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg

from qvec.results import Progress

DOCKER_SHARED_MEMORY = 64 << 20
"""The size of /dev/shm in a container, unless it is given more."""
_POLL_SECONDS = 0.5
_PROGRESS = (
    b"SELECT blocks_done, blocks_total FROM pg_stat_progress_create_index"
    b" WHERE datname = current_database() AND relid = to_regclass(%s) AND blocks_total > 0"
)


@dataclass(frozen=True)
class Machine:
    """Bytes of memory, and parallel workers beside the leader."""

    memory: int
    workers: int

    @classmethod
    def local(cls) -> Machine:
        """Return a quarter of this machine's memory, and its cores."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls(memory // 4, max((os.cpu_count() or 1) - 1, 0))


def shared_memory() -> int | None:
    """Return the size of /dev/shm in bytes, through which parallel builds share memory; None where there is none."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_blocks * found.f_frsize


@contextmanager
def watching(watcher: psycopg.Connection[Any], table: str, progress: Progress) -> Iterator[None]:
    """Report the progress of an index build in blocks of the quoted table, read over a second connection."""
    done = threading.Event()

    def watch() -> None:
        with suppress(psycopg.Error):  # the build itself reports what is wrong
            while not done.wait(_POLL_SECONDS):
                if found := watcher.execute(_PROGRESS, [table]).fetchone():
                    progress(*found)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@asynccontextmanager
async def watching_async(watcher: psycopg.AsyncConnection[Any], table: str, progress: Progress) -> AsyncIterator[None]:
    """Report the progress of an index build in blocks of the quoted table, read over a second connection."""

    async def watch() -> None:
        with suppress(psycopg.Error):  # the build itself reports what is wrong
            while True:
                await asyncio.sleep(_POLL_SECONDS)
                if found := await (await watcher.execute(_PROGRESS, [table])).fetchone():
                    progress(*found)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
