"""A Qdrant database: a directory of the embedded engine, or a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from qvec.calibration import Calibration
from qvec.connecting import ConnectOptions
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.loading import Checkpoint, OnDuplicate
from qvec.qdrant.address import Address
from qvec.qdrant.catalog import Catalog
from qvec.qdrant.clients import ServerClient
from qvec.qdrant.collection import QdrantCollection
from qvec.qdrant.description import Description
from qvec.qdrant.directory import Directory
from qvec.qdrant.errors import explained
from qvec.qdrant.home import Home
from qvec.qdrant.layout import IdType, Layout, Prefilter, QueryEncoding, Rescore, Sharding
from qvec.qdrant.loader import QdrantLoader
from qvec.qdrant.remote import Server
from qvec.qdrant.starts import checkpoint_of
from qvec.qdrant.steps import Ask, Steps, perform
from qvec.qdrant.versions import QdrantVersions

T = TypeVar("T")


class QdrantDatabase(Catalog):
    """Collections in Qdrant. Safe across threads."""

    def __init__(
        self,
        home: Home,
        name: str,
        options: ConnectOptions,
        *,
        client: ServerClient | None = None,
        warning: str | None = None,
    ) -> None:
        """`name` stands for the database in messages. Use `in_directory` or `on_server`."""
        super().__init__(home, name, options, embedded=client is None, warning=warning)
        self._client = client

    @classmethod
    def in_directory(cls, directory: str, options: ConnectOptions | None = None) -> QdrantDatabase:
        """Opens the embedded engine in a directory, made where it is missing.

        Raises DatabaseError when another process has it open, MissingExtraError when the engine is not installed.
        """
        return cls(Directory.open(Path(directory)), f"qdrant:{directory}", options or ConnectOptions())

    @classmethod
    def on_server(cls, url: str, options: ConnectOptions | None = None) -> QdrantDatabase:
        """Connects to qdrant://HOST:PORT, or qdrants:// with TLS; the API key comes from QVEC_QDRANT_API_KEY.

        Raises DatabaseError when the server cannot be reached or refuses the key, InputError for another URL.
        """
        options = options or ConnectOptions()
        address = Address.parse(url).limited(options.statement_timeout)
        server, client = Server(address), ServerClient(address)
        try:
            with explained(f"cannot connect to {server.name}"):
                perform(server.check(), client.send)
        except BaseException:
            client.close()
            raise
        return cls(server, server.name, options, client=client, warning=server.warning)

    def run(self, steps: Steps[T]) -> T:
        """Does what steps ask for. Raises InputError when the database is closed."""
        self._check_open()
        return perform(steps, self._send)

    def _send(self, ask: Ask) -> Any:
        assert self._client is not None
        return self._client.send(ask)

    def break_off(self) -> None:
        """Ends every request that is under way; the embedded engine ends what it is at by itself."""
        if self._client is not None:
            self._client.break_off()

    def close(self) -> None:
        """Lets the directory or the connection go; a second time does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self.home.close()
            if self._client is not None:
                self._client.close()

    def __enter__(self) -> QdrantDatabase:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def create_collection(
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
    ) -> QdrantCollection:
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
            return QdrantCollection(self, *self.run(self._creating(name, description)))

    def collection(self, name: str, *, calibration: Calibration | None = None) -> QdrantCollection:
        """An existing collection. Raises CollectionError, listing those there are, when it is missing.

        With `calibration` one that qvec did not make is opened, to be read: its vectors are taken for x - threshold of
        that calibration (or for x, where its threshold is zero). Of one that qvec made it has to be the same.
        """
        with explained(self._reading):
            return QdrantCollection(self, *self.run(self.find(name, calibration)))

    def has_collection(self, name: str) -> bool:
        """Whether there is a collection of this name."""
        with explained(self._reading):
            return self.run(self._has(name))

    def collections(self) -> list[QdrantCollection]:
        """All collections that qvec made, by name."""
        with explained(self._reading):
            return [QdrantCollection(self, *found) for found in self.run(self._all())]

    def drop_collection(self, name: str) -> None:
        """Drops a collection with all its rows, also one whose description is damaged."""
        self.check_writable()
        with explained(f"cannot drop collection {name!r}"):
            self.run(self._drop(name))

    def install(self) -> str | None:
        """Nothing has to be installed; returns what a user should know, if anything."""
        return self._warning

    def versions(self, collection: str) -> QdrantVersions:
        """The versions of a collection, by two calibrations."""
        return QdrantVersions(self, collection)

    def loads(self, collection: str) -> dict[str, Checkpoint]:
        """How far sources were loaded into a collection, by their locations."""
        with explained(f"cannot read the loads of collection {collection!r}"):
            found = self.run(self.home.read_loads(collection))
        return {source: checkpoint_of(load) for source, load in found.items()}

    def loader(self, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> QdrantLoader:
        """A load of one source into a collection that may not be there yet."""
        self.check_writable()
        return QdrantLoader(self, collection, source, on_duplicate, 1 if self.embedded else workers)
