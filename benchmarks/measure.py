"""What the benchmarks share: alternating repetitions, a scratch database, a table that prints both sides."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from pgvector.psycopg import register_vector

from qvec.client import Database, connect


def alternate(works: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each piece of work; they take turns, so that a change of the machine's pace hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


@contextmanager
def scratch_database() -> Iterator[Database]:
    """A new embedded Postgres that is gone afterwards."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
        connect(f"postgres:{directory}/db") as database,
    ):
        database.install()
        yield database


def plain_connection(database: Database) -> psycopg.Connection:
    """A connection as a user of pgvector-python opens it."""
    connection = database.store.direct_connection()
    register_vector(connection)
    return connection


def compare(title: str, ours: float, theirs: float, wanted: float, unit: str, *, smaller: bool = False) -> None:
    """One line: both figures, their ratio (ours / theirs) and whether it is as wanted."""
    ratio = ours / theirs
    met = ratio <= wanted if smaller else ratio >= wanted
    bound = f"{'at most' if smaller else 'at least'} {wanted:g}"
    verdict = "met" if met else "NOT MET"
    print(f"{title:<66} {ours:>11,.1f} {theirs:>11,.1f} {unit:<7} {ratio:6.2f}x  {bound:<13} {verdict}")


def print_header() -> None:
    """Names the columns of `compare`."""
    print(f"{'':<66} {'qvec':>11} {'other':>11} {'':<7} {'ratio':>7}  wanted")
