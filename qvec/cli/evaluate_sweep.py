"""The sweep of `qvec eval --sweep SOURCE`, and the report and the plot of any evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.shared_options import FILE, embedding_of
from qvec.codecs import FLOAT, preset
from qvec.embedding import load_embedder
from qvec.sources import Columns, open_source

if TYPE_CHECKING:
    from qvec.drift_statistics import Drift
    from qvec.evaluation.evaluation_results import Evaluation, NamedComparison, Sweep

F = TypeVar("F", bound=Callable[..., Any])

_HELD_OUT = 500
"""Maximum number of rows that serve as queries."""
SWEEP_ONLY = ("recall", "rows", "metric", "value", "vector_column", "text_column")
_OPTIONS = (
    click.option(
        "--sweep",
        type=FILE,
        metavar="SOURCE",
        help="Instead of a collection: try every calibration on vectors, or on texts with --model, offline.",
    ),
    click.option(
        "--recall",
        type=click.FloatRange(0, 1, min_open=True),
        help="With --sweep: the recall that the recommendation should reach (default: 0.97).",
    ),
    click.option(
        "--rows",
        type=click.IntRange(1),
        help="With --sweep: maximum number of rows, drawn uniformly (default: 50,000 vectors or 10,000 texts).",
    ),
    click.option(
        "--metric",
        type=click.Choice(["cosine", "ip"]),
        help="With --sweep: similarity (default: cosine).",
    ),
    click.option("--range", "value", type=float, help="With --sweep: a fixed range to try as well."),
    click.option("--vector-column", metavar="NAME", help="With --sweep: column of the vectors."),
    click.option("--text-column", metavar="NAME", help="With --sweep: column of the texts."),
    click.option("--report", type=FILE, metavar="FILE", help="Write an HTML page with charts and all figures."),
    click.option(
        "--plot", type=FILE, metavar="FILE", help="Write the charts as .png, .svg or .pdf (needs qvec[plots])."
    ),
)


def sweep_options(command: F) -> F:
    """Add the options of a sweep beyond those of every measurement, and of reports."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def run_sweep(
    location: str,
    *,
    queries: str | None,
    encoding: str,
    limit: int,
    k: int,
    seed: int,
    confidence: float,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> Sweep:
    """Sweep a source and print the results."""
    from qvec.evaluation.sweep import SweepOptions, sweep

    embedding = embedding_of(options)
    names = {name: options[name] for name in ("vector_column", "text_column")}
    sweep_options = SweepOptions(
        metric=options["metric"] or SweepOptions.metric,
        k=k,
        recall=options["recall"] or SweepOptions.recall,
        rows=options["rows"],
        queries=limit if queries else min(limit, _HELD_OUT),
        seed=seed,
        confidence=confidence,
        fixed=options["value"],
        read_with=_words({**names, "encoding": encoding}) + _words(embedding.as_json()),
    )
    codec = preset(encoding)
    columns = Columns(vector=names["vector_column"], text=names["text_column"], codec=codec)
    load = cache(partial(load_embedder, embedding)) if embedding.model else None
    with ConsoleReporter(quiet=quiet or as_json) as reporter, ExitStack() as opened:
        source = opened.enter_context(open_source(location, columns=columns))
        asked = opened.enter_context(open_source(queries, columns=Columns(codec=codec))) if queries else None
        found = sweep(source, sweep_options, reporter, asked, load)
    if as_json:
        _print_json(found)
    elif not quiet:
        _print(found)
    return found


def write_reports(
    found: Evaluation | Sweep,
    statistics: Drift | None,
    report: str | None,
    plot: str | None,
    comparison: NamedComparison | None = None,
) -> None:
    """Write the report and the plot that were asked for."""
    from qvec.evaluation.plots import write_plot
    from qvec.evaluation.report import write_report

    if report is not None:
        write_report(report, found, statistics, comparison)
        click.echo(f"wrote {report}", err=True)
    if plot is not None:
        write_plot(plot, found, statistics)
        click.echo(f"wrote {plot}", err=True)


def _words(options: Mapping[str, str | None]) -> tuple[str, ...]:
    """The options of `qvec ingest` that read a source in the same way."""
    given = {name: value for name, value in options.items() if value is not None and value != FLOAT.name}
    return tuple(word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value))


def _print_json(found: Sweep) -> None:
    """Print one line for each configuration; that of the recommended one includes its command."""
    pareto = set(map(id, found.pareto))
    for trial in found.trials:
        recommended = trial is found.recommendation.trial
        line = {**trial.as_dict(), "pareto": id(trial) in pareto, "recommended": recommended}
        click.echo(json.dumps({**line, "command": found.recommendation.command} if recommended else line))


def _print(found: Sweep) -> None:
    from qvec.evaluation.report import pareto_table, precision_table, verdict

    click.echo(f"{found.source}: {found.rows:,} rows, {found.queries:,} queries, {len(found.trials):,} configurations")
    for table in (precision_table(found), pareto_table(found)):
        click.echo(table.title)
        columns = {name: "left" if is_text else "right" for name, is_text in table.columns.items()}
        print_table(None, columns, [list(row) for row in table.rows])
    click.echo(f"Recall is against exact float32 search, with {found.confidence:.0%} intervals over the queries.")
    for note in found.notes:
        click.echo(f"Note: {note}.")
    click.echo()
    click.echo(verdict(found))
    click.echo(f"  {found.recommendation.command}")
