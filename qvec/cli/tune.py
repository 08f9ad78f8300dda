"""qvec tune"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from qvec.cli.console import print_table
from qvec.cli.measuring import material, measuring_options, percent
from qvec.cli.options import collection_option, db_option

if TYPE_CHECKING:
    from qvec.evaluation.tune import Tuning

UNMET = 3
"""Exit code of a target that cannot be met."""


@click.command()
@db_option
@collection_option
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.99,
    show_default=True,
    help="The recall@k that searches have to reach.",
)
@click.option("--store/--no-store", default=True, show_default=True, help="Keep what is found with the collection.")
@measuring_options
def tune(url: str, collection: str, recall: float, store: bool, as_json: bool, quiet: bool, **options: Any) -> None:
    """Find the smallest oversampling that reaches a recall, and store it.

    Every later search of the collection then uses it, here, from Python and in SQL, and searches the graph as wide as
    it needs candidates (hnsw.ef_search). What has the collection open goes on as before until it opens it anew. Exit
    code 3: the target cannot be met, and nothing is stored; what would meet it is told.

    \b
    Examples:
      qvec tune --collection docs --recall 0.99 --queries queries.npy --truth vectors.npy
      qvec tune --collection docs --recall 0.95 --no-store
    """
    from qvec.evaluation.tune import tune as find

    with material(url, collection, quiet or as_json, **options) as (found, queries, truth, reporter):
        tuning = find(
            found,
            queries,
            truth,
            recall=recall,
            k=options["k"],
            confidence=options["confidence"],
            store=store,
            reporter=reporter,
        )
    click.echo(json.dumps(tuning.as_dict())) if as_json else _print_tuning(tuning)
    if tuning.oversampling is None:
        sys.exit(UNMET)


def _print_tuning(tuning: Tuning) -> None:
    columns = {"×": "right", f"recall@{tuning.k}": "right", "at least": "right", "p50 ms": "right"}
    rows = [
        [
            "every row" if each.oversampling is None else f"{each.oversampling:g}",
            percent(each.recall),
            f"{100 * each.at_least:.2f}",
            f"{each.p50_ms:.2f}",
        ]
        for each in sorted(tuning.attempts, key=lambda each: each.oversampling or float("inf"))
    ]
    print_table(f"{tuning.collection}: {tuning.queries:,} queries", columns, rows)
    click.echo(f"Recall is against {tuning.truth}.")
    for note in tuning.notes:
        click.echo(f"Note: {note}.")
    chosen = tuning.chosen
    if chosen is None:
        click.echo(f"{tuning.target:.2%} cannot be met: {tuning.advice}.")
        return
    what = "is stored with" if tuning.stored else "would do for"
    click.echo(
        f"Oversampling {chosen.oversampling:g} {what} collection {tuning.collection!r}: recall "
        f"{chosen.recall.value:.2%}, at least {chosen.at_least:.2%} with {tuning.confidence:.0%} confidence."
    )
    if tuning.ef_search is not None:
        click.echo(f"Searches for {tuning.k} hits set hnsw.ef_search to {tuning.ef_search} by themselves.")
