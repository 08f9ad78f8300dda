"""Opening a database by its URL."""

from __future__ import annotations

from pathlib import Path

from qvec.errors import DatabaseError, InputError
from qvec.postgres import embedded
from qvec.postgres.database import PostgresDatabase
from qvec.postgres.errors import redact

DEFAULT_URL = "postgres:./qvec-data"


def connect(url: str = DEFAULT_URL, *, create: bool = True) -> PostgresDatabase:
    """Opens `postgres:DIR` (embedded Postgres in a directory) or `postgresql://…` (a server).

    Without `create` an embedded database that is not there is an error. Raises DatabaseError when the database cannot
    be reached, InputError for a URL of another kind, MissingExtraError when the embedded server is not installed.
    """
    directory = embedded_directory(url)
    if directory is None:
        return PostgresDatabase(url)
    if not create and not (Path(directory) / "PG_VERSION").exists():
        raise DatabaseError(f"there is no database in {directory} yet; load one: qvec ingest SOURCE --collection NAME")
    return PostgresDatabase(embedded.start(directory), name=url, embedded=True)


def embedded_directory(url: str) -> str | None:
    """The directory of an embedded database's URL; None for a server's."""
    if url.startswith(("postgresql://", "postgres://")):
        return None
    if url.startswith("postgres:") and len(url) > len("postgres:"):
        return url.removeprefix("postgres:")
    shown = redact(url) if "://" in url else url
    raise InputError(f"{shown!r} is no database URL; expected postgres:DIR or postgresql://USER@HOST/DATABASE")
