# Generated from qvec/postgres/_async/store.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""A Postgres database as a store: its connections, and the collections that the schema qvec lists."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from psycopg.sql import Composable

from qvec.calibration import Calibration
from qvec.postgres._sync.catalog import Catalog, CatalogEntry
from qvec.postgres._sync.collection import PostgresCollection
from qvec.postgres._sync.connections import Connections, Work
from qvec.postgres._sync.diagnosis import diagnose
from qvec.postgres._sync.schema import hnsw_warning
from qvec.postgres._sync.session import Connection
from qvec.postgres.errors import wrap_errors
from qvec.postgres.layout import TableLayout
from qvec.store.connect_options import ConnectOptions
from qvec.store.diagnosis import Diagnosis
from qvec.store.requests import NewCollection

T = TypeVar("T")


class PostgresStore:
    """A database with pgvector."""

    kind = "Postgres"
    settings = frozenset({"rescore", "prefilter"})
    search_options = frozenset({"rescore_in", "planes"})
    native_filter = "a condition of psycopg.sql"
    indexes_metadata_first = False

    def __init__(self, connections: Connections, embedded: bool) -> None:
        """Use `connect`."""
        self.name = connections.name
        self.embedded = embedded
        self.options = connections.options
        self._connections = connections
        self._catalog = Catalog(connections.name)

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        name: str | None = None,
        embedded: bool = False,
        options: ConnectOptions | None = None,
        join: Callable[[], object] = lambda: None,
    ) -> PostgresStore:
        """Connect once, to verify that `url` works. Raise DatabaseError where it does not.

        `name` stands for the database in messages, `embedded` says that the server runs on this machine for this
        program, `join` is called in a forked process before it uses the database.
        """
        store = cls(Connections(url, name, options or ConnectOptions(), join), embedded)
        store.direct_connection().close()
        return store

    def direct_connection(self, *, writes: bool = False) -> Connection:
        """Open a connection outside the pool, in autocommit; the caller closes it.

        With `writes` raise DatabaseError where the server takes none.
        """
        return self._connections.connect(writes=writes)

    def connection(self) -> AbstractContextManager[Connection]:
        """Lend a connection of the pool for one piece of work."""
        return self._connections.connection()

    def read(self, work: Work[T]) -> T:
        """Do work that only reads, again where the connection breaks or a standby cancels it."""
        return self._connections.read(work)

    def write(self, work: Work[T]) -> T:
        """Do work once, on a connection that has just answered. Raise DatabaseError on a standby."""
        return self._connections.write(work)

    def wrap_errors(self, doing: str) -> AbstractContextManager[None]:
        """Raise DatabaseError for what psycopg raises inside: what was done, why it failed, what to do."""
        return wrap_errors(doing)

    def retrying_longer(self) -> AbstractContextManager[None]:
        """Do nothing: the pool waits for the server."""
        return nullcontext()

    def check_open(self) -> None:
        """Do nothing: a closed pool opens again for the next call."""

    def is_native_filter(self, filter: object) -> bool:
        return isinstance(filter, Composable)

    def close(self) -> None:
        """Close the pool. The embedded server stops with the last process that uses it."""
        self._connections.close()

    def install(self) -> str | None:
        """Install pgvector and the schema qvec where they are missing; return a warning for the user, if any."""
        return hnsw_warning(self.write(lambda connection: self._catalog.prepare(connection, install=True)))

    def diagnose(self) -> Diagnosis:
        """Return versions, settings and known problems of server, pgvector and schema."""
        return self.read(lambda connection: diagnose(connection, embedded=self.embedded))

    # Collections

    def create(self, new: NewCollection) -> PostgresCollection:
        """Create the table of a collection, with its calibration."""
        layout = TableLayout.of(
            new.calibration.dimensions,
            new.id_type,
            new.settings.get("rescore") or "int8",
            new.settings.get("prefilter"),
            new.calibration.learned_bits,
        )
        return self._opened(self.write(lambda connection: self._catalog.create(connection, new, layout)))

    def open(self, name: str, calibration: Calibration | None = None) -> PostgresCollection:  # noqa: ARG002
        """Open a collection; the client compares `calibration` with its own."""
        return self._opened(self.read(lambda connection: self._catalog.find(connection, name)))

    def has(self, name: str) -> bool:
        return self.read(lambda connection: self._catalog.has(connection, name))

    def all(self) -> list[PostgresCollection]:
        """Return all collections that have a table to themselves, by name."""
        return [self._opened(entry) for entry in self.read(self._catalog.entries)]

    def drop(self, name: str) -> None:
        """Drop a collection with all its rows; its calibration goes with the last collection that uses it."""
        self.write(lambda connection: self._catalog.drop(connection, name))

    def _opened(self, entry: CatalogEntry) -> PostgresCollection:
        return PostgresCollection(self._connections, self._catalog, entry, self.embedded)
