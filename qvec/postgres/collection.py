"""A collection in Postgres: write, read and search its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from psycopg.sql import SQL

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.errors import CollectionError, InputError
from qvec.hits import Hit
from qvec.loading import OnDuplicate
from qvec.postgres import indexing, loading, metadata_index, rows, search, statements
from qvec.postgres.errors import explained
from qvec.postgres.explain import explain
from qvec.postgres.layout import Table
from qvec.postgres.rows import stored_vectors
from qvec.postgres.schema import Connection
from qvec.postgres.search import Plan, RescoreIn, Where
from qvec.retrieval.methods import Retrieval
from qvec.stores import Explanation, Info, Progress, StoredRows, check_oversampling, check_search, check_upsert
from qvec.texts import document_array, metadata_array

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.metadata_index import MetadataIndex
    from qvec.postgres.database import PostgresDatabase
    from qvec.sources import Form, IdType

T = TypeVar("T")


class PostgresCollection(Retrieval):
    """A named set of rows with one calibration. Get one from a database's `collection` or `create_collection`."""

    def __init__(
        self,
        database: PostgresDatabase,
        name: str,
        table: Table,
        calibration: Calibration,
        oversampling: float,
        model: str | None,
        embedding: Mapping[str, Any] | None,
    ) -> None:
        self.name = name
        self.table = table
        self.calibration = calibration
        self.oversampling = oversampling
        self.model = model
        self.embedding = embedding
        self._database = database
        self._embedders = database.embedders
        self._rows_seen = 0

    def __repr__(self) -> str:
        layout = self.table.layout
        return (
            f"PostgresCollection({self.name!r}, dimensions={layout.dimensions}, rescore={layout.rescore!r}, "
            f"prefilter={layout.prefilter!r}, calibration={self.calibration.id!r})"
        )

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

    def upsert(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        on_duplicate: OnDuplicate = "replace",
    ) -> int:
        """Writes rows, all or none; returns how many. A row whose id is there is replaced; of equal ids the last stays.

        `vectors` has shape (n, d); `metadata` is what JSON can hold.
        """
        array = as_vectors(vectors, "vectors", self.calibration.accepted_dimensions)
        check_upsert(array, ids, documents, metadata, on_duplicate)
        encoded = self.encode(
            rows.id_array(ids, self.table.layout),
            array,
            document_array(documents),
            rows.check_metadata(metadata_array(metadata)),
        )
        doing = f"cannot write to collection {self.name!r}"
        with explained(doing), self._database.live_connection() as connection, connection.transaction():
            loading.check_calibration(connection, self.name, self.calibration.id)
            return loading.merge_rows(connection, self.table, encoded, on_duplicate)

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

    @property
    def form(self) -> Form:
        """What the vectors of `stored_rows` are."""
        return "prepared" if self.keeps_floats else "centred"

    def stored_rows(self, start: int, rows: int) -> Iterator[StoredRows]:
        """Its rows in the order of their ids, from the row at this position on, so many at a time."""
        statement = statements.stored_rows(self.table, start).as_bytes(None)
        with explained(f"cannot read collection {self.name!r}"), self._database.connection() as connection:
            for found in search.chunks(connection, statement, {}, rows):
                yield self._stored(found)

    def stored_codes(self, rows: int) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]]:
        """Its rows as they lie in the table, so many at a time: ids (n,), the codes column (n, bytes) and, where floats
        are kept, those (n, d)."""
        layout = self.table.layout
        statement = statements.stored_codes(self.table).as_bytes(None)
        with explained(f"cannot read collection {self.name!r}"), self._database.connection() as connection:
            for found in search.chunks(connection, statement, {}, rows):
                ids, codes, floats = zip(*found, strict=True)
                yield (
                    np.array(ids, np.int64 if layout.id_type == "bigint" else object),
                    np.frombuffer(b"".join(codes), np.uint8).reshape(len(ids), -1),
                    stored_vectors(floats, self.calibration, layout) if layout.float_type else None,
                )

    def _stored(self, found: list[tuple[Any, ...]]) -> StoredRows:
        ids, vectors, documents, metadata = zip(*found, strict=True)
        return StoredRows(
            ids=rows.id_array(ids, self.table.layout),
            vectors=rows.stored_vectors(vectors, self.calibration, self.table.layout),
            documents=pa.array(documents, pa.large_string()),
            metadata=pa.array(metadata, pa.large_string()),
        )

    def delete(self, ids: Sequence[int | str]) -> int:
        """Deletes the rows with these ids; returns how many there were."""
        statement, wanted = statements.delete(self.table), self._ids(ids)
        with explained(f"cannot delete from collection {self.name!r}"), self._database.live_connection() as connection:
            self._rows_seen = 0
            return connection.execute(statement, [wanted]).rowcount

    def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """The rows with these ids, in their order, None for each that is missing; their score is NaN."""
        wanted = self._ids(ids)
        statement = statements.by_ids(self.table, ("id", "document", "metadata"))
        found = {row[0]: row for row in self._read(lambda c: c.execute(statement, [wanted]).fetchall())}
        return [Hit(id, float("nan"), *found[id][1:]) if id in found else None for id in wanted]

    def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of the rows with these ids as far as they are kept, float32 (n, d): floats, or decoded codes. NaN
        for a row that is missing."""
        wanted = self._ids(ids)
        statement = statements.vectors(self.table).as_bytes(None)
        with_codes = self._read(lambda c: c.cursor(binary=True).execute(statement, [wanted]).fetchall())
        return rows.vectors_of(wanted, dict(with_codes), self.calibration, self.table.layout)

    def _ids(self, ids: Sequence[int | str]) -> list[int | str]:
        array = rows.id_array(list(ids), self.table.layout)
        return list(array.tolist() if isinstance(array, np.ndarray) else array.to_pylist())

    def count(self) -> int:
        """The number of rows."""
        (found,) = self._read(lambda c: c.execute(statements.count(self.table)).fetchall())
        return int(found[0])

    def info(self) -> Info:
        """What it is, and what it takes on disk."""
        ((table_bytes, index_bytes),) = self._read(lambda c: c.execute(statements.sizes(self.table)).fetchall())
        return Info(
            name=self.name,
            rows=self.count(),
            dimensions=self.calibration.dimensions,
            metric=self.calibration.metric,
            id_type=self.id_type,
            rescore=self.table.layout.rescore,
            prefilter=self.table.layout.prefilter,
            oversampling=self.oversampling,
            model=self.model,
            calibration=self.calibration.id,
            index="built" if self.has_index() else "none",
            table_bytes=table_bytes,
            index_bytes=index_bytes,
            ram_bytes=None,
            embedding=self.embedding,
        )

    def set_oversampling(self, oversampling: float) -> None:
        """Stores the candidates for each hit, for this and every later search that names none: here, by the command and
        in SQL. What has the collection open elsewhere goes on with what it read."""
        check_oversampling(oversampling)
        doing = f"cannot set the oversampling of collection {self.name!r}"
        with explained(doing), self._database.live_connection() as connection:
            statement = "UPDATE qvec.collection SET oversampling = %s WHERE name = %s"
            if not connection.execute(statement, [oversampling, self.name]).rowcount:
                raise CollectionError(f"collection {self.name!r} was dropped")
        self.oversampling = oversampling

    def has_index(self) -> bool:
        """Whether the prefilter's index is there; without it a search scans all rows."""
        return self._read(lambda c: indexing.exists(c, self.table))

    def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Creates indexes for filters on metadata, where they are not there yet."""
        doing = f"cannot index the metadata of collection {self.name!r}"
        with explained(doing), self._database.live_connection() as connection:
            for statement in (statement for index in indexes for statement in metadata_index.create(self.table, index)):
                connection.execute(statement)
            connection.execute(SQL("ANALYZE {}").format(self.table.identifier))

    def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Builds the prefilter's HNSW index, unless it is there. Searches go on meanwhile, writes wait."""
        doing = f"cannot build the index of collection {self.name!r}"
        with explained(doing), self._database.connect() as builder, self._database.connect() as watcher:
            indexing.build(builder, watcher, self.table, self._database.machine(builder), progress)

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
        rescore_in: RescoreIn = ...,
        planes: int | None = ...,
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
        rescore_in: RescoreIn = ...,
        planes: int | None = ...,
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
        rescore_in: RescoreIn = "client",
        planes: int | None = None,
        texts: bool = True,
    ) -> list[Hit] | list[list[Hit]]:
        """The k rows nearest to a query (d,), best first, or a list of them for each query of (m, d).

        A question in place of a vector, or several, is embedded by the collection's `embedder`.

        The prefilter finds k × `oversampling` candidates (the collection's own when not given) by their bits; the
        query in float32 rescores them on codes or floats, in this process or, by `rescore_in`, in Postgres. `exact`
        rescores every row instead. A collection no larger than its candidates is ranked fully. With `planes` this
        process reads no more than so many planes of the codes: 4 of int8 are int4, 1 is binary.

        `filter` keeps to rows whose metadata passes, in the language of `qvec.filters` or as a condition that psycopg's
        sql module composed. Without `rescore` hits are ranked by the prefilter's bits alone, and a score is their
        agreement from -1 to 1, not the metric. `texts` false leaves documents and metadata out.
        """
        vectors = self._embedded(query)
        queries = self._queries(vectors)
        where = search.where(filter)
        found = self._read(
            lambda c: search.run(
                c, self._plan(c, k, oversampling, where, exact, rescore, rescore_in, texts, planes), queries
            )
        )
        return found if np.ndim(vectors) == 2 else found[0]

    def explain(
        self,
        query: ArrayLike | str,
        k: int = 10,
        oversampling: float | None = None,
        *,
        filter: FilterLike | None = None,
        exact: bool = False,
        rescore_in: RescoreIn = "client",
    ) -> Explanation:
        """Searches for one query (d,) and tells how: the statement, Postgres's plan, the time of each step."""
        vector = self._embedded(query)
        started = time.perf_counter()
        prepared = self._queries(vector)[0]
        where = search.where(filter)
        prepare_ms = (time.perf_counter() - started) * 1e3
        return self._read(
            lambda c: explain(
                c, self._plan(c, k, oversampling, where, exact, True, rescore_in, True), prepared, prepare_ms
            )
        )

    def _queries(self, query: ArrayLike) -> NDArray[np.float32]:
        """Queries as they are compared: cut to the collection's dimensions, at unit length under cosine."""
        array = as_vectors(query, "query", self.calibration.accepted_dimensions)
        self.calibration.check(array, "query")
        return self.calibration.prepared(array)

    def _plan(
        self,
        connection: Connection,
        k: int,
        oversampling: float | None,
        where: Where,
        exact: bool,
        rescore: bool,
        rescore_in: RescoreIn,
        texts: bool,
        planes: int | None = None,
    ) -> Plan:
        check_search(k, oversampling)
        if rescore_in not in ("client", "sql"):
            raise InputError(f"rescore_in is {rescore_in!r}, expected 'client' or 'sql'")
        if planes is not None:
            self._check_planes(planes, rescore_in)
        factor = self.oversampling if oversampling is None else oversampling
        count = search.candidate_count(k, factor) if rescore else k
        every = exact or self._is_small(connection, count)
        return Plan(
            self.table, self.calibration, k, None if every else count, rescore_in, texts, rescore, where, planes
        )

    def _check_planes(self, planes: int, rescore_in: RescoreIn) -> None:
        held = self.table.layout.planes
        if held is None or rescore_in == "sql":
            where = "Postgres rescores" if held else "there are floats"
            raise InputError(f"planes is {planes}, but {where}; expected None")
        if not 1 <= planes <= held:
            raise InputError(f"planes is {planes}, but collection {self.name!r} keeps {held}: expected 1 to {held}")

    def _is_small(self, connection: Connection, candidates: int) -> bool:
        """Whether the collection has no more rows than candidates; asked until it is seen to have more."""
        reachable = self.table.vector.iterative_scan or candidates <= statements.MAX_EF_SEARCH
        if candidates >= self._rows_seen:
            row = connection.execute(statements.holds_more_than(self.table, candidates)).fetchone()
            if row and row[0]:
                self._rows_seen = candidates + 1
        return candidates >= self._rows_seen or not reachable

    def _read(self, work: Callable[[Connection], T]) -> T:
        with explained(f"cannot read collection {self.name!r}"):
            return self._database.read(work)
