"""The URLs of databases."""

from __future__ import annotations

from pathlib import Path

from qvec.errors import DatabaseError, InputError
from qvec.store.connect_options import redact

DEFAULT_URL = "postgres:./qvec-data"
EXPECTED = "postgres:DIR, postgresql://USER@HOST/DATABASE, qdrant:DIR, qdrant://HOST:6334 or qdrants://HOST:6334"


def embedded_directory(url: str) -> str | None:
    """Return the directory in an embedded database's URL; None for a server's. Raise InputError for other URLs."""
    if url.startswith(("postgresql://", "postgres://", "qdrant://", "qdrants://")):
        return None
    for scheme in ("postgres:", "qdrant:"):
        if url.startswith(scheme) and len(url) > len(scheme):
            return url.removeprefix(scheme)
    raise InputError(f"{_shown(url)} is not a database URL; expected {EXPECTED}")


def _shown(url: str) -> str:
    """Return what is not a database URL for a message, without what may be a password."""
    if "://" in url:
        return repr(redact(url))
    return "what is given" if set("@=") & set(url) else repr(url)


def is_missing(url: str) -> bool:
    """Return whether a URL names a directory that holds no database."""
    directory = embedded_directory(url)
    return directory is not None and not (Path(directory) / _marker(url)).exists()


def usable_directory(url: str, create: bool) -> str | None:
    """Return the directory in an embedded database's URL; None for a server's.

    Raise DatabaseError where it holds no database, unless one may be created.
    """
    directory = embedded_directory(url)
    if not create and is_missing(url):
        raise DatabaseError(f"there is no database in {directory} yet; load one: qvec ingest SOURCE --collection NAME")
    return directory


def _marker(url: str) -> str:
    """Return the file that exists in the directory of every embedded database of this kind."""
    return "qvec.lock" if url.startswith("qdrant:") else "PG_VERSION"
