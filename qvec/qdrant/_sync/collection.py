# Generated from qvec/qdrant/_async/collection.py by tools/async_to_sync.py: edit that file, then run `make sync`.
"""A collection in Qdrant across recalibrations: each call is served by a view of one version alone.

Reads use the view of the active version, whose identity is checked every `LOOK_SECONDS`. Writes check it before and
after, and are repeated where the collection was switched to another version meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import version_record
from qvec.qdrant._sync.catalog import QdrantCatalog
from qvec.qdrant._sync.view import CollectionView
from qvec.qdrant.description import Fingerprint
from qvec.qdrant.errors import is_status
from qvec.qdrant.points import Points
from qvec.qdrant.version_record import ActiveVersion, VersionRecord, generation_of
from qvec.results import Explanation, Hit, Info, Progress, StoredRows
from qvec.sources import Form, IdType
from qvec.store._sync.interface import StoredCodes
from qvec.store.requests import OnDuplicate, RowColumns, RowFilter, SearchRequest, TextRequest
from qvec.waiting import sleep

T = TypeVar("T")

_SWITCH_SECONDS = 60.0
"""How long a write waits for a switch of versions."""
_POLL_SECONDS = 0.1


class QdrantCollection:
    """See `AsyncStoreCollection`."""

    exposes_codes = False
    form: Form = "centred"

    def __init__(self, catalog: QdrantCatalog, version: ActiveVersion) -> None:
        self.name = version.name
        self.was_dropped = False
        self.accepts_any_id = version.unmanaged is not None
        self._catalog = catalog
        self._view = CollectionView(catalog, version)
        self._looked = time.monotonic()
        self._changes = catalog.backend.changes

    def __repr__(self) -> str:
        layout = self._view.layout
        return (
            f"{type(self).__name__}({self.name!r}, dimensions={layout.dimensions}, rescore={layout.rescore!r}, "
            f"prefilter={layout.prefilter!r}, calibration={self.calibration.id!r})"
        )

    @property
    def view(self) -> CollectionView:
        """The version in use, as far as it is known."""
        return self._view

    @property
    def calibration(self) -> Calibration:
        return self._view.calibration

    @property
    def id_type(self) -> IdType:
        return self._view.layout.id_type

    @property
    def oversampling(self) -> float:
        return self._view.description.oversampling

    @property
    def model(self) -> str | None:
        return self._view.description.model

    @property
    def embedding(self) -> Mapping[str, Any] | None:
        return self._view.description.embedding

    @property
    def settings(self) -> Mapping[str, Any]:
        description = self._view.description
        settings = description.layout.settings
        return {**settings, "oversampling": description.oversampling, **vars(description.sharding)}

    @property
    def keeps_floats(self) -> bool:
        return not self._view.layout.signs_only

    # Reading

    def search(self, queries: NDArray[Any], request: SearchRequest) -> list[list[Hit]]:
        return self._read(lambda view: view.search(queries, request))

    def search_text(self, request: TextRequest) -> list[Hit]:
        return self._read(lambda view: view.search_text(request))

    def explain(self, query: NDArray[Any], request: SearchRequest) -> Explanation:
        return self._read(lambda view: view.explain(query, request))

    def get(self, ids: list[int | str]) -> list[Hit | None]:
        return self._read(lambda view: view.get(ids))

    def vectors(self, ids: list[int | str]) -> NDArray[np.float32]:
        return self._read(lambda view: view.vectors(ids))

    def scroll(self, filter: RowFilter, limit: int | None, texts: bool) -> list[Hit]:
        return self._read(lambda view: view.scroll(filter, limit, texts))

    def sample_ids(self, size: int, seed: int) -> list[int | str]:
        return self._read(lambda view: view.sample_ids(size, seed))

    def iter_rows(self, start: int, batch_rows: int) -> Generator[StoredRows, None, None]:
        """Yield rows of one version. Raise CollectionError where it was dropped meanwhile."""
        self._catalog.check_open()
        self._look()
        view = self._view
        following = view.point_at(start)
        while following is not None:
            rows, following = view.page(following, batch_rows)
            self._check_rows(view)
            if rows:
                yield rows

    def iter_codes(self, batch_rows: int) -> Generator[StoredCodes, None, None]:  # noqa: ARG002
        raise InputError(
            f"the codes of collection {self.name!r} cannot be read: Qdrant computes its own and does not expose them"
        )

    def count(self, filter: RowFilter) -> int:
        return self._read(lambda view: view.count(filter))

    def info(self) -> Info:
        return self._read(lambda view: view.info())

    def has_index(self) -> bool:
        """Return whether the graph holds all points; a search scans those that it does not hold."""
        return self._read(lambda view: view.has_index())

    # Writing

    def upsert(self, rows: RowColumns, on_duplicate: OnDuplicate) -> int:
        again: OnDuplicate = "replace" if on_duplicate == "error" else on_duplicate
        return self._write(lambda view: view.upsert(rows, on_duplicate), repeat=lambda view: view.upsert(rows, again))

    def delete(self, ids: list[int | str] | None, filter: RowFilter) -> int:
        return self._write(lambda view: view.delete(ids, filter))

    def set_oversampling(self, oversampling: float) -> None:
        """Store the oversampling. A collection that is open elsewhere keeps the value that it has read."""
        self._write(lambda view: view.set_oversampling(oversampling))
        version = self._view.version
        description = replace(version.description, oversampling=oversampling)
        self._view = CollectionView(self._catalog, replace(version, description=description))

    def build_index(self, progress: Progress) -> None:
        self._write(lambda view: view.build_index(progress))

    def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        self._write(lambda view: view.index_metadata(indexes))

    def index_texts(self, language: str) -> None:
        self._write(lambda view: view.index_texts(language))

    def encode(self, rows: RowColumns) -> Points:
        return self._view.encode(rows)

    # Version tracking

    def _read(self, work: Callable[[CollectionView], T]) -> T:
        """Read the active version; read again where it was switched and dropped meanwhile."""
        self._catalog.check_open()
        if self._must_look():
            self._look()
        view, began = self._view, time.monotonic()
        try:
            result = work(view)
            took_long = time.monotonic() - began > version_record.LOOK_SECONDS / 4
            if not took_long or self._is_kept(view):
                return result
            self._look()
        except (CollectionError, grpc.RpcError) as error:
            if isinstance(error, grpc.RpcError) and not is_status(error, grpc.StatusCode.NOT_FOUND):
                raise
            self._look()
            if self._view is view:
                raise
        return work(self._view)

    def _must_look(self) -> bool:
        """Return whether the version was checked too long ago, or before a collection was created or dropped here."""
        is_late = time.monotonic() - self._looked > version_record.LOOK_SECONDS
        return is_late or self._changes != self._catalog.backend.changes

    def _is_kept(self, view: CollectionView) -> bool:
        """Return whether the points of a version still existed when they had been read."""
        if not view.is_managed:
            return True
        record, fingerprint = self._catalog.backend.peek(self.name)
        version = view.version
        kept = version.generation == 0 if record is None else record.keeps(version.points)
        return kept and self._is_described(version, fingerprint)

    def _check_rows(self, view: CollectionView) -> None:
        if not self._is_kept(view):
            self._look()
            raise CollectionError(
                f"collection {self.name!r} was recalibrated, and its version {view.calibration.id} dropped, while its "
                "rows were read; read them again"
            )

    def _look(self) -> None:
        """Use the version that is active now.

        Raise CollectionError where the collection was dropped, and perhaps created again, since it was opened.
        """
        began, changes = time.monotonic(), self._catalog.backend.changes
        if self._view.is_managed and not self._is_current():
            self._look_closely()
        self._looked, self._changes = began, changes

    def _is_current(self) -> bool:
        """Return whether the view shows the active version, as far as one request shows."""
        version = self._view.version
        record, fingerprint = self._catalog.backend.peek(self.name)
        used = self.name if record is None else record.used
        is_active = (generation_of(record), used) == (version.generation, version.points)
        return is_active and self._is_described(version, fingerprint)

    def _is_described(self, version: ActiveVersion, fingerprint: Fingerprint | None) -> bool:
        """Return whether a version is the one described under the collection's name, if its points are there."""
        return version.points != self.name or version.description.fingerprint == fingerprint

    def _look_closely(self) -> None:
        """Use the version that is active now, by everything that is stored about the collection."""
        found = self._catalog.active_version(self.name)
        if found is not None and found.generation > self._view.version.generation:
            self._view = CollectionView(self._catalog, found)
            return
        try:
            self._view.version.check_current(found)
        except CollectionError:
            self.was_dropped = True
            raise

    def _write(
        self,
        work: Callable[[CollectionView], T],
        repeat: Callable[[CollectionView], T] | None = None,
    ) -> T:
        """Write to the active version, and to the next one where it was switched meanwhile.

        The first write may have come too late to be copied to the next version, or not.
        """
        self.check_writable()
        generation = generation_of(self.settled())
        self._look_closely()
        result = work(self._view)
        while (now := generation_of(self.settled())) != generation:
            generation = now
            self._look_closely()
            (repeat or work)(self._view)
        return result

    def check_writable(self) -> None:
        self._catalog.check_writable()
        if not self._view.is_managed:
            raise CollectionError(f"collection {self.name!r} was not made by qvec, and is only read")

    def settled(self) -> VersionRecord | None:
        """Return the version record once no switch is under way. Raise DatabaseError where it does not end."""
        began = time.monotonic()
        while (record := self._catalog.backend.read_record(self.name)) is not None and record.is_switching:
            if time.monotonic() - began > _SWITCH_SECONDS:
                raise DatabaseError(
                    f"writes to collection {self.name!r} wait for an exchange of its versions that does not end; if it "
                    "was interrupted, run the same `qvec recalibrate` again, or drop the other version: qvec "
                    f"recalibrate --collection {self.name} --drop-old"
                )
            sleep(_POLL_SECONDS)
        return record
