"""A Qdrant database: a directory of the embedded engine, or a server."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from qvec.calibration import Calibration
from qvec.errors import CollectionError, InputError
from qvec.loading import OnDuplicate
from qvec.qdrant.address import Address
from qvec.qdrant.collection import QdrantCollection
from qvec.qdrant.description import Description, Foreign
from qvec.qdrant.directory import Directory
from qvec.qdrant.engine import Engine
from qvec.qdrant.errors import explained
from qvec.qdrant.layout import IdType, Layout, Prefilter, QueryEncoding, Rescore, Sharding
from qvec.qdrant.loader import QdrantLoader
from qvec.qdrant.remote import Server
from qvec.retrieval.embedders import Embedders
from qvec.stores import check_name, check_oversampling


class Home(Protocol):
    """Where collections, their descriptions and the state of their loads are kept."""

    def names(self) -> list[str]: ...

    def describe(self, name: str) -> Description | None: ...

    def create(self, name: str, description: Description) -> None: ...

    def describe_anew(self, name: str, description: Description) -> None: ...

    def foreign(self, name: str) -> Foreign | None: ...

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> Engine: ...

    def drop(self, name: str) -> None: ...

    def read_loads(self, name: str) -> dict[str, Any]: ...

    def read_load(self, name: str, source: str) -> dict[str, Any] | None: ...

    def write_load(self, name: str, source: str, load: dict[str, Any] | None) -> None: ...

    def break_off(self) -> None: ...

    def loading(self, name: str, source: str) -> AbstractContextManager[None]: ...

    def starting(self, name: str) -> AbstractContextManager[None]: ...

    def close(self) -> None: ...


class QdrantDatabase:
    """Collections in Qdrant. Safe across threads."""

    kind = "Qdrant"
    metadata_indexes_first = True
    settings = frozenset(
        {
            "rescore",
            "prefilter",
            "query_encoding",
            "oversampling",
            "shards",
            "replication_factor",
            "write_consistency_factor",
            "shard_key",
        }
    )

    def __init__(self, home: Home, name: str, *, embedded: bool, warning: str | None = None) -> None:
        """`name` stands for the database in messages. Use `in_directory` or `on_server`."""
        self.name = name
        self.embedded = embedded
        self.home = home
        self.embedders = Embedders()
        self._warning = warning
        self._closed = threading.Event()

    @classmethod
    def in_directory(cls, directory: str) -> QdrantDatabase:
        """Opens the embedded engine in a directory, made where it is missing.

        Raises DatabaseError when another process has it open, MissingExtraError when the engine is not installed.
        """
        return cls(Directory.open(Path(directory)), f"qdrant:{directory}", embedded=True)

    @classmethod
    def on_server(cls, url: str) -> QdrantDatabase:
        """Connects to qdrant://HOST:PORT, or qdrants:// with TLS; the API key comes from QVEC_QDRANT_API_KEY.

        Raises DatabaseError when the server cannot be reached or refuses the key, InputError for another URL.
        """
        server = Server(Address.parse(url))
        return cls(server, server.name, embedded=False, warning=server.warning)

    def close(self) -> None:
        """Lets the directory or the connection go; a second time does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self.home.close()

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
        oversampling: float = 4,
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
        check_name(name)
        check_oversampling(oversampling)
        if self.embedded and sharding != Sharding():
            raise InputError(f"{self.name} is one shard in one process; shards and replicas are for a server")
        self._check_open()
        with explained(f"cannot create collection {name!r}"):
            if self.has_collection(name):
                raise CollectionError(f"collection {name!r} exists already")
            self.home.create(name, Description(calibration, layout, oversampling, model, sharding, embedding))
        return self.collection(name)

    def collection(self, name: str, *, calibration: Calibration | None = None) -> QdrantCollection:
        """An existing collection. Raises CollectionError, listing those there are, when it is missing.

        With `calibration` one that qvec did not make is opened, to be read: its vectors are taken for x - threshold of
        that calibration (or for x, where its threshold is zero). Of one that qvec made it has to be the same.
        """
        self._check_open()
        with explained(f"cannot read the collections of {self.name}"):
            found = self.home.describe(name)
            if found is None:
                return self._foreign(name, calibration)
        if calibration is not None and calibration != found.calibration:
            raise CollectionError(
                f"collection {name!r} has calibration {found.calibration.id}, not {calibration.id}; codes of two "
                "calibrations do not compare"
            )
        return QdrantCollection(self, name, found)

    def _foreign(self, name: str, calibration: Calibration | None) -> QdrantCollection:
        found = self.home.foreign(name)
        if found is None:
            raise self._missing(name)
        if calibration is None:
            raise CollectionError(
                f"collection {name!r} was not made by qvec and has no calibration; give the one of its vectors"
            )
        return QdrantCollection(self, name, found.described(name, calibration), foreign=found)

    def _missing(self, name: str) -> CollectionError:
        names = ", ".join(self.home.names()) or "none"
        return CollectionError(f"no collection {name!r} in {self.name}; there are: {names}")

    def has_collection(self, name: str) -> bool:
        self._check_open()
        with explained(f"cannot read the collections of {self.name}"):
            return self.home.describe(name) is not None

    def collections(self) -> list[QdrantCollection]:
        """All collections that qvec made, by name."""
        self._check_open()
        with explained(f"cannot read the collections of {self.name}"):
            names = self.home.names()
        return [self.collection(name) for name in names]

    def drop_collection(self, name: str) -> None:
        """Drops a collection with all its rows, also one whose description is damaged."""
        self._check_open()
        with explained(f"cannot drop collection {name!r}"):
            if name not in self.home.names():
                raise self._missing(name)
            self.home.drop(name)

    def describe(self, name: str) -> Description | None:
        """What is written down of a collection; None when there is none, or qvec did not make it."""
        self._check_open()
        return self.home.describe(name)

    def engine(self, collection: QdrantCollection) -> Engine:
        """The engine that holds a collection's points. Raises CollectionError when it was dropped."""
        self._check_open()
        return self.home.engine(collection.name, collection.layout, collection.sharding)

    def install(self) -> str | None:
        """Nothing has to be installed; returns what a user should know, if anything."""
        return self._warning

    def loader(self, collection: str, source: str, on_duplicate: OnDuplicate, workers: int) -> QdrantLoader:
        """A load of one source into a collection that may not be there yet."""
        return QdrantLoader(self, collection, source, on_duplicate, 1 if self.embedded else workers)

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Raises DatabaseError for what the client raises inside: what was being done, why it failed, what to do."""
        return explained(doing)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise InputError(f"{self.name} is closed; connect again")
