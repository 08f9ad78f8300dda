"""What a collection in Qdrant is, and what each of its methods asks of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.errors import CollectionError
from qvec.full_text import check_indexed_language, check_language
from qvec.hits import Hit
from qvec.qdrant import filters, finishing, points
from qvec.qdrant.description import Description, Foreign
from qvec.qdrant.engine import Engine, Record
from qvec.qdrant.filters import Compiled
from qvec.qdrant.ids import PointId, foreign_point_id, plain, point_id, row_id, row_ids
from qvec.qdrant.points import ID, Points
from qvec.qdrant.searching import SearchOperations
from qvec.qdrant.steps import Steps
from qvec.stores import (
    Info,
    Progress,
    StoredRows,
    check_limit,
    check_oversampling,
    check_upsert,
)
from qvec.texts import document_array, metadata_array

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.loading import OnDuplicate
    from qvec.metadata_index import MetadataIndex
    from qvec.qdrant.catalog import Catalog, Opened
    from qvec.retrieval.embedders import Embedders
    from qvec.sources import Form


_SKIPPED_AT_ONCE = 10_000
_PAGE = 1_000
"""How many points with their payloads are asked for at once."""


class CollectionOperations(SearchOperations):
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

    def __repr__(self) -> str:
        layout = self.layout
        return (
            f"{type(self).__name__}({self.name!r}, dimensions={layout.dimensions}, rescore={layout.rescore!r}, "
            f"prefilter={layout.prefilter!r}, calibration={self.calibration.id!r})"
        )

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
