# Generated from qvec/qdrant/_async/catalog.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""The collections of a Qdrant database by name, each with the version that is in use."""

from __future__ import annotations

from dataclasses import replace
from threading import Event

from qvec.calibration import Calibration
from qvec.errors import CollectionError, InputError
from qvec.qdrant import version_record
from qvec.qdrant._sync.backend import Backend, Engine
from qvec.qdrant.description import Description
from qvec.qdrant.version_record import ActiveVersion, VersionRecord, generation_of
from qvec.store.connect_options import ConnectOptions
from qvec.waiting import sleep


class QdrantCatalog:
    """Finds, creates and drops collections."""

    def __init__(self, backend: Backend, database: str, options: ConnectOptions) -> None:
        """`database` is the name of the database in messages."""
        self.backend = backend
        self.database = database
        self._options = options
        self._closed = Event()

    def check_open(self) -> None:
        """Raise InputError where the database is closed."""
        if self._closed.is_set():
            raise InputError(f"{self.database} is closed; connect again")

    def check_writable(self) -> None:
        """Raise InputError where the database is closed, DatabaseError where it is opened read-only."""
        self.check_open()
        self._options.check_writable(self.database)

    def close(self) -> None:
        """Close the backend; a second call does nothing."""
        if not self._closed.is_set():
            self._closed.set()
            self.backend.close()

    def engine(self, version: ActiveVersion) -> Engine:
        """Return the engine that holds a version's points. A directory raises CollectionError where it was dropped."""
        self.check_open()
        return self.backend.engine(version.points, version.description.layout, version.description.sharding)

    # Finding

    def active_version(self, name: str) -> ActiveVersion | None:
        """Return a collection's version in use; None where there is none, or qvec did not make it."""
        self.check_open()
        record = self.backend.read_record(name)
        points = self._points_of(name, record)
        described = None if points is None else self.backend.describe(points)
        if points is None or described is None:
            return None
        return ActiveVersion(name, described, points, generation_of(record))

    def _points_of(self, name: str, record: VersionRecord | None) -> str | None:
        """Return the engine's collection with the points of a collection, whose record this is, or of a version.

        Return None for the name of a version that is in use: that has its collection's name.
        """
        if record is not None:
            return record.used
        head, of_head = self._collection_of_version(name)
        if of_head is not None and of_head.other_name(head) == name:
            return of_head.other
        return None if of_head is not None and of_head.used == name else name

    def _collection_of_version(self, name: str) -> tuple[str, VersionRecord | None]:
        """Split the name of a version: return its collection's name and version record."""
        head, is_version, _ = name.rpartition("@")
        return head, self.backend.read_record(head) if is_version else None

    def find(self, name: str, calibration: Calibration | None = None) -> ActiveVersion:
        """Return a collection's version in use, with `calibration` also of a collection that qvec did not make.

        Raise CollectionError, which lists the existing collections, where it is missing.
        """
        found = self.active_version(name)
        if found is None:
            return self._find_unmanaged(name, calibration)
        own = found.description.calibration
        if calibration is not None and calibration != own:
            raise CollectionError(
                f"collection {name!r} has calibration {own.id}, not {calibration.id}; codes of two calibrations do not "
                "compare"
            )
        return found

    def _find_unmanaged(self, name: str, calibration: Calibration | None) -> ActiveVersion:
        found = self.backend.unmanaged(name)
        # What is described is the version in use of a collection, by its own name.
        if found is None or self.backend.describe(name) is not None:
            raise self._missing(name, self.names())
        if calibration is None:
            raise CollectionError(
                f"collection {name!r} was not made by qvec and has no calibration; give the one of its vectors"
            )
        return ActiveVersion(name, found.described(name, calibration), name, unmanaged=found)

    def _missing(self, name: str, names: list[str]) -> CollectionError:
        return CollectionError(f"no collection {name!r} in {self.database}; there are: {', '.join(names) or 'none'}")

    def names(self) -> list[str]:
        """Return the names of collections and of their other versions, in order."""
        stored = self.backend.names()
        found = set(stored)
        for name in stored:
            record = self.backend.read_record(name)
            if record is not None:
                found -= {record.used, record.other}
                found.add(name)
                found |= {other for other in [record.other_name(name)] if other and record.other in stored}
        return sorted(found)

    # Creating and dropping

    def create(self, name: str, description: Description) -> ActiveVersion:
        """Create a collection; log warnings about its replicas. Raise CollectionError where the name is taken."""
        if self.active_version(name) is not None:
            raise CollectionError(f"collection {name!r} exists already")
        self.backend.create(name, description)
        self.backend.warn_of_replicas(name)
        return self.find(name)

    def drop(self, name: str) -> None:
        """Drop a collection with its versions, or one version; also where its description is damaged.

        Raise CollectionError, which lists the existing collections, where it is missing.
        """
        names = self.names()
        if name not in names:
            raise self._missing(name, names)
        record = self.backend.read_record(name)
        if record is None:
            head, of_head = self._collection_of_version(name)
            if of_head is not None and of_head.other_name(head) == name:
                self.drop_other(head, of_head)
                return
        stored = self.backend.names()
        for points in () if record is None else {record.used, record.other} - {name}:
            if points is not None and points in stored:
                self.backend.drop(points)
        self.backend.drop(name)

    def drop_other(self, name: str, record: VersionRecord) -> None:
        """Drop the version of the collection `name` that is not in use.

        Where it was in use once, wait first until everyone who has the collection open has looked at the version record
        since. An interrupted call can be repeated.
        """
        assert record.other is not None
        self.backend.write_record(name, replace(record, kind="dropped"))
        if record.generation:
            sleep(1.5 * version_record.LOOK_SECONDS)
        described = self.backend.describe(record.other)
        if record.other == name:
            assert described is not None
            engine = self.backend.engine(name, described.layout, described.sharding)
            engine.clear()
        elif described is not None:
            self.backend.drop(record.other)
        self.backend.write_record(name, replace(record, other=None, calibration="", is_switching=False))
