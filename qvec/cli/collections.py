"""qvec collections, qvec drop, qvec index"""

from __future__ import annotations

import json
from typing import Any, get_args

import click

from qvec.cli.console import ConsoleReporter, print_table
from qvec.cli.shared_options import collection_option, db_option, json_option, open_database, quiet_option
from qvec.client import Collection
from qvec.full_text import Language
from qvec.ingest import build_index


@click.command()
@db_option
@json_option
def collections(url: str, as_json: bool) -> None:
    """List the collections of a database.

    \b
    Examples:
      qvec collections
      qvec collections --db postgresql://me@host/shop --json
    """
    with open_database(url) as database:
        found = [_described(collection) for collection in database.collections()]
    if as_json:
        for collection in found:
            click.echo(json.dumps(collection))
    elif found:
        columns = {name: "left" if isinstance(value, str) else "right" for name, value in found[0].items()}
        print_table(None, columns, [list(collection.values()) for collection in found])
    else:
        click.echo("no collections", err=True)


def _described(collection: Collection) -> dict[str, Any]:
    info = collection.info()
    parts = (info.table_bytes, info.index_bytes)
    return {
        "name": info.name,
        "rows": info.rows,
        "dimensions": info.dimensions,
        "rescore": info.rescore,
        "prefilter": info.prefilter,
        "index": info.index,
        "bytes_per_vector": None if None in parts else round(sum(filter(None, parts)) / max(info.rows, 1)),
        "calibration": info.calibration,
        "model": info.model or "",
    }


@click.command()
@click.argument("name", required=False)
@db_option
@json_option
def info(name: str | None, url: str, as_json: bool) -> None:
    """Show the settings and sizes of collections: rows, calibration, precision, bytes on disk and in memory.

    Bytes per row are given for the table, the index and, where the engine reports it, memory; on Postgres also for
    each part: heap, TOAST, primary key, other indexes, the prefilter's index. A version that `qvec recalibrate` keeps
    is shown beside its collection, as NAME@CALIBRATION.

    \b
    Examples:
      qvec info
      qvec info docs --db qdrant:./vectors --json
    """
    with open_database(url) as database:
        wanted = [database.collection(name)] if name else []
        wanted += [other for other in database.collections() if not name or other.name.startswith(f"{name}@")]
        found = [collection.info() for collection in wanted]
    if as_json:
        for one in found:
            click.echo(json.dumps(one.as_dict()))
    elif found:
        rows = [[_shown(getattr(one, field)) for one in found] for field in _FIELDS]
        sizes = [one.bytes_per_vector() for one in found]
        rows += [[_shown(size[part]) for size in sizes] for part in ("table", "index", "ram")]
        labels = [*(field.replace("_", " ") for field in _FIELDS), *_SIZES]
        parts = [one.part_bytes_per_vector() or {} for one in found]
        for part in parts[0]:  # the collections of a database have the same parts
            labels.append(f"of it {part.replace('_', ' ')}")
            rows.append([_shown(sizes[part]) for sizes in parts])
        columns = {"": "left", **{one.name: "right" for one in found}}
        print_table(None, columns, [[label, *row] for label, row in zip(labels, rows, strict=True)])
    else:
        click.echo("no collections", err=True)


_FIELDS = (
    "rows",
    "dimensions",
    "metric",
    "id_type",
    "rescore",
    "prefilter",
    "oversampling",
    "model",
    "calibration",
    "index",
)
_SIZES = ("bytes a row: table", "bytes a row: index", "bytes a row: in memory")


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


@click.command()
@click.argument("name")
@db_option
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")
def drop(name: str, url: str, yes: bool) -> None:
    """Drop a collection with all its rows.

    \b
    Example:
      qvec drop docs --yes
    """
    with open_database(url) as database:
        collection = database.collection(name)
        if not yes:
            click.confirm(f"Drop collection {name!r} with {collection.count():,} rows?", abort=True, err=True)
        database.drop_collection(name)
    click.echo(f"dropped {name}", err=True)


@click.command()
@db_option
@collection_option
@click.option("--texts", type=click.Choice(get_args(Language)), help="Index the documents' words in this language.")
@quiet_option
def index(url: str, collection: str, texts: str | None, quiet: bool) -> None:
    """Build the index of a collection that was loaded with --no-index, or whose build was interrupted.

    --texts indexes the documents' words as well, for `qvec search --by words` and `--by both`.

    \b
    Examples:
      qvec index --collection docs
      qvec index --collection docs --texts english
    """
    with ConsoleReporter(quiet=quiet) as reporter, open_database(url) as database:
        found = database.collection(collection)
        if texts is not None:
            found.index_texts(texts)
        if found.has_index():
            reporter.say(f"collection {collection!r} already has its index")
        else:
            build_index(found, reporter)
