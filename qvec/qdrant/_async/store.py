"""Qdrant as a store: a directory of the embedded engine, or a server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from qdrant_client import models

from qvec.calibration import Calibration
from qvec.errors import InputError
from qvec.qdrant._async.backend import AsyncBackend
from qvec.qdrant._async.catalog import AsyncQdrantCatalog
from qvec.qdrant._async.collection import AsyncQdrantCollection
from qvec.qdrant._async.embedded import AsyncDirectoryBackend
from qvec.qdrant._async.server import AsyncServerBackend
from qvec.qdrant.address import Address, check_directory
from qvec.qdrant.connection import retrying_longer
from qvec.qdrant.description import Description
from qvec.qdrant.errors import wrap_errors
from qvec.qdrant.shard_keys import check_field
from qvec.qdrant.vector_layout import Sharding, VectorLayout
from qvec.store.connect_options import ConnectOptions
from qvec.store.diagnosis import Diagnosis
from qvec.store.requests import NewCollection

_LAYOUT_SETTINGS = frozenset({"rescore", "prefilter", "query_encoding"})
_SHARDING_SETTINGS = frozenset(
    {"shards", "replication_factor", "write_consistency_factor", "shard_key", "shard_key_field"}
)


class AsyncQdrantStore:
    """Collections in Qdrant; see `AsyncStore`. The synchronous store is safe across threads."""

    kind = "Qdrant"
    settings = _LAYOUT_SETTINGS | _SHARDING_SETTINGS
    search_options = frozenset({"ef"})
    native_filter = "a Filter of qdrant_client.models"
    indexes_metadata_first = True

    def __init__(self, backend: AsyncBackend, name: str, options: ConnectOptions, *, embedded: bool) -> None:
        """`name` stands for the database in messages. Use `in_directory` or `on_server`."""
        self.name = name
        self.embedded = embedded
        self.options = options
        self.backend = backend
        self.catalog = AsyncQdrantCatalog(backend, name, options)

    @classmethod
    async def in_directory(cls, directory: str, options: ConnectOptions) -> AsyncQdrantStore:
        """Open the embedded engine in a directory, creating it where it is missing.

        Raise DatabaseError where another process has it open, MissingExtraError where the engine is not installed,
        InputError for options, which only a server has.
        """
        check_directory(directory)
        backend = await AsyncDirectoryBackend.open(directory)
        return cls(backend, f"qdrant:{directory}", options, embedded=True)

    @classmethod
    async def on_server(cls, url: str, options: ConnectOptions) -> AsyncQdrantStore:
        """Connect to qdrant://HOST:PORT, or qdrants:// with TLS; the API key comes from QVEC_QDRANT_API_KEY.

        Raise DatabaseError where the server cannot be reached or refuses the key, InputError for another URL.
        """
        address = Address.parse(url).limited(options.statement_timeout)
        backend = await AsyncServerBackend.connect(address)
        return cls(backend, address.name, options, embedded=False)

    def wrap_errors(self, doing: str) -> AbstractContextManager[None]:
        return wrap_errors(doing)

    def retrying_longer(self) -> AbstractContextManager[None]:
        return retrying_longer()

    def check_open(self) -> None:
        self.catalog.check_open()

    def is_native_filter(self, filter: object) -> bool:
        return isinstance(filter, models.Filter)

    async def install(self) -> str | None:
        """Return a warning for the user, if any: nothing has to be installed."""
        return self.backend.warning

    async def diagnose(self) -> Diagnosis:
        """Return the version of the engine, of a server that of each node, and known problems."""
        return await self.backend.diagnose()

    async def create(self, new: NewCollection) -> AsyncQdrantCollection:
        layout_settings = {name: value for name, value in new.settings.items() if name in _LAYOUT_SETTINGS}
        layout = VectorLayout.of(new.calibration.dimensions, new.id_type, **layout_settings)
        sharding = Sharding(**{name: value for name, value in new.settings.items() if name in _SHARDING_SETTINGS})
        if self.embedded and sharding != Sharding():
            raise InputError(f"{self.name} is one shard in one process; shards and replicas are for a server")
        if sharding.shard_key_field is not None:
            check_field(sharding.shard_key_field)
        self.catalog.check_writable()
        description = Description(new.calibration, layout, new.oversampling, new.model, sharding, new.embedding)
        return AsyncQdrantCollection(self.catalog, await self.catalog.create(new.name, description))

    async def open(self, name: str, calibration: Calibration | None) -> AsyncQdrantCollection:
        """Open a collection; with `calibration` also one that qvec did not make, to be read.

        The vectors of such a one are taken for x - threshold of that calibration, or for x where its threshold is zero.
        A collection of qvec has to have the same calibration.
        """
        return AsyncQdrantCollection(self.catalog, await self.catalog.find(name, calibration))

    async def has(self, name: str) -> bool:
        return await self.catalog.active_version(name) is not None

    async def all(self) -> Sequence[AsyncQdrantCollection]:
        self.catalog.check_open()
        names = await self.catalog.names()
        return [AsyncQdrantCollection(self.catalog, await self.catalog.find(name)) for name in names]

    async def drop(self, name: str) -> None:
        """Drop a collection with all its rows, also one whose description is damaged."""
        self.catalog.check_writable()
        await self.catalog.drop(name)

    async def break_off(self) -> None:
        """End all requests to a server that are under way, for a load that is interrupted."""
        await self.backend.break_off()

    async def close(self) -> None:
        """Release the directory, or close the connection; a second call does nothing."""
        await self.catalog.close()
