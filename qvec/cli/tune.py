"""qvec tune"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from qvec.cli.console import print_table
from qvec.cli.measuring import measuring_options, open_measured, percent_with_margin
from qvec.cli.shared_options import collection_option, db_option

if TYPE_CHECKING:
    from qvec.evaluation.tuning import Tuning

NOT_REACHED = 3
"""Exit code if no oversampling reaches the target."""


@click.command()
@db_option
@collection_option
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    help="The recall@k that searches should reach.",
)
@click.option("--store/--no-store", default=True, show_default=True, help="Store the result with the collection.")
@measuring_options
def tune(url: str, collection: str, recall: float, store: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Find the smallest oversampling that reaches a recall, and store it.

    Every later search of the collection then uses it: on the command line, in Python and in SQL. Each search sets the
    width of the graph search (hnsw.ef_search) to its number of candidates. Programs that have the collection open use
    the old value until they open it again. Exit code 3: no oversampling reaches the recall, nothing is stored, and the
    output says what would reach it.

    \b
    Examples:
      qvec tune --collection docs --recall 0.99 --queries queries.npy --truth vectors.npy
      qvec tune --collection docs --recall 0.95 --no-store
    """
    from qvec.evaluation import tuning

    with open_measured(url, collection, quiet or as_json, **options) as measured:
        found = tuning.tune(
            measured.collection,
            measured.queries,
            measured.truth,
            recall=recall,
            k=options["k"],
            confidence=options["confidence"],
            store=store,
            reporter=measured.reporter,
        )
    click.echo(json.dumps(found.as_dict())) if as_json else _print_tuning(found)
    if found.oversampling is None:
        sys.exit(NOT_REACHED)


def _print_tuning(tuning: Tuning) -> None:
    rows = [
        [
            "every row" if attempt.oversampling is None else f"{attempt.oversampling:g}",
            percent_with_margin(attempt.recall),
            f"{100 * attempt.at_least:.2f}",
            f"{attempt.p50_ms:.2f}",
        ]
        for attempt in sorted(tuning.attempts, key=lambda attempt: attempt.oversampling or float("inf"))
    ]
    columns = dict.fromkeys(("×", f"recall@{tuning.k}", "at least", "p50 ms"), "right")
    print_table(f"{tuning.collection}: {tuning.queries:,} queries", columns, rows)
    click.echo(f"Recall is against {tuning.truth}.")
    for note in tuning.notes:
        click.echo(f"Note: {note}.")
    chosen = tuning.chosen
    if chosen is None:
        click.echo(f"A recall of {tuning.target:.2%} cannot be reached: {tuning.advice}.")
        return
    what = "is stored with" if tuning.stored else "is enough for"
    click.echo(
        f"Oversampling {chosen.oversampling:g} {what} collection {tuning.collection!r}: recall "
        f"{chosen.recall.value:.2%}, at least {chosen.at_least:.2%} with {tuning.confidence:.0%} confidence."
    )
    if tuning.ef_search is not None:
        click.echo(f"Searches for {tuning.k} hits set hnsw.ef_search to {tuning.ef_search} themselves.")
