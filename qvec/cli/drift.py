"""qvec drift"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.shared_options import (
    FILE,
    collection_option,
    db_option,
    json_option,
    open_database,
    quiet_option,
    reading_of,
    source_options,
)
from qvec.sources import open_source

if TYPE_CHECKING:
    from qvec.evaluation.drift_report import DriftReport

DRIFTED = 3
"""Exit code if the calibration no longer fits."""
_WORST_SHOWN = 5
_FIGURES = {
    "shift": "shift of the mean, in standard deviations",
    "clip": "share of values that are clipped",
    "loss": "recall that a new calibration adds",
}


def _limits(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> dict[str, float]:
    from qvec.evaluation.drift_report import LIMITS

    limits = dict(LIMITS)
    for text in given:
        name, _, value = text.partition("=")
        try:
            limits[name] = float(value)
        except ValueError:
            raise click.BadParameter(f"{text!r} is not NAME=NUMBER") from None
        if name not in LIMITS:
            raise click.BadParameter(f"{name!r} is unknown, expected one of: {', '.join(LIMITS)}")
    return limits


@click.command()
@db_option
@collection_option
@click.option("--source", type=FILE, metavar="NEW", help="Newer vectors (default: the rows of the collection).")
@click.option(
    "--allow",
    "limits",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_limits,
    help="Limit of shift, clip or loss (default: shift=0.3, clip=0.005, loss=0.01).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the sample.")
@source_options
@json_option
@quiet_option
def drift(
    url: str,
    collection: str,
    source: str | None,
    limits: dict[str, float],
    seed: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Check whether a collection's calibration still fits newer vectors, or its own rows.

    shift is the change of the mean in standard deviations, over all dimensions. clip is the share of values beyond
    their range, above the share that its quantile clips. loss is what a calibration fitted to these vectors would add
    to recall@10 among a sample of them. Exit code 3: a figure is beyond its limit, and a new calibration would fit
    better.

    \b
    Examples:
      qvec drift --collection docs --source this_week.parquet
      qvec drift --collection docs --source new.npy --allow shift=0.5 --allow loss=0.02 --json
    """
    from qvec.evaluation.drift_report import drift_of_rows, drift_of_source

    with ConsoleReporter(quiet=quiet or as_json) as reporter, open_database(url) as database:
        found = database.collection(collection)
        if source is None:
            report = drift_of_rows(found, seed)
        else:
            with open_source(source, **reading_of(options)) as opened:
                report = drift_of_source(found, opened, seed, reporter)
    beyond = report.beyond(limits)
    if as_json:
        click.echo(json.dumps({**report.as_dict(), "limits": limits, "drifted": beyond}))
    elif not quiet:
        _print(report, limits, beyond)
    if beyond:
        sys.exit(DRIFTED)


def _print(report: DriftReport, limits: dict[str, float], beyond: list[str]) -> None:
    rows = [
        [
            _FIGURES[name],
            "–" if value is None else f"{value:.4f}",
            f"{limits[name]:g}",
            "beyond" if name in beyond else "",
        ]
        for name, value in report.figures().items()
    ]
    click.echo(f"{report.statistics.count:,} vectors ({report.compared}) against calibration {report.calibration}")
    print_table(None, {"": "left", "found": "right", "limit": "right", " ": "left"}, rows)
    _print_worst_dimensions(report)
    if report.recall is not None:
        low, high = report.recall.low, report.recall.high
        click.echo(
            f"Recall@10 among them is {report.recall.value:.1%} ({100 * low:.1f}–{high:.1%}), by {report.searched}, "
            "without an index."
        )
    elif report.clip is None:
        click.echo("Clip rate and recall need floats: name newer vectors with --source.")
    verdict = f"drifted: {', '.join(beyond)}; a new calibration would fit better" if beyond else "the calibration fits"
    click.echo(f"Collection {report.collection!r}: {verdict}.")


def _print_worst_dimensions(report: DriftReport) -> None:
    found = report.statistics
    worst = np.argsort(-np.abs(report.changes), kind="stable")[:_WORST_SHOWN]
    columns = dict.fromkeys(("dimension", "mean moved by", "std", "bit set", "clipped"), "right")
    rows = [
        [
            str(at),
            f"{found.mean_shift[at]:+.2f} std",
            f"× {found.spread_ratio[at]:.2f}",
            f"{found.bit_balance[at]:.1%}",
            "–" if np.isnan(found.clip_rate[at]) else f"{found.clip_rate[at]:.2%}",
        ]
        for at in worst.tolist()
    ]
    print_table("Dimensions that moved furthest", columns, rows)
