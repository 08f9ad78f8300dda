"""A database: its collections, and how it is opened by its URL."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any

from qvec.calibration import Calibration
from qvec.client import arguments
from qvec.client._async.collection import AsyncCollection
from qvec.client.embedders import Embedders
from qvec.client.urls import DEFAULT_URL, usable_directory
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.errors import CollectionError
from qvec.sources import IdType
from qvec.store._async.interface import AsyncStore, AsyncStoreCollection
from qvec.store.connect_options import ConnectOptions
from qvec.store.requests import NewCollection
from qvec.store.scope import operation
from qvec.waiting import in_thread_async


class AsyncDatabase:
    """A database that holds collections. Use as a context manager.

    The synchronous one is safe across threads, and on Postgres in forked processes; the asynchronous one serves the
    tasks of the event loop that opened it.
    """

    def __init__(self, store: AsyncStore) -> None:
        """Use `connect` or `connect_async`."""
        self.store = store
        """The store behind it: a Postgres or Qdrant database."""
        self._embedders = Embedders()

    @property
    def name(self) -> str:
        """The URL without secrets, for messages."""
        return self.store.name

    @property
    def kind(self) -> str:
        """The name of the product: Postgres or Qdrant."""
        return self.store.kind

    async def create_collection(
        self,
        name: str,
        *,
        calibration: Calibration,
        id_type: IdType = "bigint",
        rescore: str | None = None,
        prefilter: str | None = None,
        oversampling: float = DEFAULT_OVERSAMPLING,
        model: str | None = None,
        embedding: Mapping[str, Any] | None = None,
        query_encoding: str | None = None,
        shards: int | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        shard_key: str | None = None,
        shard_key_field: str | None = None,
    ) -> AsyncCollection:
        """Create a collection with its calibration; `build_index` adds the index.

        On Postgres `rescore` int8 (default), int10, int4 or binary keeps codes alone; float16 or float32 keeps the
        floats and the prefilter's bits. `prefilter` is levels6 (default), learned where the calibration has learned
        bits, binary, ternary, levels4, levels5 or levels8: more levels need fewer candidates and a larger index. On
        Qdrant `rescore` is the precision of the vectors stored on disk (float16 by default, float32, turbo16, turbo8,
        binary), `prefilter` the quantization held in memory (turbo1 by default; turbo1.5, turbo2, turbo4, binary,
        binary1.5, binary2).

        `embedding` describes how texts are embedded, as `qvec.embedding.EmbeddingOptions.as_json` gives it. Only on
        Qdrant: `query_encoding` is the precision in which a binary prefilter sees the query; the options after it are
        for clusters. `shard_key_field` names a metadata field, such as the tenant, whose values have shards of their
        own: each row goes to the shard of its value, and filters on the field ask only the shards of theirs.

        Raise CollectionError where the name is taken, InputError for settings that do not exist or do not fit.
        """
        settings = {
            "rescore": rescore,
            "prefilter": prefilter,
            "query_encoding": query_encoding,
            "shards": shards,
            "replication_factor": replication_factor,
            "write_consistency_factor": write_consistency_factor,
            "shard_key": shard_key,
            "shard_key_field": shard_key_field,
        }
        arguments.check_name(name)
        arguments.check_oversampling(oversampling)
        arguments.check_store_options(self.store, settings, self.store.settings)
        given = {key: value for key, value in settings.items() if value is not None}
        new = NewCollection(name, calibration, id_type, oversampling, model, embedding, given)
        self._check_writable()
        with operation(), self.store.wrap_errors(f"cannot create collection {name!r}"):
            return self._opened(await self.store.create(new))

    async def collection(self, name: str, *, calibration: Calibration | None = None) -> AsyncCollection:
        """Open a collection. Raise CollectionError, which lists the existing ones, where it is missing.

        With `calibration` a Qdrant collection that qvec did not make is opened for reading: its vectors count as x -
        threshold of that calibration (or as x where its threshold is zero). The calibration of a collection that qvec
        made has to be equal.
        """
        with self._reading():
            stored = await self.store.open(name, calibration)
        if calibration is not None and stored.calibration != calibration:
            raise CollectionError(
                f"collection {name!r} has calibration {stored.calibration.id}, not {calibration.id}; codes of two "
                "calibrations do not compare"
            )
        return self._opened(stored)

    async def has_collection(self, name: str) -> bool:
        """Return whether a collection of this name exists."""
        with self._reading():
            return await self.store.has(name)

    async def collections(self) -> list[AsyncCollection]:
        """Return all collections that qvec made, by name."""
        with self._reading():
            return [self._opened(stored) for stored in await self.store.all()]

    async def drop_collection(self, name: str) -> None:
        """Drop a collection with all its rows; on Postgres its calibration goes with the last collection that uses
        it."""
        self._check_writable()
        with operation(), self.store.wrap_errors(f"cannot drop collection {name!r}"):
            await self.store.drop(name)

    async def install(self) -> str | None:
        """Install what is missing of pgvector and the schema qvec (on Qdrant nothing); return a warning, if any."""
        self._check_writable()
        with operation(), self.store.wrap_errors(f"cannot prepare {self.name}"):
            return await self.store.install()

    def wrap_errors(self, doing: str) -> AbstractContextManager[None]:
        """Raise DatabaseError for what the driver raises inside: what was done, why it failed, what to do."""
        return self.store.wrap_errors(doing)

    async def close(self) -> None:
        """Close the connections. The embedded Postgres stops with the last process that uses it."""
        await self.store.close()

    async def __aenter__(self) -> AsyncDatabase:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    def _opened(self, stored: AsyncStoreCollection) -> AsyncCollection:
        return AsyncCollection(self.store, stored, self._embedders)

    def _check_writable(self) -> None:
        self.store.check_open()
        self.store.options.check_writable(self.name)

    def _reading(self) -> AbstractContextManager[None]:
        self.store.check_open()
        return self.store.wrap_errors(f"cannot read the collections of {self.name}")


async def connect_async(
    url: str = DEFAULT_URL,
    *,
    create: bool = True,
    pool_size: int = 8,
    timeout: float = 30,
    statement_timeout: float | None = None,
    read_only: bool = False,
) -> AsyncDatabase:
    """Open a database: embedded Postgres or Qdrant in a directory (`postgres:DIR`, `qdrant:DIR`), or a server
    (`postgresql://…`, `qdrant://HOST:6334`, `qdrants://HOST:6334` with TLS).

    Without `create` a missing embedded database is an error. `pool_size` limits the open connections to Postgres, and
    so the searches that run at once; others wait for a connection, at most `timeout` seconds. `statement_timeout`
    limits the seconds of a statement, or of a request to a Qdrant server (60 by default); loads and index builds are
    not limited. `read_only` refuses methods that write, and lets Postgres refuse such statements.

    Raise DatabaseError where the database cannot be reached, InputError for another kind of URL or an impossible
    option, MissingExtraError where the embedded engine is not installed.
    """
    options = ConnectOptions(pool_size, timeout, statement_timeout, read_only)
    directory = usable_directory(url, create and not read_only)
    return AsyncDatabase(await _open_store(url, directory, options))


async def _open_store(url: str, directory: str | None, options: ConnectOptions) -> AsyncStore:
    """Open the store of a URL, and import no other."""
    if url.startswith("qdrant"):
        from qvec.qdrant._async.store import AsyncQdrantStore

        if directory is None:
            return await AsyncQdrantStore.on_server(url, options)
        return await AsyncQdrantStore.in_directory(directory, options)
    from qvec.postgres import embedded
    from qvec.postgres._async.store import AsyncPostgresStore

    if directory is None:
        return await AsyncPostgresStore.connect(url, options=options)
    join = partial(embedded.start, directory)
    started = await in_thread_async(join)
    return await AsyncPostgresStore.connect(started, name=url, embedded=True, options=options, join=join)
