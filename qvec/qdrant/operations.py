"""What a collection in Qdrant is, and what each of its methods asks of the engine."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.errors import CollectionError
from qvec.full_text import asked, check_indexed_language, check_language, no_index
from qvec.hits import Hit
from qvec.qdrant import filters, finishing, points
from qvec.qdrant.description import Description, Foreign
from qvec.qdrant.engine import Engine, Record, Request
from qvec.qdrant.filters import Compiled
from qvec.qdrant.ids import PointId, foreign_point_id, plain, point_id, row_id, row_ids
from qvec.qdrant.points import ID, Points
from qvec.qdrant.steps import Steps
from qvec.stores import (
    MOST_ROWS,
    Explanation,
    Info,
    Progress,
    StoredRows,
    check_count,
    check_limit,
    check_oversampling,
    check_search,
    check_upsert,
)
from qvec.texts import document_array, metadata_array
from qvec.tracing import span

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.loading import OnDuplicate
    from qvec.metadata_index import MetadataIndex
    from qvec.qdrant.catalog import Catalog, Opened
    from qvec.retrieval.embedders import Embedders
    from qvec.sources import Form, IdType


_SKIPPED_AT_ONCE = 10_000
_PAGE = 1_000
"""How many points with their payloads are asked for at once."""


class CollectionOperations:
    """The part of a collection that is the same whether its methods wait or are awaited.

    A method that takes arguments checks them when it is called, and gives steps.
    """

    def __init__(
        self,
        catalog: Catalog,
        name: str,
        description: Description,
        foreign: Foreign | None = None,
        points: str | None = None,
        turn: int = 0,
    ) -> None:
        """`foreign` is what a collection that qvec did not make holds; it is only read. `points` is the engine's
        collection that has its points, its own by default, and `turn` how often that was exchanged."""
        self.name = name
        self.points = points or name
        self.turn = turn
        self.was_dropped = False
        self.calibration: Calibration = description.calibration
        self.layout = description.layout
        self.oversampling = description.oversampling
        self.model = description.model
        self.embedding = description.embedding
        self.sharding = description.sharding
        self._catalog = catalog
        self._embedders: Embedders = catalog.embedders
        self._foreign = foreign
        self._threshold = self.calibration.threshold.astype(np.float64)
        self._ranks_texts = False

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"{type(self).__name__}({self.name!r}, dimensions={layout.dimensions}, rescore={layout.rescore!r}, "
            f"prefilter={layout.prefilter!r}, calibration={self.calibration.id!r})"
        )

    @property
    def id_type(self) -> IdType:
        return self.layout.id_type

    @property
    def keeps_floats(self) -> bool:
        """Whether it holds vectors as floats, and not their signs alone."""
        return not self.layout.signs_only

    @property
    def settings(self) -> dict[str, Any]:
        """What it was created with, besides its calibration and its ids."""
        return {
            "rescore": self.layout.rescore,
            "prefilter": self.layout.prefilter,
            "query_encoding": self.layout.query_encoding,
            "oversampling": self.oversampling,
            **vars(self.sharding),
        }

    @property
    def form(self) -> Form:
        """What the vectors of `stored_rows` are."""
        return "centred"

    def description(self) -> Description:
        """What is written down of it."""
        return Description(self.calibration, self.layout, self.oversampling, self.model, self.sharding, self.embedding)

    def engine(self) -> Engine:
        """The engine that holds its points. Raises CollectionError where it was dropped."""
        return self._catalog.engine(self.points, self.layout, self.sharding)

    def encode(
        self,
        ids: Sequence[int | str] | pa.Array | NDArray[np.int64],
        vectors: NDArray[Any],
        documents: pa.Array | None,
        metadata: pa.Array | None,
        form: Form = "raw",
    ) -> Points:
        """Rows as points, from the columns of a source's batch. Raises RowError for one that cannot be stored."""
        return points.encode(
            row_ids(ids, self.id_type),
            vectors,
            documents,
            metadata,
            calibration=self.calibration,
            layout=self.layout,
            form=form,
        )

    @property
    def _reading(self) -> str:
        """What is being done while it is read, for messages."""
        return f"cannot read collection {self.name!r}"

    def _check_writable(self) -> None:
        self._catalog.check_writable()
        if self._foreign is not None:
            raise CollectionError(f"collection {self.name!r} was not made by qvec, and is only read")

    # Rows

    def _upserting(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
        on_duplicate: OnDuplicate,
    ) -> Steps[int]:
        array = as_vectors(vectors, "vectors", self.calibration.accepted_dimensions)
        check_upsert(array, ids, documents, metadata, on_duplicate)
        self._check_writable()
        encoded = self.encode(row_ids(ids, self.id_type), array, document_array(documents), metadata_array(metadata))
        return self._upsert(encoded, on_duplicate)

    def _upsert(self, rows: Points, on_duplicate: OnDuplicate) -> Steps[int]:
        written = yield from self.write(rows, on_duplicate)
        yield from self.engine().flush()
        return written

    def write(self, rows: Points, on_duplicate: OnDuplicate) -> Steps[int]:
        """Writes encoded rows by the rule for ids that are there; returns how many were written."""
        admitted = yield from self.admitted(rows, on_duplicate)
        if len(admitted):
            yield from self.engine().upsert(admitted)
        return len(admitted)

    def admitted(self, rows: Points, on_duplicate: OnDuplicate, *, ours: int = 0) -> Steps[Points]:
        """Those of encoded rows that are written by the rule for ids that are there.

        The first `ours` rows are of a load that was interrupted and may have written them: `error` lets them pass.
        """
        new = _without_repeats(rows, on_duplicate)
        if on_duplicate == "replace" or not len(new):
            return new
        there = {plain(record.id) for record in (yield from self.engine().retrieve(new.ids, payload=False))}
        if on_duplicate == "skip":
            return new.take([position for position, id in enumerate(new.ids) if id not in there])
        foreign = there.intersection(new.ids[ours:])
        if foreign:
            raise CollectionError(_is_there(new, foreign))
        return new

    def _deleting(self, ids: Sequence[int | str]) -> Steps[int]:
        self._check_writable()
        return self._delete([point_id(id) for id in row_ids(list(ids), self.id_type)])

    def _delete(self, ids: list[PointId]) -> Steps[int]:
        there = yield from self.engine().retrieve(ids, payload=False)
        yield from self.engine().delete(ids)
        yield from self.engine().flush()
        return len(there)

    def _getting(self, ids: Sequence[int | str]) -> Steps[list[Hit | None]]:
        return self._get(self._point_ids(ids))

    def _get(self, ids: Sequence[PointId | None]) -> Steps[list[Hit | None]]:
        possible = [id for id in ids if id is not None]
        fetched = yield from self.engine().retrieve(possible, payload=True)
        records = {plain(record.id): record for record in fetched}
        found = (id is not None and records.get(id) for id in ids)
        return [self._hit(record.id, float("nan"), record.payload) if record else None for record in found]

    def _getting_vectors(self, ids: Sequence[int | str]) -> Steps[NDArray[np.float32]]:
        return self._vectors(self._point_ids(ids))

    def _vectors(self, ids: Sequence[PointId | None]) -> Steps[NDArray[np.float32]]:
        possible = [id for id in ids if id is not None]
        records = yield from self.engine().retrieve(possible, payload=False, vectors=True)
        found = {plain(record.id): record.vector for record in records}
        missing = np.full(self.layout.dimensions, np.nan, np.float32)
        stored = [missing if id is None else found.get(id, missing) for id in ids]
        centred = np.array(stored, np.float32).reshape(len(stored), self.layout.dimensions)
        return self._decoded(centred) + self.calibration.threshold

    def _matching(self, filter: FilterLike | None, limit: int | None, texts: bool) -> Steps[list[Hit]]:
        check_limit(limit)
        return self._match(filters.asked(filter), limit, texts)

    def _match(self, filter: Compiled, limit: int | None, texts: bool) -> Steps[list[Hit]]:
        found: list[Hit] = []
        following: PointId | None = 0
        while following is not None and (limit is None or len(found) < limit):
            page = _PAGE if limit is None or filter.rest else min(_PAGE, limit - len(found))
            records, following = yield from self.engine().scroll(following, page, vectors=False, filter=filter.native)
            passing = (record for record in records if finishing.passes(filter.rest, record))
            found += (self._hit(record.id, float("nan"), record.payload) for record in passing)
        return [hit if texts else Hit(hit.id, hit.score) for hit in found[:limit]]

    def _decoded(self, centred: NDArray[np.float32]) -> NDArray[np.float32]:
        """Stored vectors minus the threshold; of signs alone, each as far from it as it is on average."""
        return centred * self.calibration.deviation if self.layout.signs_only else centred

    def _hit(self, point: Any, score: float, payload: points.Payload | None) -> Hit:
        return (points.hit if self._foreign is None else points.foreign_hit)(point, score, payload)

    def _point_ids(self, ids: Sequence[int | str]) -> Sequence[PointId | None]:
        """The points' ids; None for one that no point of another's making can have."""
        if self._foreign is not None:
            return [foreign_point_id(id) for id in ids]
        return [point_id(id) for id in row_ids(list(ids), self.id_type)]

    def _skip(self, rows: int) -> Steps[PointId | None]:
        """The point at this position; None past the last."""
        following: PointId | None = 0
        while rows and following is not None:
            found, following = yield from self.engine().scroll(following, min(rows, _SKIPPED_AT_ONCE), vectors=False)
            rows -= len(found)
        return following

    def _stored_from(self, start: PointId, rows: int) -> Steps[tuple[StoredRows | None, PointId | None]]:
        """The rows from a point on, and the point after them."""
        records, following = yield from self.engine().scroll(start, rows, vectors=True)
        return self._stored(records) if records else None, following

    def _stored(self, records: list[Record]) -> StoredRows:
        hits = [self._hit(record.id, 0.0, record.payload) for record in records]
        vectors = self._decoded(np.stack([record.vector for record in records if record.vector is not None]))
        return StoredRows(
            ids=pa.array([hit.id for hit in hits], pa.int64() if self.id_type == "bigint" else pa.large_string()),
            vectors=vectors.astype(np.float32),
            documents=pa.array([hit.document for hit in hits], pa.large_string()),
            metadata=metadata_array([hit.metadata for hit in hits]),
        )

    def next_id(self) -> Steps[int]:
        """The integer after the ids of all points that have integers, found by halving: a scroll begins anywhere."""
        low, high = 0, 1 << 63
        while low < high:
            middle = (low + high) // 2
            found, _ = yield from self.engine().scroll(middle, 1, vectors=False)
            if found and isinstance(found[0].id, int):
                low = found[0].id + 1
            else:
                high = middle
        return low

    def check_current(self, found: Opened | None) -> None:
        """Raises CollectionError when the collection, as it is found now, was dropped, and perhaps made anew, since it
        was opened."""
        here = self.points, self.calibration, self.layout
        if found is None or (found.points, found.description.calibration, found.description.layout) != here:
            again = " and made anew" if found else ""
            raise CollectionError(f"collection {self.name!r} was dropped{again} since it was opened; open it again")

    # What it is

    def _count(self) -> Steps[int]:
        return (yield from self.engine().count())

    def _info(self) -> Steps[Info]:
        engine = self.engine()
        sizes = yield from engine.sizes()
        return Info(
            name=self.name,
            rows=(yield from engine.count()),
            dimensions=self.layout.dimensions,
            metric=self.calibration.metric,
            id_type=self.id_type,
            rescore=self.layout.rescore,
            prefilter=self.layout.prefilter,
            oversampling=self.oversampling,
            model=self.model,
            calibration=self.calibration.id,
            index=(yield from engine.index_state()),
            table_bytes=sizes.points,
            index_bytes=sizes.index,
            ram_bytes=sizes.ram,
            embedding=self.embedding,
        )

    def _has_index(self) -> Steps[bool]:
        return (yield from self.engine().index_state()) == "built"

    # Settings and indexes

    def _setting_oversampling(self, oversampling: float) -> Steps[None]:
        check_oversampling(oversampling)
        self._check_writable()
        return self._set_oversampling(oversampling)

    def _set_oversampling(self, oversampling: float) -> Steps[None]:
        yield from self._catalog.home.describe_anew(self.points, replace(self.description(), oversampling=oversampling))
        self.oversampling = oversampling

    def _building_index(self, progress: Progress) -> Steps[None]:
        self._check_writable()
        return self._build_index(progress)

    def _build_index(self, progress: Progress) -> Steps[None]:
        yield from self.engine().build_index(progress)

    def _indexing_metadata(self, indexes: Sequence[MetadataIndex]) -> Steps[None]:
        self._check_writable()
        return self._index_metadata(indexes)

    def _index_metadata(self, indexes: Sequence[MetadataIndex]) -> Steps[None]:
        for index in indexes:
            yield from self.engine().index_metadata(index)

    # Words

    def _indexing_texts(self, language: str) -> Steps[None]:
        check_language(language)
        self._check_writable()
        return self._index_texts(language)

    def _index_texts(self, language: str) -> Steps[None]:
        found = yield from self.engine().texts_language()
        if found is None:
            yield from self.engine().index_texts(language)
        else:
            check_indexed_language(self.name, found, language)

    def _searching_text(self, question: str, k: int, filter: FilterLike | None, texts: bool) -> Steps[list[Hit]]:
        check_search(k, None)
        payload = texts or (self._foreign is None and [ID])
        native, rest = filters.asked(filter)
        return self._search_text(question, Request(k, 1, payload=payload, filter=native, rest=rest))

    def _search_text(self, question: str, request: Request) -> Steps[list[Hit]]:
        self._ranks_texts = self._ranks_texts or (yield from self.engine().texts_language()) is not None
        if not self._ranks_texts:
            raise no_index(self.name)
        request = yield from finishing.finished(self.engine(), request)
        with span("search_text", database="Qdrant", collection=self.name, k=request.limit) as searching:
            found = yield from self.engine().search_text(asked(question), request)
            searching.set_attribute("qvec.rows", len(found))
        return self._hits(found, request, 1.0, 0.0)

    # Searches

    def _searching(
        self,
        vectors: ArrayLike,
        k: int,
        oversampling: float | None,
        filter: FilterLike | None,
        exact: bool,
        rescore: bool,
        ef: int | None,
        texts: bool,
    ) -> Steps[Any]:
        """Hits of a vector (d,), or a list of them for each of (m, d)."""
        queries, request = self._prepared(vectors, k, oversampling, filter, exact, rescore, texts, ef)
        return self._search(queries, request, np.ndim(vectors) == 2)

    def _search(self, queries: NDArray[np.float32], request: Request, several: bool) -> Steps[Any]:
        asked = {"queries": len(queries), "k": request.limit, "candidates": _candidates(request)}
        with span("search", database="Qdrant", collection=self.name, **asked):
            found = yield from self._hits_of(queries, request)
        return found if several else found[0]

    def _explaining(
        self, vector: ArrayLike, k: int, oversampling: float | None, filter: FilterLike | None, exact: bool
    ) -> Steps[Explanation]:
        prepare = partial(self._prepared, vector, k, oversampling, filter, exact)
        prepare()
        return self._explain(prepare)

    def _explain(self, prepare: partial[tuple[NDArray[np.float32], Request]]) -> Steps[Explanation]:
        yield from self._hits_of(*prepare())  # opens what is not open yet
        started = time.perf_counter()
        prepared, request = prepare()
        searched = time.perf_counter()
        hits = (yield from self._hits_of(prepared, request))[0]
        ended = time.perf_counter()
        asked = {
            **asdict(request),
            "filter": request.filter and request.filter.model_dump(exclude_none=True),
            "rest": request.rest and request.rest.unknown,
        }
        return Explanation(
            statement=json.dumps(asked, indent=2, default=str),
            plan=(),
            candidates=_candidates(request),
            milliseconds={"prepare": (searched - started) * 1e3, "search": (ended - searched) * 1e3},
            hits=hits,
        )

    def _prepared(
        self,
        query: ArrayLike,
        k: int,
        oversampling: float | None,
        filter: FilterLike | None,
        exact: bool,
        rescore: bool = True,
        texts: bool = True,
        ef: int | None = None,
    ) -> tuple[NDArray[np.float32], Request]:
        """Queries as they are compared, and what to ask of the engine."""
        check_search(k, oversampling)
        if ef is not None:
            check_count("ef", ef, ", or None for the engine's own")
        array = as_vectors(query, "query", self.calibration.accepted_dimensions)
        self.calibration.check(array, "query")
        native, rest = filters.asked(filter)
        request = Request(
            limit=k,
            oversampling=self.oversampling if oversampling is None else oversampling,
            exact=exact,
            rescore=rescore or exact,
            payload=texts or (self._foreign is None and self.id_type == "text" and [ID]),
            filter=native,
            rest=rest,
            ef=ef,
        )
        return self.calibration.prepared(array), request

    def _hits_of(self, queries: NDArray[np.float32], request: Request) -> Steps[list[list[Hit]]]:
        """Hits of prepared queries (m, d): the engine scores <q, x - threshold>, and <q, threshold> is added."""
        sent, scales = self._scaled(queries)
        request = yield from finishing.finished(self.engine(), request)
        found = yield from self._found(sent, request)
        if not request.payload and self._foreign is None and not _all_integers(found):
            request = replace(request, payload=[ID])  # of negative ids, which points cannot have
            found = yield from self._found(sent, request)
        if self._scores_metric(request):
            constants = (queries @ self._threshold).tolist()
        else:
            scales, constants = [1.0] * len(queries), [0.0] * len(queries)
        return [
            self._hits(batch, request, scale, constant)
            for batch, scale, constant in zip(found, scales, constants, strict=True)
        ]

    def _found(self, queries: NDArray[np.float32], request: Request) -> Steps[list[Sequence[Any]]]:
        found: list[Sequence[Any]] = []
        for batch in finishing.batches(request, queries):
            found += yield from self.engine().search(batch, request)
        return found

    def _hits(self, found: Sequence[Any], request: Request, scale: float, constant: float) -> list[Hit]:
        """Hits of points; a payload is not looked at unless it was asked for."""
        if not request.payload:
            return [Hit(row_id(point.id, None), point.score * scale + constant) for point in found]
        return [self._hit(point.id, point.score * scale + constant, point.payload) for point in found]

    def _scaled(self, queries: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[float]]:
        """Queries as they are sent, and what their scores are multiplied with.

        The engine rounds queries to float16 and to whole levels, which loses small ones and cannot hold large ones. So
        each is brought to a largest component between 1/2 and 1, which is exact, unless it is at unit length.
        """
        if self.layout.signs_only:
            queries = queries * self.calibration.deviation
        elif self.calibration.metric == "cosine" or (self._foreign and self._foreign.distance == "cosine"):
            return queries, [1.0] * len(queries)
        _, exponents = np.frexp(np.abs(queries).max(axis=1, initial=0))
        return np.ldexp(queries, -exponents[:, None]), np.ldexp(1.0, exponents).tolist()

    def _scores_metric(self, request: Request) -> bool:
        """Whether the engine estimates <q, x - threshold>, as its turbo codes do too, or counts equal bits."""
        return request.rescore or (self._foreign is None and self.layout.prefilter.startswith("turbo"))


def _candidates(request: Request) -> int | None:
    """How many rows the engine rescores; None: all."""
    return None if request.exact else math.ceil(min(request.limit * request.oversampling, MOST_ROWS))


def _all_integers(found: Sequence[Sequence[Any]]) -> bool:
    return all(isinstance(point.id, int) for batch in found for point in batch)


def _without_repeats(rows: Points, on_duplicate: OnDuplicate) -> Points:
    """Rows with each id once: the last, or with `skip` the first. Raises CollectionError with `error`."""
    order = range(len(rows)) if on_duplicate == "replace" else reversed(range(len(rows)))
    kept = {rows.ids[position]: position for position in order}
    if len(kept) == len(rows):
        return rows
    if on_duplicate == "error":
        repeated = next(id for position, id in enumerate(rows.ids) if kept[id] != position)
        raise CollectionError(_is_there(rows, {repeated}))
    return rows.take(sorted(kept.values()))


def _is_there(rows: Points, there: set[PointId]) -> str:
    position = next(position for position, id in enumerate(rows.ids) if id in there)
    id = row_id(rows.ids[position], rows.payloads[position].get(ID))
    return f"id {id!r} is there already; to replace or skip such rows, say so (on_duplicate, --on-duplicate)"
