"""A collection in Qdrant across recalibrations: each call is served by a view of one version alone.

Reads use the view of the active version, whose identity is checked every `LOOK_SECONDS`. Writes check it before and
after, and are repeated where the collection was switched to another version meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import version_record
from qvec.qdrant._async.catalog import AsyncQdrantCatalog
from qvec.qdrant._async.view import AsyncCollectionView
from qvec.qdrant.description import Fingerprint
from qvec.qdrant.errors import is_status
from qvec.qdrant.points import Points
from qvec.qdrant.version_record import ActiveVersion, VersionRecord, generation_of
from qvec.results import Explanation, Hit, Info, Progress, StoredRows
from qvec.sources import Form, IdType
from qvec.store._async.interface import StoredCodes
from qvec.store.requests import OnDuplicate, RowColumns, RowFilter, SearchRequest, TextRequest
from qvec.waiting import sleep_async

T = TypeVar("T")

_SWITCH_SECONDS = 60.0
"""How long a write waits for a switch of versions."""
_POLL_SECONDS = 0.1


class AsyncQdrantCollection:
    """See `AsyncStoreCollection`."""

    exposes_codes = False
    form: Form = "centred"

    def __init__(self, catalog: AsyncQdrantCatalog, version: ActiveVersion) -> None:
        self.name = version.name
        self.was_dropped = False
        self.accepts_any_id = version.unmanaged is not None
        self._catalog = catalog
        self._view = AsyncCollectionView(catalog, version)
        self._looked = time.monotonic()
        self._changes = catalog.backend.changes

    def __repr__(self) -> str:
        layout = self._view.layout
        return (
            f"{type(self).__name__}({self.name!r}, dimensions={layout.dimensions}, rescore={layout.rescore!r}, "
            f"prefilter={layout.prefilter!r}, calibration={self.calibration.id!r})"
        )

    @property
    def view(self) -> AsyncCollectionView:
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

    async def search(self, queries: NDArray[Any], request: SearchRequest) -> list[list[Hit]]:
        return await self._read(lambda view: view.search(queries, request))

    async def search_text(self, request: TextRequest) -> list[Hit]:
        return await self._read(lambda view: view.search_text(request))

    async def explain(self, query: NDArray[Any], request: SearchRequest) -> Explanation:
        return await self._read(lambda view: view.explain(query, request))

    async def get(self, ids: list[int | str]) -> list[Hit | None]:
        return await self._read(lambda view: view.get(ids))

    async def vectors(self, ids: list[int | str]) -> NDArray[np.float32]:
        return await self._read(lambda view: view.vectors(ids))

    async def scroll(self, filter: RowFilter, limit: int | None, texts: bool) -> list[Hit]:
        return await self._read(lambda view: view.scroll(filter, limit, texts))

    async def sample_ids(self, size: int, seed: int) -> list[int | str]:
        return await self._read(lambda view: view.sample_ids(size, seed))

    async def iter_rows(self, start: int, batch_rows: int) -> AsyncGenerator[StoredRows, None]:
        """Yield rows of one version. Raise CollectionError where it was dropped meanwhile."""
        self._catalog.check_open()
        await self._look()
        view = self._view
        following = await view.point_at(start)
        while following is not None:
            rows, following = await view.page(following, batch_rows)
            await self._check_rows(view)
            if rows:
                yield rows

    def iter_codes(self, batch_rows: int) -> AsyncGenerator[StoredCodes, None]:  # noqa: ARG002
        raise InputError(
            f"the codes of collection {self.name!r} cannot be read: Qdrant computes its own and does not expose them"
        )

    async def count(self, filter: RowFilter) -> int:
        return await self._read(lambda view: view.count(filter))

    async def info(self) -> Info:
        return await self._read(lambda view: view.info())

    async def has_index(self) -> bool:
        """Return whether the graph holds all points; a search scans those that it does not hold."""
        return await self._read(lambda view: view.has_index())

    # Writing

    async def upsert(self, rows: RowColumns, on_duplicate: OnDuplicate) -> int:
        again: OnDuplicate = "replace" if on_duplicate == "error" else on_duplicate
        return await self._write(
            lambda view: view.upsert(rows, on_duplicate), repeat=lambda view: view.upsert(rows, again)
        )

    async def delete(self, ids: list[int | str] | None, filter: RowFilter) -> int:
        return await self._write(lambda view: view.delete(ids, filter))

    async def set_oversampling(self, oversampling: float) -> None:
        """Store the oversampling. A collection that is open elsewhere keeps the value that it has read."""
        await self._write(lambda view: view.set_oversampling(oversampling))
        version = self._view.version
        description = replace(version.description, oversampling=oversampling)
        self._view = AsyncCollectionView(self._catalog, replace(version, description=description))

    async def build_index(self, progress: Progress) -> None:
        await self._write(lambda view: view.build_index(progress))

    async def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        await self._write(lambda view: view.index_metadata(indexes))

    async def index_texts(self, language: str) -> None:
        await self._write(lambda view: view.index_texts(language))

    def encode(self, rows: RowColumns) -> Points:
        return self._view.encode(rows)

    # Version tracking

    async def _read(self, work: Callable[[AsyncCollectionView], Awaitable[T]]) -> T:
        """Read the active version; read again where it was switched and dropped meanwhile."""
        self._catalog.check_open()
        if self._must_look():
            await self._look()
        view, began = self._view, time.monotonic()
        try:
            result = await work(view)
            took_long = time.monotonic() - began > version_record.LOOK_SECONDS / 4
            if not took_long or await self._is_kept(view):
                return result
            await self._look()
        except (CollectionError, grpc.RpcError) as error:
            if isinstance(error, grpc.RpcError) and not is_status(error, grpc.StatusCode.NOT_FOUND):
                raise
            await self._look()
            if self._view is view:
                raise
        return await work(self._view)

    def _must_look(self) -> bool:
        """Return whether the version was checked too long ago, or before a collection was created or dropped here."""
        is_late = time.monotonic() - self._looked > version_record.LOOK_SECONDS
        return is_late or self._changes != self._catalog.backend.changes

    async def _is_kept(self, view: AsyncCollectionView) -> bool:
        """Return whether the points of a version still existed when they had been read."""
        if not view.is_managed:
            return True
        record, fingerprint = await self._catalog.backend.peek(self.name)
        version = view.version
        kept = version.generation == 0 if record is None else record.keeps(version.points)
        return kept and self._is_described(version, fingerprint)

    async def _check_rows(self, view: AsyncCollectionView) -> None:
        if not await self._is_kept(view):
            await self._look()
            raise CollectionError(
                f"collection {self.name!r} was recalibrated, and its version {view.calibration.id} dropped, while its "
                "rows were read; read them again"
            )

    async def _look(self) -> None:
        """Use the version that is active now.

        Raise CollectionError where the collection was dropped, and perhaps created again, since it was opened.
        """
        began, changes = time.monotonic(), self._catalog.backend.changes
        if self._view.is_managed and not await self._is_current():
            await self._look_closely()
        self._looked, self._changes = began, changes

    async def _is_current(self) -> bool:
        """Return whether the view shows the active version, as far as one request shows."""
        version = self._view.version
        record, fingerprint = await self._catalog.backend.peek(self.name)
        used = self.name if record is None else record.used
        is_active = (generation_of(record), used) == (version.generation, version.points)
        return is_active and self._is_described(version, fingerprint)

    def _is_described(self, version: ActiveVersion, fingerprint: Fingerprint | None) -> bool:
        """Return whether a version is the one described under the collection's name, if its points are there."""
        return version.points != self.name or version.description.fingerprint == fingerprint

    async def _look_closely(self) -> None:
        """Use the version that is active now, by everything that is stored about the collection."""
        found = await self._catalog.active_version(self.name)
        if found is not None and found.generation > self._view.version.generation:
            self._view = AsyncCollectionView(self._catalog, found)
            return
        try:
            self._view.version.check_current(found)
        except CollectionError:
            self.was_dropped = True
            raise

    async def _write(
        self,
        work: Callable[[AsyncCollectionView], Awaitable[T]],
        repeat: Callable[[AsyncCollectionView], Awaitable[T]] | None = None,
    ) -> T:
        """Write to the active version, and to the next one where it was switched meanwhile.

        The first write may have come too late to be copied to the next version, or not.
        """
        self.check_writable()
        generation = generation_of(await self.settled())
        await self._look_closely()
        result = await work(self._view)
        while (now := generation_of(await self.settled())) != generation:
            generation = now
            await self._look_closely()
            await (repeat or work)(self._view)
        return result

    def check_writable(self) -> None:
        self._catalog.check_writable()
        if not self._view.is_managed:
            raise CollectionError(f"collection {self.name!r} was not made by qvec, and is only read")

    async def settled(self) -> VersionRecord | None:
        """Return the version record once no switch is under way. Raise DatabaseError where it does not end."""
        began = time.monotonic()
        while (record := await self._catalog.backend.read_record(self.name)) is not None and record.is_switching:
            if time.monotonic() - began > _SWITCH_SECONDS:
                raise DatabaseError(
                    f"writes to collection {self.name!r} wait for an exchange of its versions that does not end; if it "
                    "was interrupted, run the same `qvec recalibrate` again, or drop the other version: qvec "
                    f"recalibrate --collection {self.name} --drop-old"
                )
            await sleep_async(_POLL_SECONDS)
        return record
