"""Copying a collection between databases: its stored rows are the source of a load."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from qvec.client import Collection, Database
from qvec.embedding.embedding_options import stored_embedding
from qvec.errors import InputError
from qvec.ingest import LoadOptions
from qvec.sources import Batch, Source

_SAME_PRECISION = {
    "Postgres": {"turbo16": "float16", "turbo8": "float16"},
    "Qdrant": {"int10": "float16", "int8": "float16", "int4": "float16"},
}
"""By the kind of the target: the precision that keeps everything of one that the target lacks."""


class CollectionSource(Source):
    """The rows of a collection in the order of their ids; vectors are not normalized again, codes do not change."""

    has_text = True

    def __init__(self, database: Database, collection: Collection) -> None:
        super().__init__(collection.name, f"{database.name}#{collection.name}", ())
        self.rows = collection.count()
        self.dimensions = collection.calibration.dimensions
        self.id_type = collection.id_type
        self.form = collection.form
        self._collection = collection

    def fingerprint(self) -> str:
        """Return a fingerprint of the number of rows, so that an interrupted copy does not resume in the wrong
        place."""
        described = f"{self.path} {self._collection.calibration.id} {self.rows}"
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def where(self, row: int) -> str:
        return f"collection {self.name!r}, row {row}"

    def _batches(self, start: int, batch_rows: int) -> Iterator[Batch]:
        for found in self._collection.iter_rows(start, batch_rows):
            stop = start + len(found.vectors)
            rows = np.arange(start, stop, dtype=np.int64)
            yield Batch(start, stop, rows, found.ids, found.vectors, found.documents, found.metadata, ())
            start = stop


def copy_options(source: Database, target: Database, collection: Collection, name: str, **options: Any) -> LoadOptions:
    """Return the load options that copy a collection: the same calibration, model and oversampling, the precision that
    keeps everything, and between databases of one kind the prefilter, unless `settings` say otherwise. An existing
    collection keeps its own.
    """
    given = options.pop("settings", {})
    rescore = collection.settings["rescore"]
    kept = {"rescore": _SAME_PRECISION[target.kind].get(rescore, rescore), "oversampling": collection.oversampling}
    if source.kind == target.kind and "rescore" not in given:
        kept["prefilter"] = collection.settings["prefilter"]
    if "shard_key_field" in target.store.settings and not target.store.embedded and "shard_key" not in given:
        kept["shard_key_field"] = collection.settings.get("shard_key_field")
    settings = given if target.has_collection(name) else {**kept, **given}
    embedding = stored_embedding(collection)
    return LoadOptions(name, calibration=collection.calibration, model=embedding, settings=settings, **options)


def check_target(source: Database, target: Database, collection: str, name: str) -> None:
    """Raise InputError where a collection would be copied onto itself."""
    if source.name == target.name and collection == name:
        raise InputError(f"collection {collection!r} of {source.name} would be copied onto itself; give it a new name")
