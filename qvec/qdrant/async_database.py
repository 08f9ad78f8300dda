"""A Qdrant database whose methods are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qvec.calibration import Calibration
from qvec.connecting import ConnectOptions
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.qdrant.address import Address
from qvec.qdrant.async_collection import AsyncQdrantCollection
from qvec.qdrant.catalog import Catalog
from qvec.qdrant.clients import AsyncServerClient
from qvec.qdrant.description import Description
from qvec.qdrant.directory import Directory
from qvec.qdrant.errors import explained
from qvec.qdrant.home import Home
from qvec.qdrant.layout import IdType, Layout, Prefilter, QueryEncoding, Rescore, Sharding
from qvec.qdrant.remote import Server
from qvec.qdrant.steps import Ask, Steps, perform, perform_async

T = TypeVar("T")


class AsyncQdrantDatabase(Catalog):
    """Collections in Qdrant, for the tasks of the event loop that opened it, any number at once.

    A server is asked by gRPC without threads. The embedded engine works in threads; as it keeps the interpreter's lock
    while it writes, large writes to it hold the event loop up.
    """

    def __init__(
        self,
        home: Home,
        name: str,
        options: ConnectOptions,
        *,
        client: AsyncServerClient | None = None,
        warning: str | None = None,
    ) -> None:
        """`name` stands for the database in messages. Use `in_directory` or `on_server`."""
        super().__init__(home, name, options, embedded=client is None, warning=warning)
        self._client = client

    @classmethod
    async def in_directory(cls, directory: str, options: ConnectOptions | None = None) -> AsyncQdrantDatabase:
        """Opens the embedded engine in a directory, made where it is missing.

        Raises DatabaseError when another process has it open, MissingExtraError when the engine is not installed.
        """
        home = await asyncio.to_thread(Directory.open, Path(directory))
        return cls(home, f"qdrant:{directory}", options or ConnectOptions())

    @classmethod
    async def on_server(cls, url: str, options: ConnectOptions | None = None) -> AsyncQdrantDatabase:
        """Connects to qdrant://HOST:PORT, or qdrants:// with TLS; the API key comes from QVEC_QDRANT_API_KEY.

        Raises DatabaseError when the server cannot be reached or refuses the key, InputError for another URL.
        """
        options = options or ConnectOptions()
        address = Address.parse(url).limited(options.statement_timeout)
        server, client = Server(address), AsyncServerClient(address)
        try:
            with explained(f"cannot connect to {server.name}"):
                await perform_async(server.check(), client.send)
        except BaseException:
            await client.close()
            raise
        return cls(server, server.name, options, client=client, warning=server.warning)

    async def run(self, steps: Steps[T]) -> T:
        """Does what steps ask for. Raises InputError when the database is closed."""
        self._check_open()
        if self._client is not None:
            return await perform_async(steps, self._client.send)
        return await asyncio.to_thread(perform, steps, _nothing_to_send)

    async def close(self) -> None:
        """Lets the directory or the connection go; a second time does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            await asyncio.to_thread(self.home.close)
            if self._client is not None:
                await self._client.close()

    async def __aenter__(self) -> AsyncQdrantDatabase:
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
        rescore: Rescore = "float16",
        prefilter: Prefilter | None = None,
        query_encoding: QueryEncoding = "scalar8bits",
        oversampling: float = DEFAULT_OVERSAMPLING,
        model: str | None = None,
        embedding: Mapping[str, Any] | None = None,
        shards: int | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        shard_key: str | None = None,
    ) -> AsyncQdrantCollection:
        """Creates a collection with its calibration; the graph comes with `build_index`.

        `rescore` is the precision of the vectors that are stored on disk, `prefilter` what is held of them in memory
        (turbo1 unless told), `query_encoding` how exactly a binary prefilter sees the query. `embedding` says how texts
        are embedded, as `qvec.embedding.EmbeddingOptions.as_json` gives it. What follows it is for clusters. Raises
        CollectionError when the name is taken.
        """
        layout = Layout.of(calibration.dimensions, id_type, rescore, prefilter, query_encoding)
        sharding = Sharding(shards, replication_factor, write_consistency_factor, shard_key)
        description = Description(calibration, layout, oversampling, model, sharding, embedding)
        with explained(f"cannot create collection {name!r}"):
            return AsyncQdrantCollection(self, *(await self.run(self._creating(name, description))))

    async def collection(self, name: str, *, calibration: Calibration | None = None) -> AsyncQdrantCollection:
        """An existing collection. Raises CollectionError, listing those there are, when it is missing.

        With `calibration` one that qvec did not make is opened, to be read: its vectors are taken for x - threshold of
        that calibration (or for x, where its threshold is zero). Of one that qvec made it has to be the same.
        """
        with explained(self._reading):
            return AsyncQdrantCollection(self, *(await self.run(self.find(name, calibration))))

    async def has_collection(self, name: str) -> bool:
        """Whether there is a collection of this name."""
        with explained(self._reading):
            return await self.run(self._has(name))

    async def collections(self) -> list[AsyncQdrantCollection]:
        """All collections that qvec made, by name."""
        with explained(self._reading):
            return [AsyncQdrantCollection(self, *found) for found in await self.run(self._all())]

    async def drop_collection(self, name: str) -> None:
        """Drops a collection with all its rows, also one whose description is damaged."""
        self.check_writable()
        with explained(f"cannot drop collection {name!r}"):
            await self.run(self._drop(name))

    async def install(self) -> str | None:
        """Nothing has to be installed; returns what a user should know, if anything."""
        return self._warning


def _nothing_to_send(ask: Ask) -> Any:
    raise AssertionError(ask)  # the embedded engine answers at once
