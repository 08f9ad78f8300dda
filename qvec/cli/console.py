"""Console output: progress bars on a terminal, messages on standard error, tables on standard output."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from qvec.ingest.load_options import Reporter


class ConsoleReporter(Reporter):
    """Shows progress bars while standard error is a terminal, and messages; neither when `quiet`."""

    def __init__(self, *, quiet: bool = False, messages: bool = True) -> None:
        self.active: set[str] = set()
        self._messages = messages and not quiet
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ConsoleReporter:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int | None) -> None:
        self.active.add(name)
        self._tasks[name] = self._progress.add_task(name, total=total)

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        if name in self._tasks:
            self._progress.update(self._tasks[name], completed=done, total=total)

    def finish(self, name: str) -> None:
        self.active.discard(name)
        self._progress.stop_task(self._tasks[name])

    def say(self, message: str) -> None:
        if self._messages:
            click.echo(message, err=True) if self._progress.disable else self._progress.console.print(Text(message))


def print_table(title: str | None, columns: dict[str, str], rows: list[list[Any]]) -> None:
    """Print rows under `columns`, which map names to justifications."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name, justify in columns.items():
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=max(console.width, 120))
    console.print(table)


def one_line(text: str, width: int) -> str:
    """Return text on one line, cut to a width."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1] + "…"
