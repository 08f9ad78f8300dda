"""A collection in Qdrant: write, read and search its rows."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from qdrant_client import models

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.errors import CollectionError, InputError
from qvec.filters import parse
from qvec.hits import Hit
from qvec.qdrant import filters, points
from qvec.qdrant.description import Description, Foreign
from qvec.qdrant.engine import Engine, Record, Request
from qvec.qdrant.errors import explained
from qvec.qdrant.ids import PointId, foreign_point_id, point_id, row_id, row_ids
from qvec.qdrant.points import ID, Points
from qvec.retrieval.methods import Retrieval
from qvec.stores import (
    Explanation,
    Info,
    Progress,
    StoredRows,
    check_limit,
    check_oversampling,
    check_search,
    check_upsert,
)
from qvec.texts import document_array, metadata_array

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.loading import OnDuplicate
    from qvec.metadata_index import MetadataIndex
    from qvec.qdrant.database import QdrantDatabase
    from qvec.sources import Form, IdType


_SKIPPED_AT_ONCE = 10_000
_PAGE = 1_000
"""How many points with their payloads are asked for at once."""


class QdrantCollection(Retrieval):
    """A named set of rows with one calibration. Get one from a database's `collection` or `create_collection`."""

    def __init__(
        self, database: QdrantDatabase, name: str, description: Description, *, foreign: Foreign | None = None
    ) -> None:
        """`foreign` is what a collection that qvec did not make holds; it is only read."""
        self.name = name
        self.calibration: Calibration = description.calibration
        self.layout = description.layout
        self.oversampling = description.oversampling
        self.model = description.model
        self.embedding = description.embedding
        self.sharding = description.sharding
        self._database = database
        self._embedders = database.embedders
        self._foreign = foreign
        self._threshold = self.calibration.threshold.astype(np.float64)

    def __repr__(self) -> str:
        return (
            f"QdrantCollection({self.name!r}, dimensions={self.layout.dimensions}, rescore={self.layout.rescore!r}, "
            f"prefilter={self.layout.prefilter!r}, calibration={self.calibration.id!r})"
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

    def engine(self) -> Engine:
        """The engine that holds its points. Raises CollectionError where it is read alone."""
        return self._database.engine(self)

    def upsert(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        on_duplicate: OnDuplicate = "replace",
    ) -> int:
        """Writes rows; returns how many. A row whose id is there is replaced; of equal ids the last stays.

        `vectors` has shape (n, d); `metadata` is what JSON can hold. All rows are checked before the first is written.
        """
        array = as_vectors(vectors, "vectors", self.calibration.accepted_dimensions)
        check_upsert(array, ids, documents, metadata, on_duplicate)
        self._check_writable()
        encoded = self.encode(row_ids(ids, self.id_type), array, document_array(documents), metadata_array(metadata))
        with self._explained(f"cannot write to collection {self.name!r}"):
            self.check_current()
            written = self.write(encoded, on_duplicate)
            self.engine().flush()
        return written

    def write(self, rows: Points, on_duplicate: OnDuplicate) -> int:
        """Writes encoded rows by the rule for ids that are there; returns how many were written."""
        admitted = self.admitted(rows, on_duplicate)
        if len(admitted):
            self.engine().upsert(admitted)
        return len(admitted)

    def admitted(self, rows: Points, on_duplicate: OnDuplicate, *, ours: int = 0) -> Points:
        """Those of encoded rows that are written by the rule for ids that are there.

        The first `ours` rows are of a load that was interrupted and may have written them: `error` lets them pass.
        """
        new = _without_repeats(rows, on_duplicate)
        if on_duplicate == "replace" or not len(new):
            return new
        there = {_plain(record.id) for record in self.engine().retrieve(new.ids, payload=False)}
        if on_duplicate == "skip":
            return new.take([position for position, id in enumerate(new.ids) if id not in there])
        foreign = there.intersection(new.ids[ours:])
        if foreign:
            raise CollectionError(_is_there(new, foreign))
        return new

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

    def delete(self, ids: Sequence[int | str]) -> int:
        """Deletes the rows with these ids; returns how many there were."""
        self._check_writable()
        wanted = [point_id(id) for id in row_ids(list(ids), self.id_type)]
        with self._explained(f"cannot delete from collection {self.name!r}"):
            there = self.engine().retrieve(wanted, payload=False)
            self.engine().delete(wanted)
            self.engine().flush()
        return len(there)

    def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """The rows with these ids, in their order, None for each that is missing; their score is NaN."""
        wanted = self._point_ids(ids)
        possible = [id for id in wanted if id is not None]
        with self._reading():
            records = {_plain(record.id): record for record in self.engine().retrieve(possible, payload=True)}
        found = (id is not None and records.get(id) for id in wanted)
        return [self._hit(record.id, float("nan"), record.payload) if record else None for record in found]

    def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of the rows with these ids as far as they are kept, float32 (n, d). NaN for a row that is
        missing."""
        wanted = self._point_ids(ids)
        with self._reading():
            records = self.engine().retrieve([id for id in wanted if id is not None], payload=False, vectors=True)
        found = {_plain(record.id): record.vector for record in records}
        missing = np.full(self.layout.dimensions, np.nan, np.float32)
        stored = [missing if id is None else found.get(id, missing) for id in wanted]
        centred = np.array(stored, np.float32).reshape(len(stored), self.layout.dimensions)
        return self._decoded(centred) + self.calibration.threshold

    def matching(self, filter: FilterLike | None = None, limit: int | None = None, *, texts: bool = True) -> list[Hit]:
        """The rows whose metadata passes `filter`, or all, in the order of their points' ids, no more than `limit` of
        them; their score is NaN. `texts` false leaves documents and metadata out."""
        check_limit(limit)
        native = _native(filter)
        found: list[Hit] = []
        following: PointId | None = 0
        while following is not None and (limit is None or len(found) < limit):
            page = _PAGE if limit is None else min(_PAGE, limit - len(found))
            with self._reading():
                records, following = self.engine().scroll(following, page, vectors=False, filter=native)
            found += (self._hit(record.id, float("nan"), record.payload) for record in records)
        return found if texts else [Hit(hit.id, hit.score) for hit in found]

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

    def count(self) -> int:
        """The number of rows."""
        with self._reading():
            return self.engine().count()

    def info(self) -> Info:
        """What it is and, in a directory, what it takes on disk and in memory."""
        with self._reading():
            engine = self.engine()
            sizes = engine.sizes()
            return Info(
                name=self.name,
                rows=engine.count(),
                dimensions=self.layout.dimensions,
                metric=self.calibration.metric,
                id_type=self.id_type,
                rescore=self.layout.rescore,
                prefilter=self.layout.prefilter,
                oversampling=self.oversampling,
                model=self.model,
                calibration=self.calibration.id,
                index=engine.index_state(),
                table_bytes=sizes.points,
                index_bytes=sizes.index,
                ram_bytes=sizes.ram,
                embedding=self.embedding,
            )

    def set_oversampling(self, oversampling: float) -> None:
        """Stores the candidates for each hit, for this and every later search that names none. What has the collection
        open elsewhere goes on with what it read."""
        check_oversampling(oversampling)
        self._check_writable()
        changed = Description(self.calibration, self.layout, oversampling, self.model, self.sharding, self.embedding)
        with self._explained(f"cannot set the oversampling of collection {self.name!r}"):
            self._database.home.describe_anew(self.name, changed)
        self.oversampling = oversampling

    def has_index(self) -> bool:
        """Whether the graph is there for all points; without it a search scans those that it does not hold."""
        with self._reading():
            return self.engine().index_state() == "built"

    def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Has the engine index all points, and waits for it."""
        self._check_writable()
        with self._explained(f"cannot build the index of collection {self.name!r}"):
            self.engine().build_index(progress)

    def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Creates indexes for filters on metadata, where they are not there yet."""
        self._check_writable()
        with self._explained(f"cannot index the metadata of collection {self.name!r}"):
            for index in indexes:
                self.engine().index_metadata(index)

    @overload
    def search(
        self,
        query: Sequence[float] | str,
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
        rescore: bool = ...,
        ef: int | None = ...,
        texts: bool = ...,
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        query: NDArray[Any] | Sequence[Sequence[float]] | Sequence[str],
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
        rescore: bool = ...,
        ef: int | None = ...,
        texts: bool = ...,
    ) -> Any: ...
    def search(
        self,
        query: ArrayLike | str | Sequence[str],
        k: int = 10,
        oversampling: float | None = None,
        *,
        filter: FilterLike | None = None,
        exact: bool = False,
        rescore: bool = True,
        ef: int | None = None,
        texts: bool = True,
    ) -> list[Hit] | list[list[Hit]]:
        """The k rows nearest to a query (d,), best first, or a list of them for each query of (m, d).

        A question in place of a vector, or several, is embedded by the collection's `embedder`.

        The engine finds k × `oversampling` candidates (the collection's own when not given) by its quantized vectors
        and rescores them on the stored ones; `exact` scores every stored one instead. Scores are the true metric to the
        precision that is stored: the engine rounds the query to it as well.

        `filter` keeps to rows whose metadata passes, in the language of `qvec.filters` or as Qdrant's own
        `models.Filter`. Without `rescore` hits are ranked by the quantized vectors alone: by turbo codes a score is a
        rough estimate of the metric, by binary ones the engine's count of equal bits less that of different ones.
        `ef` widens the search of the graph (Qdrant's hnsw_ef), `texts` false leaves documents and metadata out.
        """
        vectors = self._embedded(query)
        found = self._search(*self._prepared(vectors, k, oversampling, filter, exact, rescore, texts, ef))
        return found if np.ndim(vectors) == 2 else found[0]

    def explain(
        self,
        query: ArrayLike | str,
        k: int = 10,
        oversampling: float | None = None,
        *,
        filter: FilterLike | None = None,
        exact: bool = False,
    ) -> Explanation:
        """Searches for one query (d,) and tells what the engine was asked, and the time of each step."""
        vector = self._embedded(query)
        self._search(*self._prepared(vector, k, oversampling, filter, exact))  # opens what is not open yet
        started = time.perf_counter()
        prepared, request = self._prepared(vector, k, oversampling, filter, exact)
        searched = time.perf_counter()
        hits = self._search(prepared, request)[0]
        ended = time.perf_counter()
        asked = {**asdict(request), "filter": request.filter and request.filter.model_dump(exclude_none=True)}
        return Explanation(
            statement=json.dumps(asked, indent=2, default=str),
            plan=(),
            candidates=None if exact else math.ceil(k * request.oversampling),
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
        if ef is not None and ef < 1:
            raise InputError(f"ef is {ef}, expected at least 1")
        array = as_vectors(query, "query", self.calibration.accepted_dimensions)
        self.calibration.check(array, "query")
        request = Request(
            limit=k,
            oversampling=self.oversampling if oversampling is None else oversampling,
            exact=exact,
            rescore=rescore or exact,
            payload=texts or (self._foreign is None and self.id_type == "text" and [ID]),
            filter=_native(filter),
            ef=ef,
        )
        return self.calibration.prepared(array), request

    def _search(self, queries: NDArray[np.float32], request: Request) -> list[list[Hit]]:
        """Hits of prepared queries (m, d): the engine scores <q, x - threshold>, and <q, threshold> is added."""
        sent, scales = self._scaled(queries)
        with self._reading():
            found = self.engine().search(sent, request)
            if not request.payload and self._foreign is None and not _all_integers(found):
                request = replace(request, payload=[ID])  # of negative ids, which points cannot have
                found = self.engine().search(sent, request)
        if self._scores_metric(request):
            constants = (queries @ self._threshold).tolist()
        else:
            scales, constants = [1.0] * len(queries), [0.0] * len(queries)
        return [
            self._hits(batch, request, scale, constant)
            for batch, scale, constant in zip(found, scales, constants, strict=True)
        ]

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

    @property
    def form(self) -> Form:
        """What the vectors of `stored_rows` are."""
        return "centred"

    def stored_rows(self, start: int, rows: int) -> Iterator[StoredRows]:
        """Its rows in the order of their points' ids, from the row at this position on, so many at a time."""
        with self._reading():
            following = self._skip(start)
            while following is not None:
                records, following = self.engine().scroll(following, rows, vectors=True)
                if records:
                    yield self._stored(records)

    def _skip(self, rows: int) -> PointId | None:
        """The point at this position; None past the last."""
        following: PointId | None = 0
        while rows and following is not None:
            found, following = self.engine().scroll(following, min(rows, _SKIPPED_AT_ONCE), vectors=False)
            rows -= len(found)
        return following

    def _stored(self, records: list[Record]) -> StoredRows:
        hits = [self._hit(record.id, 0.0, record.payload) for record in records]
        vectors = self._decoded(np.stack([record.vector for record in records if record.vector is not None]))
        return StoredRows(
            ids=pa.array([hit.id for hit in hits], pa.int64() if self.id_type == "bigint" else pa.large_string()),
            vectors=vectors.astype(np.float32),
            documents=pa.array([hit.document for hit in hits], pa.large_string()),
            metadata=metadata_array([hit.metadata for hit in hits]),
        )

    def next_id(self) -> int:
        """The integer after the ids of all points that have integers, found by halving: a scroll begins anywhere."""
        low, high = 0, 1 << 63
        while low < high:
            middle = (low + high) // 2
            found, _ = self.engine().scroll(middle, 1, vectors=False)
            if found and isinstance(found[0].id, int):
                low = found[0].id + 1
            else:
                high = middle
        return low

    def check_current(self) -> None:
        """Raises CollectionError when the collection was dropped, and perhaps made anew, since it was opened."""
        found = self._database.describe(self.name)
        if found is None or (found.calibration, found.layout) != (self.calibration, self.layout):
            again = " and made anew" if found else ""
            raise CollectionError(f"collection {self.name!r} was dropped{again} since it was opened; open it again")

    def _check_writable(self) -> None:
        if self._foreign is not None:
            raise CollectionError(f"collection {self.name!r} was not made by qvec, and is only read")

    def _reading(self) -> AbstractContextManager[None]:
        return self._explained(f"cannot read collection {self.name!r}")

    def _explained(self, doing: str) -> AbstractContextManager[None]:
        return explained(doing)


def _all_integers(found: Sequence[Sequence[Any]]) -> bool:
    return all(isinstance(point.id, int) for batch in found for point in batch)


def _native(filter: FilterLike | None) -> models.Filter | None:
    if not filter:
        return None
    if isinstance(filter, models.Filter):
        return filter
    if isinstance(filter, Mapping):
        return filters.compile(parse(filter))
    raise InputError(f"filter is a {type(filter).__name__}; expected a dict, or a Filter of qdrant_client.models")


def _plain(id: Any) -> PointId:
    return id if isinstance(id, int) else str(id)


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
