"""The collection that a framework's store writes to: opened when it is needed, created for its first vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import ArrayLike

from qvec.arrays import as_vectors
from qvec.calibration import Calibration, Metric
from qvec.client import connect
from qvec.errors import CollectionError
from qvec.forking import Lock
from qvec.integrations.first_calibration import calibration_for
from qvec.model_folder import find_calibration

if TYPE_CHECKING:
    from qvec.client import Collection, Database

    Collection: TypeAlias = Collection | Collection
    Database: TypeAlias = Database | Database


class Target:
    """A collection by its database and name. Safe across threads."""

    def __init__(
        self,
        db: str | Database,
        name: str,
        *,
        calibration: Calibration | None = None,
        metric: Metric = "cosine",
        model: str | None = None,
        **settings: Any,
    ) -> None:
        """`db` is a URL, opened when first needed and closed by `close`, or a database that is open and stays so.

        What follows serves the creation: without `calibration` the one that the folder `model` holds, or one made for
        the first vectors; `settings` are those of the database's `create_collection`. In a collection that is there
        already, a calibration or a setting has to be the same.
        """
        self.name = name
        self._db: str | Database | None = db
        self._calibration = calibration
        self._metric: Metric = metric
        self._model = model
        self._settings = {"id_type": "text", **settings}
        self._opened: Database | None = None
        self._collection: Collection | None = None
        self._lock = Lock()

    @classmethod
    def of(cls, collection: Collection) -> Target:
        """A collection that is open already; whoever opened its database closes it."""
        target = cls("", collection.name)
        target._db = None
        target._collection = collection
        return target

    def found(self) -> Collection | None:
        """The collection; None while it is not there. Raises CollectionError where it is another than was asked for.

        One that turned out to be dropped, which is an error of what found that, is looked for anew.
        """
        with self._lock:
            if self._collection is not None and self._collection.was_dropped and self._db is not None:
                self._collection = None
            if self._collection is None and self._database.has_collection(self.name):
                self._collection = self._checked(self._database.collection(self.name))
            return self._collection

    def for_vectors(self, vectors: ArrayLike) -> Collection:
        """The collection, created for these first vectors (n, d) where it is not there."""
        with self._lock:
            return self.found() or self._create(vectors)

    def close(self) -> None:
        """Closes the database if it was opened here."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = self._collection = None

    @property
    def _database(self) -> Database:
        assert self._db is not None
        if not isinstance(self._db, str):
            return self._db
        if self._opened is None:
            self._opened = connect(self._db)
        return self._opened

    def _create(self, vectors: ArrayLike) -> Collection:
        calibration = self._calibration or find_calibration(self._model)
        if calibration is None:
            calibration = calibration_for(
                as_vectors(vectors, "vectors"), self._metric, self._model, self._settings.get("rescore")
            )
        try:
            self._database.create_collection(self.name, calibration=calibration, model=self._model, **self._settings)
        except CollectionError:  # another process may have been first
            if not self._database.has_collection(self.name):
                raise
        found = self.found()
        if found is None:
            raise CollectionError(f"collection {self.name!r} was dropped while it was created; create it again")
        return found

    def _checked(self, collection: Collection) -> Collection:
        if self._calibration is not None and self._calibration != collection.calibration:
            raise CollectionError(
                f"collection {self.name!r} has calibration {collection.calibration.id}, not {self._calibration.id}; "
                "leave calibration out, or choose another name"
            )
        held = {"id_type": collection.id_type, **collection.settings}
        for setting, wanted in self._settings.items():
            if setting != "id_type" and held.get(setting) != wanted:
                raise CollectionError(
                    f"collection {self.name!r} was created with {setting} {held.get(setting)!r}, not {wanted!r}; leave "
                    "it out, or choose another name"
                )
        return collection
