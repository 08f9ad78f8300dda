"""Moving a collection between databases: the rows of one, as they are stored, as the source of a load of the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from qvec.embedding.options import stored_embedding
from qvec.errors import InputError
from qvec.ingest import IngestOptions
from qvec.sources import Batch, Source
from qvec.stores import Collection, Database

_SAME_PRECISION = {
    "Postgres": {"turbo16": "float16", "turbo8": "float16"},
    "Qdrant": {"int8": "float16", "int4": "float16"},
}
"""By the kind of the target, what keeps all of a precision that the target does not have."""


class CollectionSource(Source):
    """The rows of a collection in the order of their ids. No vector is normalized again, no code is changed."""

    has_text = True

    def __init__(self, database: Database, collection: Collection) -> None:
        super().__init__(collection.name, f"{database.name}#{collection.name}", ())
        self.rows = collection.count()
        self.dimensions = collection.calibration.dimensions
        self.id_type = collection.id_type
        self.form = collection.form
        self._collection = collection

    def fingerprint(self) -> str:
        """Changes with the number of rows, so that an interrupted copy does not go on in the wrong place."""
        described = f"{self.path} {self._collection.calibration.id} {self.rows}"
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def where(self, row: int) -> str:
        return f"collection {self.name!r}, row {row}"

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        for found in self._collection.stored_rows(start, batch_rows):
            stop = start + len(found.vectors)
            rows = np.arange(start, stop, dtype=np.int64)
            yield Batch(start, stop, rows, found.ids, found.vectors, found.documents, found.metadata, ())
            start = stop


def copy_options(target: Database, collection: Collection, name: str, **options: Any) -> IngestOptions:
    """The load that copies a collection: the same calibration, model and oversampling, and the precision that keeps all
    there is, unless `settings` say otherwise. A collection that is there already keeps its own.
    """
    given = options.pop("settings", {})
    rescore = collection.settings["rescore"]
    kept = {"rescore": _SAME_PRECISION[target.kind].get(rescore, rescore), "oversampling": collection.oversampling}
    settings = given if target.has_collection(name) else {**kept, **given}
    embedding = stored_embedding(collection)
    return IngestOptions(name, calibration=collection.calibration, model=embedding, settings=settings, **options)


def check_target(source: Database, target: Database, collection: str, name: str) -> None:
    """Raises InputError where a collection would be copied onto itself."""
    if source.name == target.name and collection == name:
        raise InputError(f"collection {collection!r} of {source.name} would be copied onto itself; give it a new name")
