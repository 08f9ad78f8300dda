"""The collections of a Qdrant database: found, created, dropped."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import NamedTuple

from qvec.calibration import Calibration
from qvec.connecting import ConnectOptions
from qvec.errors import CollectionError, InputError
from qvec.qdrant import versioning
from qvec.qdrant.description import Description, Foreign
from qvec.qdrant.engine import Engine
from qvec.qdrant.errors import explained
from qvec.qdrant.home import Home
from qvec.qdrant.layout import Layout, Sharding
from qvec.qdrant.steps import Steps
from qvec.retrieval.embedders import Embedders
from qvec.stores import check_name, check_oversampling


class Opened(NamedTuple):
    """What is read of a collection when it is opened."""

    name: str
    description: Description
    foreign: Foreign | None = None
    points: str | None = None
    """The engine's collection that has its points, where that is not of its name."""
    turn: int = 0
    """How often it was exchanged for another version."""


class Catalog:
    """The part of a database that is the same whether its methods wait or are awaited."""

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

    def __init__(
        self, home: Home, name: str, options: ConnectOptions, *, embedded: bool, warning: str | None = None
    ) -> None:
        """`name` stands for the database in messages."""
        self.name = name
        self.embedded = embedded
        self.options = options
        self.home = home
        self.embedders = Embedders()
        self._warning = warning
        self._closed = threading.Event()

    def explained(self, doing: str) -> AbstractContextManager[None]:
        """Raises DatabaseError for what the client raises inside: what was being done, why it failed, what to do."""
        return explained(doing)

    def check_writable(self) -> None:
        """Raises DatabaseError where the database is opened to be read, InputError where it is closed."""
        self._check_open()
        self.options.check_writable(self.name)

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise InputError(f"{self.name} is closed; connect again")

    @property
    def _reading(self) -> str:
        """What is being done while collections are looked for, for messages."""
        return f"cannot read the collections of {self.name}"

    def engine(self, name: str, layout: Layout, sharding: Sharding) -> Engine:
        """The engine that holds a collection's points. Raises CollectionError when it was dropped."""
        self._check_open()
        return self.home.engine(name, layout, sharding)

    def opened(self, name: str) -> Steps[Opened | None]:
        """A collection's version in use; None when there is none, or qvec did not make it."""
        self._check_open()
        record = yield from self.home.read_versions(name)
        points = yield from versioning.points_of(self.home, name, record)
        found = None if points is None else (yield from self.home.describe(points))
        return None if found is None else Opened(name, found, None, points, versioning.turn_of(record))

    def _creating(self, name: str, description: Description) -> Steps[Opened]:
        check_name(name)
        check_oversampling(description.oversampling)
        if self.embedded and description.sharding != Sharding():
            raise InputError(f"{self.name} is one shard in one process; shards and replicas are for a server")
        self.check_writable()
        return self._create(name, description)

    def _create(self, name: str, description: Description) -> Steps[Opened]:
        if (yield from self._has(name)):
            raise CollectionError(f"collection {name!r} exists already")
        yield from self.home.create(name, description)
        return (yield from self.find(name))

    def find(self, name: str, calibration: Calibration | None = None) -> Steps[Opened]:
        """A collection as it is opened. Raises CollectionError, listing those there are, when it is missing."""
        found = yield from self.opened(name)
        if found is None:
            return (yield from self._find_foreign(name, calibration))
        own = found.description.calibration
        if calibration is not None and calibration != own:
            raise CollectionError(
                f"collection {name!r} has calibration {own.id}, not {calibration.id}; codes of two calibrations do not "
                "compare"
            )
        return found

    def _find_foreign(self, name: str, calibration: Calibration | None) -> Steps[Opened]:
        found = yield from self.home.foreign(name)
        if found is None or (yield from self.home.describe(name)) is not None:  # a version in use, by its own name
            raise self._missing(name, (yield from versioning.names(self.home)))
        if calibration is None:
            raise CollectionError(
                f"collection {name!r} was not made by qvec and has no calibration; give the one of its vectors"
            )
        return Opened(name, found.described(name, calibration), found)

    def _missing(self, name: str, names: list[str]) -> CollectionError:
        return CollectionError(f"no collection {name!r} in {self.name}; there are: {', '.join(names) or 'none'}")

    def _has(self, name: str) -> Steps[bool]:
        return (yield from self.opened(name)) is not None

    def _all(self) -> Steps[list[Opened]]:
        found = []
        for name in (yield from versioning.names(self.home)):
            found.append((yield from self.find(name)))
        return found

    def _drop(self, name: str) -> Steps[None]:
        names = yield from versioning.names(self.home)
        if name not in names:
            raise self._missing(name, names)
        yield from versioning.drop(self.home, name)
