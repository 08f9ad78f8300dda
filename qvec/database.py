"""Opening a database by its URL."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qvec.connecting import ConnectOptions
from qvec.errors import DatabaseError, InputError

if TYPE_CHECKING:
    from qvec.postgres.async_database import AsyncPostgresDatabase
    from qvec.postgres.database import PostgresDatabase
    from qvec.qdrant.async_database import AsyncQdrantDatabase
    from qvec.qdrant.database import QdrantDatabase

DEFAULT_URL = "postgres:./qvec-data"
EXPECTED = "postgres:DIR, postgresql://USER@HOST/DATABASE, qdrant:DIR, qdrant://HOST:6334 or qdrants://HOST:6334"


def connect(
    url: str = DEFAULT_URL,
    *,
    create: bool = True,
    pool_size: int = 8,
    timeout: float = 30,
    statement_timeout: float | None = None,
    read_only: bool = False,
) -> PostgresDatabase | QdrantDatabase:
    """Opens a database: embedded Postgres or Qdrant in a directory (`postgres:DIR`, `qdrant:DIR`), or a server
    (`postgresql://…`, `qdrant://HOST:6334`, `qdrants://HOST:6334` with TLS).

    The two kinds have the same methods. Without `create` an embedded database that is not there is an error.
    `pool_size` is how many connections to Postgres are open at most, and so how many searches it does at once; others
    wait for theirs, `timeout` seconds at most. `statement_timeout` is how many seconds a statement may take, or a
    request to a Qdrant server (60 unless told); loads and index builds take what they need. With `read_only` nothing is
    written: methods that would are refused, and so are statements by Postgres itself.

    Raises DatabaseError when the database cannot be reached, InputError for a URL of another kind or an option that
    makes no sense, MissingExtraError when the embedded engine is not installed.
    """
    options = ConnectOptions(pool_size, timeout, statement_timeout, read_only)
    directory = _directory_of(url, create and not read_only)
    if url.startswith("qdrant"):
        from qvec.qdrant.database import QdrantDatabase

        if directory is None:
            return QdrantDatabase.on_server(url, options)
        return QdrantDatabase.in_directory(directory, options)
    from qvec.postgres import embedded
    from qvec.postgres.database import PostgresDatabase

    if directory is None:
        return PostgresDatabase(url, options=options)
    join = partial(embedded.start, directory)
    return PostgresDatabase(join(), name=url, embedded=True, options=options, join=join)


async def connect_async(
    url: str = DEFAULT_URL,
    *,
    create: bool = True,
    pool_size: int = 8,
    timeout: float = 30,
    statement_timeout: float | None = None,
    read_only: bool = False,
) -> AsyncPostgresDatabase | AsyncQdrantDatabase:
    """Opens a database: embedded Postgres or Qdrant in a directory (`postgres:DIR`, `qdrant:DIR`), or a server
    (`postgresql://…`, `qdrant://HOST:6334`, `qdrants://HOST:6334` with TLS).

    The two kinds have the same methods. Without `create` an embedded database that is not there is an error.
    `pool_size` is how many connections to Postgres are open at most, and so how many searches it does at once; others
    wait for theirs, `timeout` seconds at most. `statement_timeout` is how many seconds a statement may take, or a
    request to a Qdrant server (60 unless told); loads and index builds take what they need. With `read_only` nothing is
    written: methods that would are refused, and so are statements by Postgres itself.

    Raises DatabaseError when the database cannot be reached, InputError for a URL of another kind or an option that
    makes no sense, MissingExtraError when the embedded engine is not installed.
    """
    options = ConnectOptions(pool_size, timeout, statement_timeout, read_only)
    directory = _directory_of(url, create and not read_only)
    if url.startswith("qdrant"):
        from qvec.qdrant.async_database import AsyncQdrantDatabase

        if directory is None:
            return await AsyncQdrantDatabase.on_server(url, options)
        return await AsyncQdrantDatabase.in_directory(directory, options)
    from qvec.postgres import embedded
    from qvec.postgres.async_database import AsyncPostgresDatabase

    if directory is None:
        return await AsyncPostgresDatabase.open(url, options=options)
    started = await asyncio.to_thread(embedded.start, directory)
    return await AsyncPostgresDatabase.open(started, name=url, embedded=True, options=options)


def _directory_of(url: str, create: bool) -> str | None:
    """The directory of an embedded database's URL; None for a server's. Raises DatabaseError where there is no database
    in it, and none is to be created."""
    directory = embedded_directory(url)
    if directory is not None and not create and not (Path(directory) / _marker(url)).exists():
        raise DatabaseError(f"there is no database in {directory} yet; load one: qvec ingest SOURCE --collection NAME")
    return directory


def _marker(url: str) -> str:
    """The file that is in the directory of every embedded database of this kind."""
    return "qvec.lock" if url.startswith("qdrant:") else "PG_VERSION"


def embedded_directory(url: str) -> str | None:
    """The directory of an embedded database's URL; None for a server's. Raises InputError for what is neither."""
    if url.startswith(("postgresql://", "postgres://", "qdrant://", "qdrants://")):
        return None
    for scheme in ("postgres:", "qdrant:"):
        if url.startswith(scheme) and len(url) > len(scheme):
            return url.removeprefix(scheme)
    from qvec.postgres.errors import redact

    shown = redact(url) if "://" in url else url
    raise InputError(f"{shown!r} is no database URL; expected {EXPECTED}")
