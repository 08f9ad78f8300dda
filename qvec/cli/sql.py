"""qvec sql"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from qvec.cli.command_group import CommandGroup
from qvec.cli.shared_options import db_option, open_database
from qvec.client import Database
from qvec.errors import InputError
from qvec.postgres import sql_script
from qvec.postgres._sync import schema
from qvec.postgres._sync.store import PostgresStore
from qvec.postgres.errors import wrap_errors


@click.group(cls=CommandGroup)
def sql() -> None:
    """Install the SQL functions for applications in any language.

    \b
    Example:
      qvec sql install --db postgresql://me@host/shop
    """


@sql.command()
@db_option
def install(url: str) -> None:
    """Install pgvector and the schema qvec where they are missing; an older schema is upgraded.

    \b
    Example:
      qvec sql install --db postgresql://me@host/shop
    """
    with _postgres(url, create=True) as (database, _):
        warning = database.install()
    if warning:
        click.echo(warning, err=True)
    click.echo(f"schema qvec {sql_script.version()} is installed", err=True)


@sql.command()
@db_option
def upgrade(url: str) -> None:
    """Bring an older schema to this version, in one transaction.

    \b
    Example:
      qvec sql upgrade --db postgresql://me@host/shop
    """
    with _postgres(url) as (database, store), store.direct_connection(writes=True) as connection:
        before = schema.installed_version(connection)
        if before is None:
            raise InputError("the schema qvec is not installed in this database; run: qvec sql install")
        with wrap_errors(f"cannot upgrade {database.name}"):
            schema.prepare(connection, install=True)
        after = schema.installed_version(connection)
    click.echo(f"schema qvec is {after}" if before == after else f"upgraded from {before} to {after}", err=True)


@sql.command()
@db_option
@click.option("--with-collections", is_flag=True, help="Drop the collections too, and detach attached tables.")
def uninstall(url: str, with_collections: bool) -> None:
    """Drop the schema qvec; refuses while there are collections.

    \b
    Example:
      qvec sql uninstall --db postgresql://me@host/shop
    """
    with (
        _postgres(url) as (database, store),
        store.direct_connection(writes=True) as connection,
        wrap_errors(f"cannot uninstall from {database.name}"),
    ):
        schema.uninstall(connection, with_collections=with_collections)
    click.echo("uninstalled", err=True)


@sql.command("print")
@click.option("--from", "old", metavar="VERSION", help="Print what upgrades this version of the schema.")
@click.option("--roles", is_flag=True, help="Print what creates the roles qvec_reader and qvec_writer.")
def print_script(old: str | None, roles: bool) -> None:
    """Print the script, for psql, a driver or a migration tool.

    It may be run again, and inside a transaction.

    \b
    Examples:
      qvec sql print | psql "$DATABASE_URL"
      qvec sql print --from 0.1.0 > migrations/0042_qvec.sql
      qvec sql print --roles | psql "$DATABASE_URL"
    """
    if roles:
        click.echo(sql_script.roles(), nl=False)
    else:
        click.echo(sql_script.full() if old is None else sql_script.upgrade_from(old), nl=False)


@contextmanager
def _postgres(url: str, *, create: bool = False) -> Iterator[tuple[Database, PostgresStore]]:
    with open_database(url, create=create) as database:
        if not isinstance(database.store, PostgresStore):
            raise InputError(f"{url} is not a Postgres database; SQL needs one: postgres:DIR or postgresql://…")
        yield database, database.store
