"""Bulk loads and version syncs of a database; they run in threads, and so need the synchronous client."""

from __future__ import annotations

from qvec.client._sync.database import Database
from qvec.store.loads import Checkpoint, Loader, LoaderModule
from qvec.store.requests import OnDuplicate
from qvec.store.versions import VersionSync, VersionSyncModule


def open_loader(database: Database, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> Loader:
    """Return a load of one source into a collection, which need not exist yet."""
    database.store.options.check_writable(database.name)
    return _loader_module(database).open_loader(database.store, collection, source, on_duplicate, workers)


def open_version_sync(database: Database, collection: str) -> VersionSync:
    """Return the version sync of a collection."""
    database.store.options.check_writable(database.name)
    return _version_sync_module(database).open_version_sync(database.store, collection)


def read_checkpoints(database: Database, collection: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of all sources that were loaded into a collection, by their locations."""
    with database.wrap_errors(f"cannot read the loads of collection {collection!r}"):
        return _loader_module(database).read_checkpoints(database.store, collection)


def _loader_module(database: Database) -> LoaderModule:
    if database.kind == "Postgres":
        from qvec.postgres import loader as postgres

        return postgres
    if database.kind == "Qdrant":
        from qvec.qdrant import loader as qdrant

        return qdrant
    raise NotImplementedError(database.kind)


def _version_sync_module(database: Database) -> VersionSyncModule:
    if database.kind == "Postgres":
        from qvec.postgres import version_sync as postgres

        return postgres
    if database.kind == "Qdrant":
        from qvec.qdrant import version_sync as qdrant

        return qdrant
    raise NotImplementedError(database.kind)
