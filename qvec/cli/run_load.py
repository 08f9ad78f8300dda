"""Running a load for `qvec ingest` and `qvec copy`: progress, a clean end at Ctrl-C, and a summary."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from qvec.cli.console import ConsoleReporter
from qvec.client import Database
from qvec.ingest import LoadOptions, LoadStoppedError, Stop, Summary, ingest
from qvec.sources import Source


def load(
    database: Database, source: Source, options: LoadOptions, reporter: ConsoleReporter, *, as_json: bool, quiet: bool
) -> None:
    """Load a source and print the summary."""
    warning = database.install()
    if warning:
        reporter.say(f"Warning: {warning}")
    with stopping_at_ctrl_c(reporter) as stop:
        try:
            summary = ingest(database, source, options, reporter, stop)
        except (LoadStoppedError, KeyboardInterrupt):
            reporter.say("Stopped. Loaded rows are kept; run the same command again to continue.")
            raise KeyboardInterrupt from None
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    elif not quiet:
        click.echo(_summary_line(summary))


def _summary_line(summary: Summary) -> str:
    table, index, ram = (summary.bytes_per_vector[part] for part in ("table", "index", "ram"))
    taken = "" if table is None or index is None else f" of {table:,.0f} + {index:,.0f} bytes (table + index)"
    held = "" if ram is None else f", {ram:,.0f} of them in memory"
    rejected = f", {summary.rejected:,} rejected" if summary.rejected else ""
    return (
        f"{summary.rows:,} rows in {summary.seconds:.1f} s ({summary.rows_per_second:,.0f} rows/s){rejected}; "
        f"collection {summary.collection!r} has {summary.total_rows:,} rows{taken}{held}"
    )


@contextmanager
def stopping_at_ctrl_c(reporter: ConsoleReporter) -> Iterator[Stop]:
    """End a load at the first Ctrl-C after the current batch; at once at a second one, or while nothing is loaded."""
    stop = Stop()

    def handle(_signal: int, _frame: Any) -> None:
        if stop.is_set() or "loading" not in reporter.active:
            raise KeyboardInterrupt
        stop.set()
        reporter.say("Stopping after the current batch (Ctrl-C again: at once).")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
