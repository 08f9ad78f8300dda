"""Bulk loads and version syncs of a database; they run in threads, and so need the synchronous client."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qvec.client._sync.database import Database
from qvec.store.loads import Checkpoint, Loader
from qvec.store.requests import OnDuplicate
from qvec.store.versions import VersionSync

_PACKAGES = {"Postgres": "qvec.postgres", "Qdrant": "qvec.qdrant"}
"""The package of each store, by the kind of database; its modules `loader` and `version_sync` are imported when
used."""


def open_loader(database: Database, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> Loader:
    """Return a load of one source into a collection, which need not exist yet."""
    database.store.options.check_writable(database.name)
    loader: Loader = _module(database, "loader").open_loader(database.store, collection, source, on_duplicate, workers)
    return loader


def open_version_sync(database: Database, collection: str) -> VersionSync:
    """Return the version sync of a collection."""
    database.store.options.check_writable(database.name)
    sync: VersionSync = _module(database, "version_sync").open_version_sync(database.store, collection)
    return sync


def read_checkpoints(database: Database, collection: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of all sources that were loaded into a collection, by their locations."""
    with database.wrap_errors(f"cannot read the loads of collection {collection!r}"):
        found: dict[str, Checkpoint] = _module(database, "loader").read_checkpoints(database.store, collection)
    return found


def _module(database: Database, name: str) -> Any:
    return import_module(f"{_PACKAGES[database.kind]}.{name}")
