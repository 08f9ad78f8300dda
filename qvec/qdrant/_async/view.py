"""A view of one version of a collection: its rows are written, read and searched here.

A view never changes. What began with one version ends with it, and the version is still stored then: see `collection`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from qdrant_client import models

from qvec.arrays import metadata_array
from qvec.errors import CollectionError
from qvec.full_text import check_indexed_language, not_indexed_error
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import points, shard_keys
from qvec.qdrant._async.backend import AsyncEngine
from qvec.qdrant._async.catalog import AsyncQdrantCatalog
from qvec.qdrant.filters import compile_row_filter
from qvec.qdrant.point_query import PointQuery, ScaledQueries, shard_keys_of
from qvec.qdrant.points import PointId, Points, StoredPoint, plain, point_id, row_id
from qvec.qdrant.version_record import ActiveVersion
from qvec.results import Explanation, Hit, Info, Progress, StoredRows
from qvec.store.requests import OnDuplicate, RowColumns, RowFilter, SearchRequest, TextRequest, prepared_queries
from qvec.tracing import span
from qvec.waiting import in_thread_async

_NAN = float("nan")
_SKIPPED_AT_ONCE = 10_000
_NAMED_AT_ONCE = 10_000
_PAGE = 1_000
"""Points with their payloads per request."""


class AsyncCollectionView:
    """The rows of one version."""

    def __init__(self, catalog: AsyncQdrantCatalog, version: ActiveVersion) -> None:
        self.version = version
        self.name = version.name
        self.description = version.description
        self.calibration = version.description.calibration
        self.layout = version.description.layout
        self.is_managed = version.unmanaged is None
        self._catalog = catalog
        self._hit = points.hit if self.is_managed else points.unmanaged_hit
        self._ranks_texts = False

    async def engine(self) -> AsyncEngine:
        """Return the engine that holds the points. A directory raises CollectionError where they were dropped."""
        return await self._catalog.engine(self.version)

    def encode(self, rows: RowColumns) -> Points:
        """Return rows as points. Raise RowError for a row that cannot be stored."""
        encoded = points.encode(rows, self.calibration, self.layout)
        field = self.description.sharding.shard_key_field
        if field is not None:
            shard_keys.check_rows(encoded, field)
        return encoded

    # Writing

    async def upsert(self, rows: RowColumns, on_duplicate: OnDuplicate) -> int:
        """Write rows, all of which are checked before the first is written; return how many were written."""
        encoded = await in_thread_async(self.encode, rows)
        engine = await self.engine()
        admitted = await self.admitted(encoded, on_duplicate)
        if len(admitted):
            await engine.upsert(admitted)
        await engine.flush()
        return len(admitted)

    async def admitted(self, rows: Points, on_duplicate: OnDuplicate, *, own: int = 0) -> Points:
        """Return the encoded rows that are to be written by the rule for existing ids.

        The first `own` rows belong to an interrupted load, which may have written them: `error` lets them pass.
        """
        new = _without_repeats(rows, on_duplicate)
        if on_duplicate == "replace" or not len(new):
            return new
        engine = await self.engine()
        existing = {plain(point.id) for point in await engine.retrieve(new.ids, payload=False)}
        if on_duplicate == "skip":
            return new.take([position for position, id in enumerate(new.ids) if id not in existing])
        others = existing.intersection(new.ids[own:])
        if others:
            raise CollectionError(_exists(new, others))
        return new

    async def delete(self, ids: Sequence[int | str] | None, filter: RowFilter) -> int:
        if ids is None:
            return await self._delete_matching(filter)
        point_ids = [point_id(id) for id in ids]
        if not point_ids:  # a server refuses an empty list
            return 0
        if filter:
            batches = range(0, len(point_ids), _NAMED_AT_ONCE)
            return sum([await self._delete_matching(filter, point_ids[at : at + _NAMED_AT_ONCE]) for at in batches])
        engine = await self.engine()
        existing = await engine.retrieve(point_ids, payload=False)
        await engine.delete(point_ids)
        await engine.flush()
        return len(existing)

    async def _delete_matching(self, filter: RowFilter, ids: Sequence[PointId] | None = None) -> int:
        """Delete the rows that pass, page by page, of these ids if they are given; return how many."""
        native, residual = compile_row_filter(filter, self._catalog.backend.engine_version)
        if ids is not None:
            named = models.HasIdCondition(has_id=[*ids])
            native = models.Filter(must=[named] if native is None else [named, native])
        engine = await self.engine()
        keys = shard_keys_of(filter, self.version)
        deleted = 0
        following: PointId | None = 0
        while following is not None:
            payload = False if residual is None else residual.payload_keys
            stored, following = await engine.scroll(
                following, _PAGE, vectors=False, filter=native, payload=payload, shard_keys=keys
            )
            found = [plain(point.id) for point in stored if residual is None or residual.passes(point.payload)]
            if found:
                await engine.delete(found)
            deleted += len(found)
        await engine.flush()
        return deleted

    # Reading

    async def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        wanted = self._point_ids(ids)
        engine = await self.engine()
        stored = await engine.retrieve([id for id in wanted if id is not None], payload=True)
        by_id = {plain(point.id): point for point in stored}
        found = (id is not None and by_id.get(id) for id in wanted)
        return [self._hit(point.id, _NAN, point.payload) if point else None for point in found]

    async def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        wanted = self._point_ids(ids)
        engine = await self.engine()
        stored = await engine.retrieve([id for id in wanted if id is not None], payload=False, vectors=True)
        by_id = {plain(point.id): point.vector for point in stored}
        missing = np.full(self.layout.dimensions, np.nan, np.float32)
        found = [missing if id is None else by_id.get(id, missing) for id in wanted]
        centred = np.array(found, np.float32).reshape(len(found), self.layout.dimensions)
        return self._decoded(centred) + self.calibration.threshold

    def _point_ids(self, ids: Sequence[int | str]) -> Sequence[PointId | None]:
        """Return the ids of rows' points; None for one that no point of an unmanaged collection can have."""
        return [point_id(id) if self.is_managed else points.unmanaged_point_id(id) for id in ids]

    def _decoded(self, centred: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return stored vectors minus the threshold; signs alone become the mean distance from it."""
        return centred * self.calibration.deviation if self.layout.signs_only else centred

    async def scroll(self, filter: RowFilter, limit: int | None, texts: bool) -> list[Hit]:
        native, residual = compile_row_filter(filter, self._catalog.backend.engine_version)
        engine = await self.engine()
        keys = shard_keys_of(filter, self.version)
        found: list[Hit] = []
        following: PointId | None = 0
        while following is not None and (limit is None or len(found) < limit):
            page = _PAGE if limit is None or residual else min(_PAGE, limit - len(found))
            stored, following = await engine.scroll(following, page, vectors=False, filter=native, shard_keys=keys)
            passing = (point for point in stored if residual is None or residual.passes(point.payload))
            found += (self._hit(point.id, _NAN, point.payload) for point in passing)
        return [hit if texts else Hit(hit.id, hit.score) for hit in found[:limit]]

    async def sample_ids(self, size: int, seed: int) -> list[int | str]:
        """Read the ids of all points, give each a random key, and return those with the lowest keys."""
        rng, engine = np.random.default_rng(seed), await self.engine()
        keys, drawn = np.empty(0), np.empty(0, object)
        following: PointId | None = 0
        while following is not None:
            stored, following = await engine.scroll(following, _SKIPPED_AT_ONCE, vectors=False, payload=False)
            keys = np.concatenate([keys, rng.random(len(stored))])
            drawn = np.concatenate([drawn, np.array([plain(point.id) for point in stored], object)])
            lowest = np.argsort(keys)[:size]
            keys, drawn = keys[lowest], drawn[lowest]
        found = await engine.retrieve(drawn.tolist(), payload=True) if len(drawn) else []
        return [self._hit(point.id, _NAN, point.payload).id for point in found]

    async def point_at(self, position: int) -> PointId | None:
        """Return the id of the point at a position in the order of ids; None past the last."""
        engine = await self.engine()
        following: PointId | None = 0
        while position and following is not None:
            found, following = await engine.scroll(following, min(position, _SKIPPED_AT_ONCE), vectors=False)
            position -= len(found)
        return following

    async def page(self, start: PointId, limit: int) -> tuple[StoredRows | None, PointId | None]:
        """Return rows from a point on, and the point after them."""
        engine = await self.engine()
        stored, following = await engine.scroll(start, limit, vectors=True)
        return self._stored_rows(stored) if stored else None, following

    def _stored_rows(self, stored: list[StoredPoint]) -> StoredRows:
        hits = [self._hit(point.id, 0.0, point.payload) for point in stored]
        vectors = self._decoded(np.stack([point.vector for point in stored if point.vector is not None]))
        id_type = pa.int64() if self.layout.id_type == "bigint" else pa.large_string()
        return StoredRows(
            ids=pa.array([hit.id for hit in hits], id_type),
            vectors=vectors.astype(np.float32),
            documents=pa.array([hit.document for hit in hits], pa.large_string()),
            metadata=metadata_array([hit.metadata for hit in hits]),
        )

    async def next_id(self) -> int:
        """Return the integer after the largest integer id, found by bisection: a scroll can start anywhere."""
        engine = await self.engine()
        low, high = 0, 1 << 63
        while low < high:
            middle = (low + high) // 2
            found, _ = await engine.scroll(middle, 1, vectors=False)
            if found and isinstance(found[0].id, int):
                low = found[0].id + 1
            else:
                high = middle
        return low

    async def count(self, filter: RowFilter) -> int:
        native, residual = compile_row_filter(filter, self._catalog.backend.engine_version)
        engine = await self.engine()
        keys = shard_keys_of(filter, self.version)
        if residual is None:
            return await engine.count(native, keys)
        counted = 0
        following: PointId | None = 0
        while following is not None:
            stored, following = await engine.scroll(
                following, _PAGE, vectors=False, filter=native, payload=residual.payload_keys, shard_keys=keys
            )
            counted += sum(residual.passes(point.payload) for point in stored)
        return counted

    async def info(self) -> Info:
        engine = await self.engine()
        sizes = await engine.sizes()
        return Info(
            name=self.name,
            rows=await engine.count(),
            dimensions=self.layout.dimensions,
            metric=self.calibration.metric,
            id_type=self.layout.id_type,
            rescore=self.layout.rescore,
            prefilter=self.layout.prefilter,
            oversampling=self.description.oversampling,
            model=self.description.model,
            calibration=self.calibration.id,
            index=await engine.index_state(),
            table_bytes=sizes.points,
            index_bytes=sizes.index,
            ram_bytes=sizes.ram,
            embedding=self.description.embedding,
        )

    # Searching

    async def search(self, queries: NDArray[Any], request: SearchRequest) -> list[list[Hit]]:
        query = self._search_query(request)
        prepared = prepared_queries(queries, self.calibration)
        attributes = {"queries": len(queries), "k": query.limit, "candidates": query.candidates}
        with span("search", database="Qdrant", collection=self.name, **attributes):
            return await self._search(prepared, query)

    async def explain(self, query: NDArray[Any], request: SearchRequest) -> Explanation:
        warm_up = self._search_query(request)
        await self._search(prepared_queries(query, self.calibration), warm_up)
        started = time.perf_counter()
        prepared, point_query = prepared_queries(query, self.calibration), self._search_query(request)
        searched = time.perf_counter()
        hits = (await self._search(prepared, point_query))[0]
        ended = time.perf_counter()
        return Explanation(
            statement=point_query.to_json(),
            plan=(),
            candidates=point_query.candidates,
            milliseconds={"prepare": (searched - started) * 1e3, "search": (ended - searched) * 1e3},
            hits=hits,
        )

    def _search_query(self, request: SearchRequest) -> PointQuery:
        return PointQuery.of_search(request, self.version, self._catalog.backend.engine_version)

    async def _search(self, queries: NDArray[np.float32], query: PointQuery) -> list[list[Hit]]:
        """Return the hits of prepared queries (m, d)."""
        scaled = ScaledQueries.of(queries, self.version, query.rescore)
        engine = await self.engine()
        query = await resolved(engine, query)
        found = await self._found(engine, scaled.sent, query)
        if not query.payload and self.is_managed and not _all_integers(found):
            query = query.with_ids()  # of negative ids, which points cannot have
            found = await self._found(engine, scaled.sent, query)
        return [
            self._hits(batch, query, scale, constant)
            for batch, scale, constant in zip(found, scaled.scales, scaled.constants, strict=True)
        ]

    async def _found(self, engine: AsyncEngine, queries: NDArray[np.float32], query: PointQuery) -> list[Sequence[Any]]:
        found: list[Sequence[Any]] = []
        for batch in query.batches(queries):
            found += await engine.search(batch, query)
        return found

    async def search_text(self, request: TextRequest) -> list[Hit]:
        query = PointQuery.of_text(request, self.version, self._catalog.backend.engine_version)
        engine = await self.engine()
        self._ranks_texts = self._ranks_texts or await engine.text_language() is not None
        if not self._ranks_texts:
            raise not_indexed_error(self.name)
        query = await resolved(engine, query)
        with span("search_text", database="Qdrant", collection=self.name, k=query.limit) as searching:
            found = await engine.search_text(request.question, query)
            searching.set_attribute("qvec.rows", len(found))
        return self._hits(found, query, 1.0, 0.0)

    def _hits(self, found: Sequence[Any], query: PointQuery, scale: float, constant: float) -> list[Hit]:
        """Return points as hits; a payload is only looked at where it was asked for."""
        if not query.payload:
            return [Hit(row_id(point.id, None), point.score * scale + constant) for point in found]
        return [self._hit(point.id, point.score * scale + constant, point.payload) for point in found]

    # Settings and indexes

    async def set_oversampling(self, oversampling: float) -> None:
        description = replace(self.description, oversampling=oversampling)
        await self._catalog.backend.replace_description(self.version.points, description)

    async def has_index(self) -> bool:
        return await (await self.engine()).index_state() == "built"

    async def build_index(self, progress: Progress) -> None:
        await (await self.engine()).build_index(progress)

    async def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        engine = await self.engine()
        for index in indexes:
            await engine.index_metadata(index)

    async def index_texts(self, language: str) -> None:
        engine = await self.engine()
        found = await engine.text_language()
        if found is None:
            await engine.index_texts(language)
        else:
            check_indexed_language(self.name, found, language)


async def resolved(engine: AsyncEngine, query: PointQuery) -> PointQuery:
    """Return the query with a filter that the engine can test.

    Where there is a residual filter, all rows that pass the rest are read and tested, and those that pass are searched
    by their ids: of 200,000 in a directory that takes a second or two. Raise InputError where too many pass.
    """
    residual = query.residual
    if residual is None:
        return query
    ids: list[PointId] = []
    following: PointId | None = 0
    while following is not None:
        stored, following = await engine.scroll(
            following,
            _PAGE,
            vectors=False,
            filter=query.filter,
            payload=residual.payload_keys,
            shard_keys=query.shard_keys,
        )
        ids += [plain(point.id) for point in stored if residual.passes(point.payload)]
        residual.check_rows(len(ids))
    return query.of_points(ids)


def _all_integers(found: Sequence[Sequence[Any]]) -> bool:
    return all(isinstance(point.id, int) for batch in found for point in batch)


def _without_repeats(rows: Points, on_duplicate: OnDuplicate) -> Points:
    """Return rows with each id once: the last, or with `skip` the first. Raise CollectionError with `error`."""
    order = range(len(rows)) if on_duplicate == "replace" else reversed(range(len(rows)))
    kept = {rows.ids[position]: position for position in order}
    if len(kept) == len(rows):
        return rows
    if on_duplicate == "error":
        repeated = next(id for position, id in enumerate(rows.ids) if kept[id] != position)
        raise CollectionError(_exists(rows, {repeated}))
    return rows.take(sorted(kept.values()))


def _exists(rows: Points, existing: set[PointId]) -> str:
    position = next(position for position, id in enumerate(rows.ids) if id in existing)
    id = rows.row_id(position)
    return f"id {id!r} exists already; to replace or skip such rows, set on_duplicate (--on-duplicate)"
