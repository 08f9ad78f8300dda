"""qvec copy"""

from __future__ import annotations

from typing import Any

import click

from qvec.cli.console import ConsoleReporter
from qvec.cli.run_load import load
from qvec.cli.shared_options import (
    collection_option,
    json_option,
    open_database,
    quiet_option,
    settings_of,
    settings_options,
    workers_option,
)
from qvec.copying import CollectionSource, check_target, copy_options


@click.command()
@click.option("--from", "source_url", required=True, metavar="URL", help="Database to copy from.")
@click.option("--to", "target_url", required=True, metavar="URL", help="Database to copy to.")
@collection_option
@click.option("--as", "new_name", metavar="NAME", help="New name of the collection (default: the same).")
@settings_options
@click.option("--restart", is_flag=True, help="Copy from the beginning.")
@click.option("--no-index", is_flag=True, help="Do not build the index; `qvec index` does it later.")
@workers_option
@json_option
@quiet_option
def copy(
    source_url: str,
    target_url: str,
    collection: str,
    new_name: str | None,
    restart: bool,
    no_index: bool,
    workers: int,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Copy a collection to another database, with its calibration, texts and metadata.

    Codes and floats keep the stored precision unless --rescore names another. From Postgres to Postgres, or from Qdrant
    to Qdrant, the prefilter stays too. Run the same command again to continue an interrupted copy; every row is copied
    exactly once.

    \b
    Examples:
      qvec copy --from postgres:./qvec-data --to qdrant:./vectors --collection docs
      qvec copy --from qdrant:./vectors --to qdrants://host:6334 --collection docs --as docs_v2
    """
    name = new_name or collection
    with (
        ConsoleReporter(quiet=quiet) as reporter,
        open_database(source_url) as source,
        open_database(target_url, create=True) as target,
    ):
        check_target(source, target, collection, name)
        found = source.collection(collection)
        options = copy_options(
            source,
            target,
            found,
            name,
            settings=settings_of(settings),
            restart=restart,
            index=not no_index,
            workers=workers,
        )
        load(target, CollectionSource(source, found), options, reporter, as_json=as_json, quiet=quiet)
