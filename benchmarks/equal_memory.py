"""Searches per second when the database may use little memory: qvec beside pgvector's halfvec HNSW and bit + halfvec.

Run as root on Linux: python benchmarks/equal_memory.py [--rows N] [--dimensions D]
The limits are 4, 2, 1 and a half times the bytes of qvec's table and index, and hold for everything: page cache,
shared buffers, and the processes of the server. They are set by a control group, version 1 or 2, which needs root. Each
method has the smallest setting that reaches a recall@10 of 97% on one half of the queries; the other half is searched
again and again, first unmeasured. Goal: 8 times the searches where qvec fits the memory and halfvec does not.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click
from harness import Sizes, Vectors, alternate, open_session, rates, set_shared_buffers, size_options
from realistic import realistic_data
from search_methods import (
    BitsAndHalfvec,
    HalfvecHnsw,
    Int8Codes,
    SearchMethod,
    nearest_ids,
    recall,
    search_all,
    smallest_setting,
)

from qvec import connect
from qvec.postgres import embedded

RECALL = 0.97
MULTIPLES = (4, 2, 1, 0.5)


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=400, repeat=5))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    half = len(queries) // 2
    measured = queries[half:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, memory_group(sizes.smoke) as group:
        directory = Path(folder) / "db"
        settings, ours = fill(directory, vectors, queries, half)
        for multiple in MULTIPLES:
            limit = int(ours * multiple)
            print(f"\nin {limit / 1e6:,.0f} MB, {multiple:g} times the bytes of qvec's table and index", flush=True)
            for name in settings:
                with limited_methods(directory, limit, group) as methods:
                    method = next(method for method in methods if method.name == name)
                    search = method.configure(settings[name])
                    search_all(search, measured)
                    taken = alternate({name: partial(search_all, search, measured)}, sizes.repeat)
                    found = rates(len(measured), taken)[name]
                print(f"  {name:<28} {statistics.median(found):>8,.0f} searches/s", flush=True)


def fill(directory: Path, vectors: Vectors, queries: Vectors, half: int) -> tuple[dict[str, float], int]:
    """Fill the tables; return the setting of each method that reaches the recall, and the bytes of qvec's."""
    truth = nearest_ids(vectors, queries)
    settings: dict[str, float] = {}
    with open_methods(directory) as methods:
        for method in methods:
            method.fill(vectors)
            setting = smallest_setting(method, RECALL, queries[:half], truth[:half])
            if setting is None:
                print(f"{method.name} does not reach {RECALL:.0%} with {method.settings[-1]:g}")
                continue
            settings[method.name] = setting
            found = recall(method.configure(setting), queries[half:], truth[half:])
            megabytes = method.total_bytes() / 1e6
            print(f"{method.name:<28} {megabytes:>6,.0f} MB, at {setting:g}: recall@10 {found:.1%}", flush=True)
        return settings, methods[0].total_bytes()


@contextmanager
def open_methods(directory: Path) -> Iterator[Sequence[SearchMethod]]:
    """Start the server, and open the methods on its tables; qvec's is the first."""
    url = embedded.start(directory)
    with connect(f"postgres:{directory}") as database:
        database.install()
        with open_session(url) as first, open_session(url) as second:
            yield Int8Codes(database), HalfvecHnsw(first), BitsAndHalfvec(second)
    embedded.stop(directory)


@contextmanager
def limited_methods(directory: Path, limit: int, group: Path | None) -> Iterator[Sequence[SearchMethod]]:
    """Start the server with nothing cached and at most `limit` bytes, a quarter of them as shared buffers."""
    set_shared_buffers(embedded.start(directory), f"{max(limit >> 12, 1024)}kB")
    embedded.stop(directory)
    embedded.start(directory)
    if group is not None:
        forget_cached_pages()
        limit_memory(group, limit, server_processes(directory))
    with open_methods(directory) as methods:
        yield methods


# Control groups

_VERSION_1 = Path("/sys/fs/cgroup/memory")
_VERSION_2 = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(smoke: bool) -> Iterator[Path | None]:
    """A control group of this benchmark; a smoke run measures nothing and needs none."""
    if smoke:
        yield None
        return
    root = _VERSION_1 if _VERSION_1.is_dir() else _VERSION_2
    group = root / f"qvec-{os.getpid()}"
    try:
        if root == _VERSION_2:
            (root / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    except OSError as error:
        raise click.ClickException(f"cannot limit memory by a control group in {root}: {error.strerror}") from None
    try:
        yield group
    finally:
        for process in (group / "cgroup.procs").read_text().split():
            os.kill(int(process), signal.SIGTERM)
        group.rmdir()


def limit_memory(group: Path, limit: int, processes: Sequence[int]) -> None:
    """Move processes into the group; those that they start later are in it from the beginning."""
    name = "memory.limit_in_bytes" if group.parent == _VERSION_1 else "memory.max"
    (group / name).write_text(str(limit))
    for process in processes:
        (group / "cgroup.procs").write_text(str(process))


def server_processes(directory: Path) -> list[int]:
    """Return the server's main process and its children."""
    main_process = int((directory / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{main_process}/task/{main_process}/children").read_text()
    return [main_process, *map(int, children.split())]


def forget_cached_pages() -> None:
    """Empty the page cache, so that what the server reads is counted for it."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


if __name__ == "__main__":
    main()
