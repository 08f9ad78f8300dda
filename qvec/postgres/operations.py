"""What a collection in Postgres is, and what each of its methods asks of the database."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from psycopg import errors
from psycopg.sql import SQL, Composed

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.defaults import MAX_EF_SEARCH
from qvec.errors import CollectionError, InputError
from qvec.full_text import no_index
from qvec.hits import Hit
from qvec.loading import OnDuplicate
from qvec.postgres import full_text, indexing, inserting, metadata_index, rows, search, statements
from qvec.postgres.explain import explain
from qvec.postgres.indexing import Machine
from qvec.postgres.layout import Table
from qvec.postgres.search import Plan, RescoreIn, Where
from qvec.postgres.steps import Execute, Fetch, Rows, Steps, Transaction, Work, without_limit
from qvec.stores import Explanation, Info, StoredRows, check_limit, check_oversampling, check_search, check_upsert
from qvec.texts import document_array, metadata_array
from qvec.tracing import span

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.metadata_index import MetadataIndex
    from qvec.postgres.catalog import Opened
    from qvec.retrieval.embedders import Embedders
    from qvec.sources import Form, IdType


T = TypeVar("T")

Prepared = tuple[Work[Plan], NDArray[np.float32]]
"""What plans a search, and its queries (m, d) as they are compared."""


_LOG = logging.getLogger("qvec.postgres")


class CollectionOperations:
    """The part of a collection that is the same whether its methods wait or are awaited.

    A method that takes arguments checks them when it is called, and gives work that can be done twice.
    """

    def __init__(
        self,
        name: str,
        table: Table,
        calibration: Calibration,
        oversampling: float,
        model: str | None,
        embedding: Mapping[str, Any] | None,
        created_at: datetime | None,
        embedders: Embedders,
        find: Callable[[str], Steps[Opened]],
    ) -> None:
        self.name = name
        self.table = table
        self.calibration = calibration
        self.oversampling = oversampling
        self.model = model
        self.embedding = embedding
        self._created_at = created_at
        self._embedders = embedders
        self.was_dropped = False
        self._find = find
        self._rows_seen = 0
        self._language: str | None = None

    def __repr__(self) -> str:
        layout = self.table.layout
        return (
            f"{type(self).__name__}({self.name!r}, dimensions={layout.dimensions}, rescore={layout.rescore!r}, "
            f"prefilter={layout.prefilter!r}, calibration={self.calibration.id!r})"
        )

    @property
    def _reading(self) -> str:
        """What is being done while it is read, for messages."""
        return f"cannot read collection {self.name!r}"

    @property
    def id_type(self) -> IdType:
        return self.table.layout.id_type

    @property
    def keeps_floats(self) -> bool:
        """Whether it holds vectors as floats, and not as codes alone."""
        return self.table.layout.float_type is not None

    @property
    def settings(self) -> dict[str, Any]:
        """What it was created with, besides its calibration and its ids."""
        layout = self.table.layout
        return {"rescore": layout.rescore, "prefilter": layout.prefilter, "oversampling": self.oversampling}

    @property
    def form(self) -> Form:
        """What the vectors of `stored_rows` are."""
        return "prepared" if self.keeps_floats else "centred"

    def encode(
        self,
        ids: pa.Array | NDArray[np.int64],
        vectors: NDArray[Any],
        documents: pa.Array | None,
        metadata: pa.Array | None,
        form: Form = "raw",
    ) -> bytes:
        """Rows as COPY reads them, from the columns of a source's batch. Raises RowError for one that does not fit."""
        return rows.encode(
            ids, vectors, documents, metadata, calibration=self.calibration, layout=self.table.layout, form=form
        )

    # Rows

    def _upserting(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
        on_duplicate: OnDuplicate,
    ) -> Work[int]:
        array = as_vectors(vectors, "vectors", self.calibration.accepted_dimensions)
        check_upsert(array, ids, documents, metadata, on_duplicate)
        id_array = rows.id_array(ids, self.table.layout)
        texts = document_array(documents), rows.check_metadata(metadata_array(metadata))

        def merging() -> Work[int]:
            calibration, table = self.calibration, self.table
            encoded = rows.encode(id_array, array, *texts, calibration=calibration, layout=table.layout)
            return partial(self._merge, calibration, table, encoded, on_duplicate)

        return partial(self._upsert, merging(), merging)

    def _upsert(self, merge: Work[int], merging: Callable[[], Work[int]]) -> Steps[int]:
        """Writes what was encoded or, where the collection was recalibrated since, has it encoded again."""
        while True:
            try:
                written: int = yield Transaction(merge())
            except inserting.RecalibratedError:
                yield from self._renew()
                merge = merging()
            else:
                return written

    def _merge(self, calibration: Calibration, table: Table, encoded: bytes, on_duplicate: OnDuplicate) -> Steps[int]:
        yield from inserting.check_calibration(self.name, calibration.id, table)
        return (yield from inserting.merge_rows(table, encoded, on_duplicate))

    def _is_current(self, calibration: Calibration) -> Steps[bool]:
        """Whether the collection has this calibration still."""
        found = yield Fetch("SELECT calibration FROM qvec.collection WHERE name = %s", [self.name])
        return bool(found) and found[0][0] == calibration.id

    def _renew(self) -> Steps[None]:
        """Takes over what a recalibration changed. Raises CollectionError when the collection was dropped, and perhaps
        made anew."""
        yield from self._check_there()
        found = yield from self._find(self.name)
        self.table, self.calibration = found.table, found.calibration
        _LOG.info("collection %r was recalibrated, and is read by calibration %s now", self.name, self.calibration.id)

    def _on_table(self, work: Work[T]) -> Steps[T]:
        """Does work. Raises CollectionError where that finds no table, since the collection was dropped."""
        try:
            return (yield from work())
        except (errors.UndefinedTable, CollectionError):
            yield from self._check_there()
            raise

    def _check_there(self) -> Steps[None]:
        """Raises CollectionError when the collection was dropped, and perhaps made anew, since it was opened."""
        there = yield Fetch("SELECT created_at FROM qvec.collection WHERE name = %s", [self.name])
        if not there or there[0][0] != self._created_at:
            self.was_dropped = True
            again = " and made anew" if there else ""
            raise CollectionError(f"collection {self.name!r} was dropped{again} since it was opened; open it again")

    def _still(self) -> Composed:
        return statements.still(self.name, self.calibration.id)

    def _check_unchanged(self, calibration: Calibration) -> Steps[None]:
        """Tells a collection without rows from one that was recalibrated a moment before they were read."""
        if not (yield from self._is_current(calibration)):
            raise inserting.RecalibratedError(self.name)

    def _ensure_current(self) -> Steps[None]:
        """Before its rows are streamed: what they are decoded by may have changed since it was opened."""
        if not (yield from self._is_current(self.calibration)):
            yield from self._renew()

    def _deleting(self, ids: Sequence[int | str]) -> Work[int]:
        return partial(self._delete, self._ids(ids))

    def _delete(self, ids: list[int | str]) -> Steps[int]:
        self._rows_seen = 0
        deleted: int = yield Execute(statements.delete(self.table), [ids])
        return deleted

    def _getting(self, ids: Sequence[int | str]) -> Work[list[Hit | None]]:
        return partial(self._get, self._ids(ids))

    def _get(self, ids: list[int | str]) -> Steps[list[Hit | None]]:
        fetched = yield Fetch(statements.by_ids(self.table, ("id", "document", "metadata")), [ids])
        found = {row[0]: row for row in fetched}
        return [Hit(id, float("nan"), *found[id][1:]) if id in found else None for id in ids]

    def _getting_vectors(self, ids: Sequence[int | str]) -> Work[NDArray[np.float32]]:
        return partial(self._vectors, self._ids(ids))

    def _vectors(self, ids: list[int | str]) -> Steps[NDArray[np.float32]]:
        while True:
            calibration, layout = self.calibration, self.table.layout
            statement = statements.vectors(self.table, self._still())
            fetched = yield Fetch(statement.as_bytes(None), [ids], binary=True)
            if fetched or (yield from self._is_current(calibration)):
                return rows.vectors_of(ids, dict(fetched), calibration, layout)
            yield from self._renew()

    def _matching(self, filter: FilterLike | None, limit: int | None, texts: bool) -> Work[list[Hit]]:
        check_limit(limit)
        where = search.where(filter)
        columns = ("id", "document", "metadata") if texts else ("id",)
        statement = statements.matching(self.table, columns, where.composed(), limit)

        def fetch() -> Steps[list[Hit]]:
            found = yield Fetch(statement, where.parameters)
            return [Hit(row[0], float("nan"), *row[1:]) for row in found]

        return fetch

    def _ids(self, ids: Sequence[int | str]) -> list[int | str]:
        array = rows.id_array(list(ids), self.table.layout)
        return list(array.tolist() if isinstance(array, np.ndarray) else array.to_pylist())

    def _stored(self, found: Rows) -> StoredRows:
        ids, vectors, documents, metadata = zip(*found, strict=True)
        return StoredRows(
            ids=rows.id_array(ids, self.table.layout),
            vectors=rows.stored_vectors(vectors, self.calibration, self.table.layout),
            documents=pa.array(documents, pa.large_string()),
            metadata=pa.array(metadata, pa.large_string()),
        )

    def _stored_codes(self, found: Rows) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]:
        layout = self.table.layout
        ids, codes, floats = zip(*found, strict=True)
        return (
            np.array(ids, np.int64 if layout.id_type == "bigint" else object),
            np.frombuffer(b"".join(codes), np.uint8).reshape(len(ids), -1),
            rows.stored_vectors(floats, self.calibration, layout) if layout.float_type else None,
        )

    # What it is

    def _count(self) -> Steps[int]:
        ((count,),) = yield Fetch(statements.count(self.table))
        return int(count)

    def _info(self) -> Steps[Info]:
        ((table_bytes, index_bytes),) = yield Fetch(statements.sizes(self.table))
        return Info(
            name=self.name,
            rows=(yield from self._count()),
            dimensions=self.calibration.dimensions,
            metric=self.calibration.metric,
            id_type=self.id_type,
            rescore=self.table.layout.rescore,
            prefilter=self.table.layout.prefilter,
            oversampling=self.oversampling,
            model=self.model,
            calibration=self.calibration.id,
            index="built" if (yield from self._has_index()) else "none",
            table_bytes=table_bytes,
            index_bytes=index_bytes,
            ram_bytes=None,
            embedding=self.embedding,
        )

    def _has_index(self) -> Steps[bool]:
        return indexing.exists(self.table)

    # Words

    def _searching_text(self, question: str, k: int, filter: FilterLike | None, texts: bool) -> Work[list[Hit]]:
        check_search(k, None)
        return partial(self._search_text, question, k, search.where(filter), texts)

    def _search_text(self, question: str, k: int, where: Where, texts: bool) -> Steps[list[Hit]]:
        if self._language is None:
            self._language = yield from full_text.language(self.table)
        if self._language is None:
            raise no_index(self.name)
        with span("search_text", database="Postgres", collection=self.name, k=k) as searching:
            found = yield from full_text.search(self.table, self._language, question, k, where, texts)
            searching.set_attribute("qvec.rows", len(found))
        return found

    # Settings and indexes

    def _setting_oversampling(self, oversampling: float) -> Work[None]:
        check_oversampling(oversampling)
        return partial(self._set_oversampling, oversampling)

    def _set_oversampling(self, oversampling: float) -> Steps[None]:
        statement = "UPDATE qvec.collection SET oversampling = %s WHERE name = %s"
        if not (yield Execute(statement, [oversampling, self.name])):
            raise CollectionError(f"collection {self.name!r} was dropped")
        self.oversampling = oversampling

    def _index_metadata(self, indexes: Sequence[MetadataIndex]) -> Steps[None]:
        for index in indexes:
            for statement in metadata_index.create(self.table, index):
                yield from without_limit(statement)
        yield from without_limit(SQL("ANALYZE {}").format(self.table.identifier))

    def _build_index(self, machine: Steps[Machine]) -> Steps[None]:
        yield from indexing.build(self.table, (yield from machine))

    # Searches

    def _searching(
        self,
        vectors: ArrayLike,
        k: int,
        oversampling: float | None,
        filter: FilterLike | None,
        exact: bool,
        rescore: bool,
        rescore_in: RescoreIn,
        planes: int | None,
        texts: bool,
    ) -> Work[Any]:
        """Hits of a vector (d,), or a list of them for each of (m, d)."""
        where = search.where(filter)

        def prepare() -> Prepared:
            planning = self._planning(k, oversampling, where, exact, rescore, rescore_in, texts, planes)
            return planning, self._queries(vectors)

        preparing = partial(self._of_one_calibration, prepare)
        return partial(self._search, preparing(), preparing, np.ndim(vectors) == 2)

    def _search(self, prepared: Prepared, prepare: Callable[[], Prepared], several: bool) -> Steps[Any]:
        """A statement of a collection that was recalibrated since finds nothing: then all of it is done anew."""
        while True:
            planning, queries = prepared
            plan = yield from planning()
            asked = {"queries": len(queries), "k": plan.k, "candidates": plan.candidates}
            with span("search", database="Postgres", collection=self.name, **asked):
                found = yield from search.run(plan, queries)
            if all(found) or (yield from self._is_current(plan.calibration)):
                return found if several else found[0]
            yield from self._renew()
            prepared = prepare()

    def _explaining(
        self,
        vector: ArrayLike,
        k: int,
        oversampling: float | None,
        filter: FilterLike | None,
        exact: bool,
        rescore_in: RescoreIn,
    ) -> Work[Explanation]:
        where = search.where(filter)

        def prepare() -> tuple[Prepared, float]:
            started = time.perf_counter()
            queries = self._queries(vector)
            planning = self._planning(k, oversampling, where, exact, True, rescore_in, True, None)
            return (planning, queries), (time.perf_counter() - started) * 1e3

        preparing = partial(self._of_one_calibration, prepare)
        preparing()  # what is wrong with the arguments is told at once
        return partial(self._explain, preparing)

    def _explain(self, prepare: Callable[[], tuple[Prepared, float]]) -> Steps[Explanation]:
        while True:
            (planning, queries), milliseconds = prepare()
            plan = yield from planning()
            explained = yield from explain(plan, queries[0], milliseconds)
            if explained.hits or (yield from self._is_current(plan.calibration)):
                return explained
            yield from self._renew()

    def _of_one_calibration(self, prepare: Callable[[], T]) -> T:
        """What is prepared of table and calibration, again where another thread renewed them meanwhile."""
        while True:
            calibration = self.calibration
            try:
                prepared = prepare()
            except InputError:
                if self.calibration is calibration:
                    raise
            else:
                if self.calibration is calibration:
                    return prepared

    def _queries(self, query: ArrayLike) -> NDArray[np.float32]:
        """Queries as they are compared: cut to the collection's dimensions, at unit length under cosine."""
        array = as_vectors(query, "query", self.calibration.accepted_dimensions)
        self.calibration.check(array, "query")
        return self.calibration.prepared(array)

    def _planning(
        self,
        k: int,
        oversampling: float | None,
        where: Where,
        exact: bool,
        rescore: bool,
        rescore_in: RescoreIn,
        texts: bool,
        planes: int | None,
    ) -> Work[Plan]:
        check_search(k, oversampling)
        if rescore_in not in ("client", "sql"):
            raise InputError(f"rescore_in is {rescore_in!r}, expected 'client' or 'sql'")
        if planes is not None:
            self._check_planes(planes, rescore_in)
        factor = self.oversampling if oversampling is None else oversampling
        count = search.candidate_count(k, factor) if rescore else k
        plan = Plan(self.table, self.calibration, k, count, rescore_in, texts, rescore, where, planes, self.name)
        return partial(self._plan, plan, count, exact)

    def _plan(self, plan: Plan, candidates: int, exact: bool) -> Steps[Plan]:
        """The plan, without the prefilter where every row is to be ranked."""
        every = exact or (yield from self._is_small(candidates))
        return plan.of_all_rows() if every else plan

    def _check_planes(self, planes: int, rescore_in: RescoreIn) -> None:
        held = self.table.layout.planes
        if held is None or rescore_in == "sql":
            where = "Postgres rescores" if held else "there are floats"
            raise InputError(f"planes is {planes}, but {where}; expected None")
        if not 1 <= planes <= held:
            raise InputError(f"planes is {planes}, but collection {self.name!r} keeps {held}: expected 1 to {held}")

    def _is_small(self, candidates: int) -> Steps[bool]:
        """Whether the collection has no more rows than candidates; asked until it is seen to have more."""
        reachable = self.table.vector.iterative_scan or candidates <= MAX_EF_SEARCH
        if candidates >= self._rows_seen:
            ((more,),) = yield Fetch(statements.holds_more_than(self.table, candidates))
            if more:
                self._rows_seen = candidates + 1
        return candidates >= self._rows_seen or not reachable
