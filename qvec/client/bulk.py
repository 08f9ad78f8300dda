"""Bulk loads and version syncs of a database; they run in threads, and so need the synchronous client."""

from __future__ import annotations

from qvec.client._sync.database import Database
from qvec.store.loads import Checkpoint, Loader
from qvec.store.requests import OnDuplicate
from qvec.store.versions import VersionSync


def open_loader(database: Database, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> Loader:
    """Return a load of one source into a collection, which need not exist yet."""
    database.store.options.check_writable(database.name)
    if database.kind == "Postgres":
        from qvec.postgres.loader import PostgresLoader

        return PostgresLoader(database.store, collection, source, on_duplicate, workers)  # type: ignore[arg-type]
    from qvec.qdrant.loader import QdrantLoader

    return QdrantLoader(database.store, collection, source, on_duplicate, workers)  # type: ignore[arg-type]


def open_version_sync(database: Database, collection: str) -> VersionSync:
    """Return the version sync of a collection."""
    database.store.options.check_writable(database.name)
    if database.kind == "Postgres":
        from qvec.postgres.version_sync import PostgresVersionSync

        return PostgresVersionSync(database.store, collection)  # type: ignore[arg-type]
    from qvec.qdrant.version_sync import QdrantVersionSync

    return QdrantVersionSync(database.store, collection)  # type: ignore[arg-type]


def read_checkpoints(database: Database, collection: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of all sources that were loaded into a collection, by their locations."""
    with database.wrap_errors(f"cannot read the loads of collection {collection!r}"):
        if database.kind == "Postgres":
            from qvec.postgres import loader as postgres_loader

            return postgres_loader.read_checkpoints(database.store, collection)  # type: ignore[arg-type]
        from qvec.qdrant import loader as qdrant_loader

        return qdrant_loader.read_checkpoints(database.store, collection)  # type: ignore[arg-type]
