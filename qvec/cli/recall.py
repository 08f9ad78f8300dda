"""qvec recall"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from qvec.cli.console import ConsoleReporter
from qvec.cli.measuring import embedder_of, queries_of_file
from qvec.cli.shared_options import (
    FILE,
    collection_option,
    db_option,
    embedding_of,
    embedding_options,
    encoding_option,
    json_option,
    open_database,
    quiet_option,
)
from qvec.codecs import preset
from qvec.sources import Columns

if TYPE_CHECKING:
    from qvec.results import Recall

TOO_LOW = 3
"""Exit code if the recall is below --at-least."""


@click.command()
@db_option
@collection_option
@click.option(
    "--queries",
    "location",
    type=FILE,
    metavar="FILE",
    help="Queries, best from real traffic: vectors, or texts that the model embeds. Default: rows of the collection, "
    "each excluded from its own hits.",
)
@encoding_option
@embedding_options
@click.option(
    "--sample",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Number of rows to draw as queries; of FILE, the maximum.",
)
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Hits for each query.")
@click.option("--oversampling", type=click.FloatRange(1), help="Candidates for each hit (default: the collection's).")
@click.option(
    "--at-least",
    type=click.FloatRange(0, 1),
    metavar="RECALL",
    help="Exit with code 3 if the whole interval is below this recall.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of what is drawn.")
@json_option
@quiet_option
def recall(
    url: str,
    collection: str,
    location: str | None,
    encoding: str,
    sample: int,
    k: int,
    oversampling: float | None,
    at_least: float | None,
    seed: int,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure the recall of searches in production, beside exact searches of the same collection.

    The exact search scores every row as the collection keeps it, so the figure shows what the index and the prefilter
    lose; qvec eval --truth measures what quantizing loses. The number of rows that it reads is printed beforehand.

    The interval holds the mean over queries with 95% confidence. Exit code 3: the recall and its whole interval are
    below --at-least, so that chance alone seldom raises an alarm. A larger --sample makes the interval narrower, and a
    smaller loss show.

    \b
    Examples:
      qvec recall --collection docs
      qvec recall --collection docs --queries queries.npy --sample 200
      qvec recall --collection docs --at-least 0.97 --json
    """
    model = embedding_of(options)
    with ConsoleReporter(quiet=quiet or as_json) as reporter, open_database(url) as database:
        found = database.collection(collection)
        queries = None
        if location is not None:
            columns = Columns(codec=preset(encoding))
            embedder = partial(embedder_of, found, model)
            queries = queries_of_file(location, columns, found, embedder, sample, seed)
        of = f"up to {sample:,} rows as queries" if queries is None else f"{len(queries):,} queries of {location}"
        reporter.say(f"the exact search scores {found.count():,} rows for each of {of}")
        reporter.stage("searching", None)
        measured = found.recall(
            None if queries is None else queries.vectors,
            sample=sample,
            k=k,
            oversampling=oversampling,
            seed=seed,
            progress=lambda done, total: reporter.advance("searching", done, total),
        )
        reporter.finish("searching")
    is_too_low = at_least is not None and measured.high < at_least
    if as_json:
        click.echo(json.dumps({**measured.as_dict(), "at_least": at_least, "too_low": is_too_low}))
    elif not quiet:
        _print(measured, at_least)
    if is_too_low:
        sys.exit(TOO_LOW)


def _print(measured: Recall, at_least: float | None) -> None:
    click.echo(f"{measured.collection}: {measured}")
    if at_least is None or measured.recall >= at_least:
        return
    verdict = "below" if measured.high < at_least else "not surely below; a larger --sample tells"
    click.echo(f"Wanted is a recall of at least {at_least:.1%}: it is {verdict}.")
