"""The collection behind a framework's store: opened when first used, created for its first vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike

from qvec.arrays import as_vectors
from qvec.calibration import Calibration, Metric
from qvec.client import Collection, Database, connect
from qvec.errors import CollectionError
from qvec.forking import Lock
from qvec.integrations.first_calibration import first_calibration
from qvec.model_folder import find_calibration


class LazyCollection:
    """A collection given by its database and its name. Thread-safe."""

    def __init__(
        self,
        db: str | Database | Callable[[], str],
        name: str,
        *,
        calibration: Calibration | str | None = None,
        metric: Metric = "cosine",
        model: str | None = None,
        **settings: Any,
    ) -> None:
        """`db` is an open database, which stays open, or a URL or a function that returns one: the URL is opened on
        first use and closed by `close`.

        The other arguments apply when the collection is created: its calibration is `calibration` (or the one in that
        file), or the one in the folder `model`, or one fitted to the first vectors; `settings` are arguments of
        `Database.create_collection`. An existing collection must have the same calibration and settings.
        """
        self.name = name
        self._db: str | Database | Callable[[], str] | None = db
        self._calibration = calibration
        self._metric: Metric = metric
        self._model = model
        self._settings = {"id_type": "text", **settings}
        self._opened: Database | None = None
        self._collection: Collection | None = None
        self._lock = Lock()

    @classmethod
    def from_open(cls, collection: Collection) -> LazyCollection:
        """Wrap an open collection; its database is closed by whoever opened it."""
        lazy = cls("", collection.name)
        lazy._db = None
        lazy._collection = collection
        return lazy

    def get(self) -> Collection | None:
        """Return the collection, or None if it does not exist.

        If an earlier call found the collection dropped, look it up again. Raise CollectionError if the existing
        collection has another calibration or other settings.
        """
        with self._lock:
            if self._collection is not None and self._collection.was_dropped and self._db is not None:
                self._collection = None
            if self._collection is None and self._database.has_collection(self.name):
                self._collection = self._checked(self._database.collection(self.name))
            return self._collection

    def get_or_create(self, vectors: ArrayLike) -> Collection:
        """Return the collection; if it does not exist, create it for these vectors (n, d), without writing them."""
        with self._lock:
            return self.get() or self._create(vectors)

    def close(self) -> None:
        """Close the database if it was given by its URL; the next use opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = self._collection = None

    @property
    def _database(self) -> Database:
        if isinstance(self._db, Database):
            return self._db
        if self._opened is None:
            assert self._db is not None
            self._opened = connect(self._db() if callable(self._db) else self._db)
        return self._opened

    def _given_calibration(self) -> Calibration | None:
        if isinstance(self._calibration, str):
            self._calibration = Calibration.load(self._calibration)
        return self._calibration

    def _create(self, vectors: ArrayLike) -> Collection:
        calibration = self._given_calibration() or find_calibration(self._model)
        if calibration is None:
            rescore = self._settings.get("rescore")
            calibration = first_calibration(as_vectors(vectors, "vectors"), self._metric, self._model, rescore)
        try:
            self._database.create_collection(self.name, calibration=calibration, model=self._model, **self._settings)
        except CollectionError:  # another process may have created it meanwhile
            if not self._database.has_collection(self.name):
                raise
        created = self.get()
        if created is None:
            raise CollectionError(f"collection {self.name!r} was dropped while it was being created; create it again")
        return created

    def _checked(self, collection: Collection) -> Collection:
        given = self._given_calibration()
        if given is not None and given != collection.calibration:
            raise CollectionError(
                f"collection {self.name!r} has calibration {collection.calibration.id}, not {given.id}; "
                "omit calibration, or choose another name"
            )
        actual = {"id_type": collection.id_type, **collection.settings}
        for setting, wanted in self._settings.items():
            if setting != "id_type" and actual.get(setting) != wanted:
                raise CollectionError(
                    f"collection {self.name!r} was created with {setting} {actual.get(setting)!r}, not {wanted!r}; "
                    "omit it, or choose another name"
                )
        return collection
