"""qvec recalibrate"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from qvec.cli.console import ConsoleReporter
from qvec.cli.loading import stopping_at_ctrl_c
from qvec.cli.options import (
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
@click.option("--source", metavar="SOURCE", help="What the collection was loaded from, where it keeps no floats.")
@click.option("--rollback", is_flag=True, help="Use the version before again, with what was written since.")
@click.option("--drop-old", is_flag=True, help="Drop the version before, or one that was never finished.")
@click.option("--dry-run", is_flag=True, help="Fit and compare alone; nothing is changed.")
@click.option("--restart", is_flag=True, help="Forget what an interrupted run built, and fit anew.")
@click.option("--allow-missing", is_flag=True, help="Leave rows out that there are no originals of.")
@click.option("--allow-worse", is_flag=True, help="Use the new calibration though it finds less.")
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
    """Fit a collection's calibration anew, and quantize its rows by it while it is in use.

    Vectors are the floats that the collection keeps, or those of --source, whose ids say which rows they are of; never
    decoded codes. A second version is built beside the first, with index, filters' indexes and privileges, and is
    compared with it; then it takes its place in one step. Open collections and SQL go on without a break.

    The version before is kept until --drop-old, and follows what is written: --rollback loses nothing. Interrupted, the
    same command goes on where it was. What no option says is fitted as it was before.

    Writes go on meanwhile, and come along. In Qdrant the collection has to keep float16 or float32.

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
        raise InputError("--rollback, --drop-old and --dry-run are three things to do; name one")
    reading = reading_of(others)
    refit = _refit(ctx, others)
    with ConsoleReporter(quiet=quiet) as reporter, open_database(url) as database, ExitStack() as opened:
        if drop_old:
            dropped = recalibration.drop_old(database, collection)
            _tell(vars(dropped), f"dropped {dropped.name}", as_json, quiet)
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
                reporter.say("Stopped. The collection is as it was; run the same command again to go on.")
                raise KeyboardInterrupt from None
    _tell(done.as_dict(), _told(done), as_json, quiet)


def _refit(ctx: click.Context, options: dict[str, Any]) -> Refit:
    """What the options ask to be fitted otherwise than before; removes them."""
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


def _told(done: Recalibrated) -> str:
    recall = done.recall
    found = "" if recall is None else f"; recall@10 {recall.old.value:.1%} → {recall.new.value:.1%}"
    if done.kept is None:
        return f"calibration {done.calibration} instead of {done.former}{found}; nothing was changed"
    unsynced = f"; of the others {done.unsynced}" if done.unsynced else ""
    return (
        f"collection {done.collection!r} has calibration {done.calibration}, {done.rows:,} rows, in "
        f"{done.seconds:.1f} s{found}{unsynced}; {done.kept} is kept until --drop-old"
    )


def _tell(told: dict[str, Any], text: str, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(told))
    elif not quiet:
        click.echo(text)
