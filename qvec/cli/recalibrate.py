"""qvec recalibrate"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qvec.cli.console import ConsoleReporter
from qvec.cli.run_load import stopping_at_ctrl_c
from qvec.cli.shared_options import (
    FILE,
    collection_option,
    db_option,
    fit_of,
    fit_options,
    json_option,
    open_database,
    quiet_option,
    reading_of,
    source_options,
    workers_option,
)
from qvec.errors import InputError
from qvec.ingest import LoadStoppedError
from qvec.sources import open_source

if TYPE_CHECKING:
    from qvec.recalibration import Recalibrated, Refit

_RANGE_OPTIONS = ("ranges", "quantile", "spread", "value", "global_range")


@click.command()
@db_option
@collection_option
@click.option(
    "--source",
    type=FILE,
    metavar="SOURCE",
    help="Source that the collection was loaded from, where it keeps no floats.",
)
@click.option("--rollback", is_flag=True, help="Switch back to the former version, with later writes.")
@click.option("--drop-old", is_flag=True, help="Drop the former version, or an unfinished one.")
@click.option("--dry-run", is_flag=True, help="Fit and compare only; change nothing.")
@click.option("--restart", is_flag=True, help="Drop what an interrupted run built, and start again.")
@click.option("--allow-missing", is_flag=True, help="Leave out rows without original vectors.")
@click.option("--allow-worse", is_flag=True, help="Accept a new calibration that finds less.")
@workers_option
@source_options
@fit_options
@json_option
@quiet_option
@click.pass_context
def recalibrate(
    ctx: click.Context,
    /,
    url: str,
    collection: str,
    source: str | None,
    rollback: bool,
    drop_old: bool,
    dry_run: bool,
    restart: bool,
    allow_missing: bool,
    allow_worse: bool,
    workers: int,
    as_json: bool,
    quiet: bool,
    **others: Any,
) -> None:
    """Fit a new calibration for a collection, and quantize its rows with it while the collection is in use.

    The vectors are the floats that the collection keeps, or those of --source, matched by id; never decoded codes. A
    second version is built beside the first, with its indexes and privileges, compared with it, and replaces it in one
    step. Open collections and SQL continue without interruption, and writes made meanwhile are synced.

    The former version is kept and synced until --drop-old, so that --rollback loses nothing. Run the same command again
    to continue an interrupted run. Options that are not given keep the values of the old calibration. On Qdrant the
    collection has to keep float16 or float32.

    \b
    Examples:
      qvec recalibrate --collection docs --dry-run
      qvec recalibrate --collection docs --source vectors.parquet
      qvec recalibrate --collection docs --threshold half --ranges quantile
      qvec recalibrate --collection docs --rollback
      qvec recalibrate --collection docs --drop-old
    """
    from qvec import recalibration

    if rollback + drop_old + dry_run > 1:
        raise InputError("--rollback, --drop-old and --dry-run exclude each other; give one")
    reading = reading_of(others)
    refit = _refit(ctx, others)
    with ConsoleReporter(quiet=quiet) as reporter, open_database(url) as database, ExitStack() as opened:
        if drop_old:
            dropped = recalibration.drop_old(database, collection)
            _print(vars(dropped), f"dropped {dropped.name}", as_json, quiet)
            return
        if rollback:
            done = recalibration.roll_back(database, collection, allow_missing=allow_missing)
        else:
            stop = opened.enter_context(stopping_at_ctrl_c(reporter))
            found = None if source is None else opened.enter_context(open_source(source, **reading))
            try:
                done = recalibration.recalibrate(
                    database,
                    collection,
                    source=found,
                    refit=refit,
                    restart=restart,
                    trial=dry_run,
                    allow_missing=allow_missing,
                    allow_worse=allow_worse,
                    workers=workers,
                    reporter=reporter,
                    stop=stop,
                )
            except (LoadStoppedError, KeyboardInterrupt):
                reporter.say("Stopped. The collection is unchanged; run the same command again to continue.")
                raise KeyboardInterrupt from None
    _print(done.as_dict(), _result_line(done), as_json, quiet)


def _refit(ctx: click.Context, options: dict[str, Any]) -> Refit:
    """Remove the fit options from the options, and return those that were given."""
    from qvec.recalibration import Refit

    given = {name for name in options if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    if "metric" in given:
        raise InputError("--metric: a collection keeps its metric; load into a new one")
    fit = fit_of(**options)
    return Refit(
        threshold=fit.threshold if "threshold" in given else None,
        ranges=fit.ranges if given.intersection(_RANGE_OPTIONS) else None,
        dimensions=fit.dimensions,
        sample_size=fit.sample_size,
        seed=fit.seed,
    )


def _result_line(done: Recalibrated) -> str:
    recall = done.recall
    found = "" if recall is None else f"; recall@10 {recall.old.value:.1%} → {recall.new.value:.1%}"
    if done.kept is None:
        return f"calibration {done.calibration} instead of {done.former}{found}; nothing was changed"
    unsynced = f"; of the others {done.unsynced}" if done.unsynced else ""
    return (
        f"collection {done.collection!r} has calibration {done.calibration}, {done.rows:,} rows, in "
        f"{done.seconds:.1f} s{found}{unsynced}; {done.kept} is kept until --drop-old"
    )


def _print(result: dict[str, Any], text: str, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(result))
    elif not quiet:
        click.echo(text)
