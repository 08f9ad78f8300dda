"""Shared by the benchmarks: sizes, scratch databases, repetitions that take turns, a table that shows both sides."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any

import click
import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector.psycopg import register_vector

from qvec import Database, connect

# The one import that is not public: the connection URL of an embedded server, which `qvec db url` prints as well.
from qvec.postgres import embedded

Vectors = NDArray[np.float32]
Session = psycopg.Connection[Any]
Work = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """The size of a run; 0 for what a benchmark has no number of."""

    rows: int = 0
    dimensions: int = 0
    queries: int = 0
    repeat: int = 0
    """Repetitions of each measurement."""
    smoke: bool = False
    """Whether the run only shows that the benchmark works: with tiny sizes, and without a model."""


SMOKE = Sizes(rows=1500, dimensions=64, queries=10, repeat=2, smoke=True)


def size_options(full: Sizes) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add --smoke and an option for each size that is not 0 in `full`; the command receives them as `sizes`."""
    names = [field.name for field in fields(full) if field.name != "smoke" and getattr(full, field.name)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_sizes(smoke: bool, **options: Any) -> None:
            given = {name: options.pop(name) for name in names}
            sizes = replace(SMOKE if smoke else full, **{name: value for name, value in given.items() if value})
            command(sizes=sizes, **options)

        decorated: Callable[..., None] = with_sizes
        for name in reversed(names):
            default = f"[default: {getattr(full, name):,}]"
            decorated = click.option(f"--{name}", type=click.IntRange(1), help=default)(decorated)
        return click.option("--smoke", is_flag=True, help="Tiny sizes: only shows that the benchmark works.")(decorated)

    return decorate


# Databases

IN_MEMORY = "4GB"
"""Shared buffers that hold a million rows of 384 dimensions of every method."""


@contextmanager
def embedded_postgres(shared_buffers: str | None = None) -> Iterator[tuple[Database, str]]:
    """A new embedded Postgres, deleted afterwards, and its URL for psycopg."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        url = embedded.start(f"{folder}/db")
        if shared_buffers:
            set_shared_buffers(url, shared_buffers)
            embedded.stop(f"{folder}/db")
            url = embedded.start(f"{folder}/db")
        try:
            with connect(f"postgres:{folder}/db") as database:
                database.install()
                yield database, url
        finally:
            embedded.stop(f"{folder}/db")


@contextmanager
def both_databases() -> Iterator[tuple[Database, Database]]:
    """A new embedded Postgres and a new embedded Qdrant, deleted afterwards."""
    with (
        embedded_postgres() as (postgres, _),
        tempfile.TemporaryDirectory() as folder,
        connect(f"qdrant:{folder}/db") as qdrant,
    ):
        yield postgres, qdrant


def set_shared_buffers(url: str, size: str) -> None:
    """Set the shared buffers that a server has after its next start."""
    with psycopg.connect(url, autocommit=True) as session:
        session.execute(f"ALTER SYSTEM SET shared_buffers = '{size}'".encode())


def open_session(url: str) -> Session:
    """Open a connection as a user of pgvector-python does."""
    session = psycopg.connect(url, autocommit=True)
    register_vector(session)
    return session


# Measurements


def alternate(works: Mapping[str, Work], repeat: int) -> dict[str, list[float]]:
    """Return the seconds of each piece of work in each repetition.

    The pieces take turns, so that a change of the machine's speed affects all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repetition in range(repeat):
        for name in list(works)[:: -1 if repetition % 2 else 1]:
            started = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def rates(count: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Return how many of `count` items were done per second, in each repetition."""
    return {name: [count / each for each in times] for name, times in seconds.items()}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median ratio of the repetitions (ours / theirs) and, of several, the lowest and highest."""
    found = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    middle = f"{statistics.median(found):.2f}x"
    return f"{middle} ({min(found):.2f}–{max(found):.2f})" if len(found) > 1 else middle


class Table:
    """Prints a line for each comparison: both sides, their ratio, and the goal unless the run is a smoke run."""

    def __init__(self, sizes: Sizes, ours: str = "qvec", theirs: str = "other") -> None:
        self._with_goals = not sizes.smoke
        print(f"{'':<62} {ours:>12} {theirs:>12} {'':<7} ratio")

    def compare(self, title: str, ours: Sequence[float], theirs: Sequence[float], unit: str, goal: str = "") -> None:
        """Print the medians of both sides and the ratio of their repetitions."""
        both = f"{_figure(statistics.median(ours))} {_figure(statistics.median(theirs))}"
        self._print(f"{title:<62} {both} {unit:<7} {ratio(ours, theirs):<19}", goal)

    def show(self, title: str, figure: float, unit: str, goal: str = "") -> None:
        """Print a figure that is compared with nothing."""
        self._print(f"{title:<62} {_figure(figure)} {'':>12} {unit:<7} {'':<19}", goal)

    def _print(self, line: str, goal: str) -> None:
        shown = f" goal: {goal}" if goal and self._with_goals else ""
        print((line + shown).rstrip(), flush=True)


def _figure(value: float) -> str:
    return f"{value:>12,.3f}" if abs(value) < 10 else f"{value:>12,.1f}"
