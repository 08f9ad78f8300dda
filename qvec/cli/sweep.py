"""What `qvec eval` does offline: --sweep SOURCE; and the report and the plot, which it writes of collections too."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qvec.cli.console import ConsoleReporter, print_table
from qvec.codecs import FLOAT, preset
from qvec.embedding import EmbeddingOptions, load_embedder
from qvec.sources import Columns, open_source

if TYPE_CHECKING:
    from qvec.drift import Drift
    from qvec.evaluation.compared import Compared
    from qvec.evaluation.results import Evaluation
    from qvec.evaluation.tables import Table
    from qvec.evaluation.trials import Sweep

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = {"recall": 0.97, "metric": "cosine"}
_HELD_OUT = 500
"""Rows at most that serve as queries."""


def sweep_options(command: F) -> F:
    """What a sweep takes besides what all measurements take, and where reports go."""
    for option in reversed(
        (
            click.option(
                "--sweep",
                metavar="SOURCE",
                help="In place of a collection: try every calibration on vectors, or texts with --model, offline.",
            ),
            click.option(
                "--recall",
                type=click.FloatRange(0, 1, min_open=True),
                help=f"With --sweep: what the recommendation has to reach (default: {_DEFAULTS['recall']}).",
            ),
            click.option(
                "--rows",
                type=click.IntRange(1),
                help="With --sweep: rows at most, drawn uniformly (default: 50,000 vectors or 10,000 texts).",
            ),
            click.option(
                "--metric",
                type=click.Choice(["cosine", "ip"]),
                help=f"With --sweep: similarity (default: {_DEFAULTS['metric']}).",
            ),
            click.option("--range", "value", type=float, help="With --sweep: a fixed range that is tried, too."),
            click.option("--vector-column", metavar="NAME", help="With --sweep: column of the vectors."),
            click.option("--text-column", metavar="NAME", help="With --sweep: column of the texts."),
            click.option("--report", metavar="FILE", help="Write a page of HTML with charts and all figures."),
            click.option("--plot", metavar="FILE", help="Write the charts as .png, .svg or .pdf (needs qvec[plots])."),
        )
    ):
        command = option(command)
    return command


def sweep_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Takes what a sweep alone is told out of a command's options; what was given."""
    found = {name: options.pop(name) for name in ("recall", "rows", "metric", "value", "vector_column", "text_column")}
    return {name: value for name, value in found.items() if value is not None}


def run_sweep(
    location: str,
    settings: dict[str, Any],
    *,
    queries: str | None,
    embedding: EmbeddingOptions,
    encoding: str,
    limit: int,
    k: int,
    seed: int,
    confidence: float,
    as_json: bool,
    quiet: bool,
) -> Sweep:
    """Sweeps a source and prints what was found."""
    from qvec.evaluation.sweep import SweepOptions, sweep

    given = {**_DEFAULTS, **settings}
    options = SweepOptions(
        metric=given["metric"],
        k=k,
        recall=given["recall"],
        rows=given.get("rows"),
        queries=limit if queries else min(limit, _HELD_OUT),
        seed=seed,
        confidence=confidence,
        fixed=given.get("value"),
        read_with=_words({name: given.get(name) for name in ("vector_column", "text_column")} | {"encoding": encoding})
        + _words(embedding.as_json()),
    )
    columns = Columns(vector=given.get("vector_column"), text=given.get("text_column"), codec=preset(encoding))
    load = cache(partial(load_embedder, embedding)) if embedding.model else None
    with ConsoleReporter(quiet=quiet or as_json) as reporter, ExitStack() as opening:
        source = opening.enter_context(open_source(location, columns=columns))
        asked = opening.enter_context(open_source(queries, columns=Columns(codec=columns.codec))) if queries else None
        found = sweep(source, options, reporter, asked, load)
    if as_json:
        _print_json(found)
    elif not quiet:
        _print(found)
    return found


def write_pictures(
    found: Evaluation | Sweep,
    statistics: Drift | None,
    report: str | None,
    plot: str | None,
    compared: Compared | None = None,
) -> None:
    """Writes the report and the plot that were asked for, and says where."""
    from qvec.evaluation.plots import write_plot
    from qvec.evaluation.report import write_report

    if report is not None:
        write_report(report, found, statistics, compared)
        click.echo(f"wrote {report}", err=True)
    if plot is not None:
        write_plot(plot, found, statistics)
        click.echo(f"wrote {plot}", err=True)


def _words(reading: Mapping[str, str | None]) -> tuple[str, ...]:
    """The options of `qvec ingest` that read a source in the same way."""
    given = {name: value for name, value in reading.items() if value is not None and value != FLOAT.name}
    return tuple(word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value))


def _print_json(found: Sweep) -> None:
    """One line for each configuration; the recommended one has its command as well."""
    front = set(map(id, found.pareto))
    for trial in found.trials:
        line = {**trial.as_dict(), "pareto": id(trial) in front, "recommended": trial is found.recommendation.trial}
        if line["recommended"]:
            line["command"] = found.recommendation.command
        click.echo(json.dumps(line))


def _print(found: Sweep) -> None:
    from qvec.evaluation import tables
    from qvec.evaluation.report import verdict

    click.echo(f"{found.source}: {found.rows:,} rows, {found.queries:,} queries, {len(found.trials):,} configurations")
    for table in (tables.of_precisions(found), tables.of_pareto(found)):
        _print_table(table)
    click.echo(f"Recall is against exact float32; intervals are of {found.confidence:.0%} over the queries.")
    for note in found.notes:
        click.echo(f"Note: {note}.")
    click.echo()
    click.echo(verdict(found))
    click.echo(f"  {found.recommendation.command}")


def _print_table(table: Table) -> None:
    columns = {name: "left" if is_text else "right" for name, is_text in table.columns.items()}
    click.echo(table.title)
    print_table(None, columns, [list(row) for row in table.rows])
