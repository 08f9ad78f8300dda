"""A Postgres database: its connections and its collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from qvec.calibration import Calibration
from qvec.connecting import ConnectOptions
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.loading import Checkpoint, OnDuplicate
from qvec.postgres import loading
from qvec.postgres.catalog import Catalog
from qvec.postgres.collection import PostgresCollection
from qvec.postgres.connections import Connections
from qvec.postgres.errors import explained
from qvec.postgres.layout import IdType, Prefilter, Rescore
from qvec.postgres.loader import PostgresLoader
from qvec.postgres.steps import Connection, Work
from qvec.postgres.versions import PostgresVersions

T = TypeVar("T")


class PostgresDatabase(Catalog):
    """A database with pgvector. Safe across threads, and in a process forked from the one that opened it."""

    def __init__(
        self,
        url: str,
        *,
        name: str | None = None,
        embedded: bool = False,
        options: ConnectOptions | None = None,
        join: Callable[[], object] = lambda: None,
    ) -> None:
        """Connects once, to see that `url` works; raises DatabaseError when it does not.

        `name` stands for the database in messages, `embedded` says that it runs on this machine. A forked
        process calls `join` before it uses the database.
        """
        self._connections = Connections(url, name, options or ConnectOptions(), join)
        super().__init__(self._connections.name, embedded, self._connections.options)
        self.connect().close()

    def connect(self) -> Connection:
        """A connection of its own, outside the pool, in autocommit; the caller closes it."""
        return self._connections.connect()

    def connection(self) -> AbstractContextManager[Connection]:
        """A connection of the pool, for one piece of work."""
        return self._connections.connection()

    def live_connection(self) -> AbstractContextManager[Connection]:
        """A connection of the pool that has just answered, for work that cannot simply be done a second time."""
        return self._connections.live_connection()

    def read(self, work: Work[T]) -> T:
        """Does work that only reads, again when the connection turns out to be broken."""
        return self._connections.read(work)

    def write(self, work: Work[T]) -> T:
        """Does work that is not done twice, on a connection that has just answered. Raises DatabaseError where the
        database was opened to be read."""
        self.check_writable()
        return self._connections.write(work)

    def close(self) -> None:
        """Closes the pool. The embedded server stops with the last process that uses it."""
        self._connections.close()

    def __enter__(self) -> PostgresDatabase:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def create_collection(
        self,
        name: str,
        *,
        calibration: Calibration,
        id_type: IdType = "bigint",
        rescore: Rescore = "int8",
        prefilter: Prefilter | None = None,
        oversampling: float = DEFAULT_OVERSAMPLING,
        model: str | None = None,
        embedding: Mapping[str, Any] | None = None,
    ) -> PostgresCollection:
        """Creates the table of a collection, with its calibration; the index comes with `build_index`.

        `rescore` int8, int4 or binary keeps codes alone; float16 or float32 keeps the floats and the prefilter's bits.
        `prefilter` is ternary, or binary where no more than signs are kept. `embedding` says how texts are embedded, as
        `qvec.embedding.EmbeddingOptions.as_json` gives it. Raises CollectionError when the name is taken.
        """
        work = self._creating(name, calibration, id_type, rescore, prefilter, oversampling, model, embedding)
        with explained(f"cannot create collection {name!r}"):
            return PostgresCollection(self, *self.write(work))

    def collection(self, name: str) -> PostgresCollection:
        """An existing collection. Raises CollectionError, listing those there are, when it is missing."""
        with explained(self._reading):
            return PostgresCollection(self, *self.read(partial(self.find, name)))

    def has_collection(self, name: str) -> bool:
        """Whether there is a collection of this name."""
        with explained(self._reading):
            return self.read(partial(self._has, name))

    def collections(self) -> list[PostgresCollection]:
        """All collections in tables of their own, by name."""
        with explained(self._reading):
            return [PostgresCollection(self, *found) for found in self.read(self._all)]

    def drop_collection(self, name: str) -> None:
        """Drops a collection with all its rows; its calibration goes with the last collection that uses it."""
        with explained(f"cannot drop collection {name!r}"):
            self.write(self._dropping(name))

    def loader(self, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> PostgresLoader:
        """A load of one source into a collection that may not be there yet."""
        self.check_writable()
        return PostgresLoader(self, collection, source, on_duplicate, workers)

    def loads(self, collection: str) -> dict[str, Checkpoint]:
        """How far sources were loaded into a collection, by their locations."""
        with explained(f"cannot read the loads of collection {collection!r}"), self.connection() as connection:
            return loading.read_checkpoints(connection, collection)

    def versions(self, collection: str) -> PostgresVersions:
        """The versions of a collection, by two calibrations."""
        self.check_writable()
        return PostgresVersions(self, collection)

    def install(self) -> str | None:
        """Installs what is missing of pgvector and the schema qvec; returns what a user should know, if anything."""
        with explained(f"cannot prepare {self.name}"):
            return self.write(self._install)
