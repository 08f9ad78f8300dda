"""Opening a database by its URL."""

from __future__ import annotations

from qvec.errors import InputError
from qvec.postgres.database import PostgresDatabase

DEFAULT_URL = "postgres:./qvec-data"


def connect(url: str = DEFAULT_URL) -> PostgresDatabase:
    """Opens `postgres:DIR` (embedded Postgres in a directory) or `postgresql://…` (a server).

    Raises DatabaseError when it cannot be reached, InputError for a URL of another kind.
    """
    if url.startswith(("postgres:", "postgresql://")):
        return PostgresDatabase(url)
    raise InputError(f"{url!r} is no database URL; expected postgres:DIR or postgresql://USER@HOST/DATABASE")
