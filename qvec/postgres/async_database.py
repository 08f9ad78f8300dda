"""A Postgres database whose methods are awaited."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from qvec.calibration import Calibration
from qvec.connecting import ConnectOptions
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.postgres.async_collection import AsyncPostgresCollection
from qvec.postgres.catalog import Catalog
from qvec.postgres.connections import AsyncConnections
from qvec.postgres.errors import explained
from qvec.postgres.layout import IdType, Prefilter, Rescore
from qvec.postgres.steps import AsyncConnection, Work

T = TypeVar("T")


class AsyncPostgresDatabase(Catalog):
    """A database with pgvector. For the tasks of the event loop that opened it, any number at once."""

    def __init__(self, connections: AsyncConnections, embedded: bool) -> None:
        """Use `open`."""
        super().__init__(connections.name, embedded, connections.options)
        self._connections = connections

    @classmethod
    async def open(
        cls, url: str, *, name: str | None = None, embedded: bool = False, options: ConnectOptions | None = None
    ) -> AsyncPostgresDatabase:
        """Connects once, to see that `url` works; raises DatabaseError when it does not.

        `name` stands for the database in messages, `embedded` says that it runs on this machine.
        """
        database = cls(AsyncConnections(url, name, options or ConnectOptions()), embedded)
        await (await database.connect()).close()
        return database

    async def connect(self) -> AsyncConnection:
        """A connection of its own, outside the pool, in autocommit; the caller closes it."""
        return await self._connections.connect()

    def connection(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection of the pool, for one piece of work."""
        return self._connections.connection()

    def live_connection(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection of the pool that has just answered, for work that cannot simply be done a second time."""
        return self._connections.live_connection()

    async def read(self, work: Work[T]) -> T:
        """Does work that only reads, again when the connection turns out to be broken."""
        return await self._connections.read(work)

    async def write(self, work: Work[T]) -> T:
        """Does work that is not done twice, on a connection that has just answered. Raises DatabaseError where the
        database was opened to be read."""
        self.check_writable()
        return await self._connections.write(work)

    async def close(self) -> None:
        """Closes the pool. The embedded server stops with the last process that uses it."""
        await self._connections.close()

    async def __aenter__(self) -> AsyncPostgresDatabase:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def create_collection(
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
    ) -> AsyncPostgresCollection:
        """Creates the table of a collection, with its calibration; the index comes with `build_index`.

        `rescore` int8, int4 or binary keeps codes alone; float16 or float32 keeps the floats and the prefilter's bits.
        `prefilter` is ternary, or binary where no more than signs are kept. `embedding` says how texts are embedded, as
        `qvec.embedding.EmbeddingOptions.as_json` gives it. Raises CollectionError when the name is taken.
        """
        work = self._creating(name, calibration, id_type, rescore, prefilter, oversampling, model, embedding)
        with explained(f"cannot create collection {name!r}"):
            return AsyncPostgresCollection(self, *(await self.write(work)))

    async def collection(self, name: str) -> AsyncPostgresCollection:
        """An existing collection. Raises CollectionError, listing those there are, when it is missing."""
        with explained(self._reading):
            return AsyncPostgresCollection(self, *(await self.read(partial(self.find, name))))

    async def has_collection(self, name: str) -> bool:
        """Whether there is a collection of this name."""
        with explained(self._reading):
            return await self.read(partial(self._has, name))

    async def collections(self) -> list[AsyncPostgresCollection]:
        """All collections in tables of their own, by name."""
        with explained(self._reading):
            return [AsyncPostgresCollection(self, *found) for found in await self.read(self._all)]

    async def drop_collection(self, name: str) -> None:
        """Drops a collection with all its rows; its calibration goes with the last collection that uses it."""
        with explained(f"cannot drop collection {name!r}"):
            await self.write(self._dropping(name))

    async def install(self) -> str | None:
        """Installs what is missing of pgvector and the schema qvec; returns what a user should know, if anything."""
        with explained(f"cannot prepare {self.name}"):
            return await self.write(self._install)
