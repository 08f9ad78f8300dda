"""qvec db"""

from __future__ import annotations

import click

from qvec.cli.command_group import CommandGroup
from qvec.cli.shared_options import db_option
from qvec.client.urls import embedded_directory
from qvec.errors import InputError
from qvec.postgres import embedded


@click.group(cls=CommandGroup)
def db() -> None:
    """Keep an embedded Postgres running for other programs.

    \b
    Example:
      psql "$(qvec db url)"
    """


@db.command()
@db_option
def url(url: str) -> None:
    """Print an ordinary connection string, with the embedded database started and left running.

    \b
    Example:
      psql "$(qvec db url --db postgres:./qvec-data)"
    """
    click.echo(url if embedded_directory(url) is None else embedded.keep(_directory(url)))


@db.command()
@db_option
def start(url: str) -> None:
    """Start the embedded database and leave it running until `qvec db stop`.

    \b
    Example:
      qvec db start --db postgres:./qvec-data
    """
    click.echo(f"running at {embedded.keep(_directory(url))}")


@db.command()
@db_option
def stop(url: str) -> None:
    """Stop the embedded database, whoever uses it.

    \b
    Example:
      qvec db stop --db postgres:./qvec-data
    """
    directory = _directory(url)
    click.echo("stopped" if embedded.stop(directory) else f"no database runs in {directory}")


def _directory(url: str) -> str:
    directory = embedded_directory(url)
    if directory is None or not url.startswith("postgres:"):
        raise InputError(
            "only an embedded Postgres (postgres:DIR) can be started and stopped; a server runs independently, and the "
            "embedded Qdrant engine runs inside the process that uses it"
        )
    return directory
