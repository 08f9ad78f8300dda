"""A collection in Postgres: one table, read and written by the calibration that the collection has at the moment."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from psycopg import errors
from psycopg.sql import Composed

from qvec.calibration import Calibration
from qvec.defaults import MAX_EF_SEARCH
from qvec.errors import CollectionError
from qvec.full_text import clean_question, not_indexed_error
from qvec.metadata_index import MetadataIndex
from qvec.postgres import statements, text_index
from qvec.postgres._async import indexes
from qvec.postgres._async.catalog import AsyncCatalog, CatalogEntry
from qvec.postgres._async.connections import AsyncConnections, Work
from qvec.postgres._async.execute import Rows, chunks, execute, fetch
from qvec.postgres._async.search_steps import explain, search
from qvec.postgres._async.session import AsyncConnection
from qvec.postgres._async.writing import check_calibration, merge_rows
from qvec.postgres.errors import RecalibratedError
from qvec.postgres.layout import Table
from qvec.postgres.machine import Machine, watching_async
from qvec.postgres.rows import check_metadata, encode_rows, stored_vectors, vectors_of
from qvec.postgres.search_plan import EVERY_ROW, SearchPlan, Where
from qvec.results import Explanation, Hit, Info, Progress, StoredRows
from qvec.sources import Form, IdType
from qvec.store._async.interface import StoredCodes
from qvec.store.requests import (
    OnDuplicate,
    RowColumns,
    RowFilter,
    SearchRequest,
    TextRequest,
    candidate_count,
    prepared_queries,
)
from qvec.tracing import span
from qvec.waiting import in_thread_async

T = TypeVar("T")

_LOG = logging.getLogger("qvec.postgres")


class CodedTable(NamedTuple):
    """A table and the calibration of its codes; a recalibration replaces both at once."""

    table: Table
    calibration: Calibration


class AsyncPostgresCollection:
    """A collection's table. A statement that reads codes finds nothing once the collection has another calibration;
    then the new table and calibration are read, and the work is done again."""

    exposes_codes = True
    accepts_any_id = False

    def __init__(
        self, connections: AsyncConnections, catalog: AsyncCatalog, entry: CatalogEntry, embedded: bool
    ) -> None:
        """`embedded` says that the server runs on this machine for this program."""
        self.name = entry.name
        self.oversampling = entry.oversampling
        self.model = entry.model
        self.embedding = entry.embedding
        self.was_dropped = False
        self._connections = connections
        self._catalog = catalog
        self._embedded = embedded
        self._coded = CodedTable(entry.table, entry.calibration)
        self._created_at = entry.created_at
        self._min_rows = 0
        """A number of rows that the collection was seen to have at least."""
        self._language: str | None = None

    @property
    def table(self) -> Table:
        return self._coded.table

    @property
    def calibration(self) -> Calibration:
        return self._coded.calibration

    @property
    def id_type(self) -> IdType:
        return self.table.layout.id_type

    @property
    def keeps_floats(self) -> bool:
        """Whether it holds vectors as floats, and not as codes alone."""
        return self.table.layout.float_type is not None

    @property
    def settings(self) -> dict[str, Any]:
        layout = self.table.layout
        return {"rescore": layout.rescore, "prefilter": layout.prefilter, "oversampling": self.oversampling}

    @property
    def form(self) -> Form:
        return "prepared" if self.keeps_floats else "centred"

    def check_writable(self) -> None:
        """Do nothing: qvec made every collection that it opens."""

    # Searches

    async def search(self, queries: NDArray[Any], request: SearchRequest) -> list[list[Hit]]:
        coded, where = self._coded, Where.of(request.filter)
        prepared = prepared_queries(queries, coded.calibration)

        async def work(connection: AsyncConnection) -> list[list[Hit]]:
            nonlocal coded, prepared
            while True:
                plan = await self._plan(connection, coded, request, where)
                attributes = {"queries": len(prepared), "k": plan.k, "candidates": plan.candidates}
                with span("search", database="Postgres", collection=self.name, **attributes):
                    found = await search(connection, plan, prepared)
                if all(found) or await self._has_calibration(connection, coded.calibration):
                    return found
                coded = await self._refresh(connection)
                prepared = prepared_queries(queries, coded.calibration)

        return await self._read(work)

    async def explain(self, query: NDArray[Any], request: SearchRequest) -> Explanation:
        where = Where.of(request.filter)

        async def work(connection: AsyncConnection) -> Explanation:
            coded = self._coded
            while True:
                started = time.perf_counter()
                prepared = prepared_queries(query, coded.calibration)[0]
                milliseconds = (time.perf_counter() - started) * 1e3
                plan = await self._plan(connection, coded, request, where)
                explanation = await explain(connection, plan, prepared, milliseconds)
                if explanation.hits or await self._has_calibration(connection, coded.calibration):
                    return explanation
                coded = await self._refresh(connection)

        return await self._read(work)

    async def _plan(
        self, connection: AsyncConnection, coded: CodedTable, request: SearchRequest, where: Where
    ) -> SearchPlan:
        """Return the plan, without the prefilter where every row has to be ranked."""
        factor = self.oversampling if request.oversampling is None else request.oversampling
        candidates = candidate_count(request.k, factor) if request.rescore else request.k
        plan = SearchPlan(
            coded.table,
            coded.calibration,
            request.k,
            candidates,
            request.rescore_in or "client",
            request.texts,
            request.rescore,
            where,
            request.planes,
            self.name,
        )
        every_row = request.exact or await self._is_small(connection, coded.table, candidates)
        return plan.of_all_rows() if every_row else plan

    async def _is_small(self, connection: AsyncConnection, table: Table, candidates: int) -> bool:
        """Return whether the collection has no more rows than candidates; ask until it is seen to have more."""
        reachable = table.vector.iterative_scan or candidates <= MAX_EF_SEARCH
        if candidates >= self._min_rows:
            ((more,),) = await fetch(connection, statements.holds_more_than(table, candidates))
            if more:
                self._min_rows = candidates + 1
        return candidates >= self._min_rows or not reachable

    async def search_text(self, request: TextRequest) -> list[Hit]:
        where = Where.of(request.filter)

        async def work(connection: AsyncConnection) -> list[Hit]:
            if self._language is None:
                self._language = await indexes.text_language(connection, self.table)
            if self._language is None:
                raise not_indexed_error(self.name)
            statement = text_index.search(self.table, self._language, request.k, where.composed())
            question = clean_question(request.question).replace("\0", " ")
            parameters = {**where.parameters, "question": question}
            with span("search_text", database="Postgres", collection=self.name, k=request.k) as searching:
                prepare = None if where == EVERY_ROW else False
                found = await fetch(connection, statement, parameters, prepare=prepare)
                searching.set_attribute("qvec.rows", len(found))
            return [Hit(*row) if request.texts else Hit(*row[:2]) for row in found]

        return await self._read(work)

    # Rows

    def encode(self, rows: RowColumns) -> bytes:
        """Return rows in the format of COPY BINARY. Raise RowError for a row that cannot be stored."""
        return encode_rows(rows, self._coded.calibration, self._coded.table.layout)

    async def upsert(self, rows: RowColumns, on_duplicate: OnDuplicate) -> int:
        check_metadata(rows.metadata)
        coded = self._coded
        # Thousands of rows take a while to quantize.
        encoded = await in_thread_async(encode_rows, rows, coded.calibration, coded.table.layout)

        async def work(connection: AsyncConnection) -> int:
            nonlocal coded, encoded
            while True:
                try:
                    async with connection.transaction():
                        await check_calibration(connection, self.name, coded.calibration.id, coded.table)
                        return await merge_rows(connection, coded.table, encoded, on_duplicate)
                except RecalibratedError:
                    coded = await self._refresh(connection)
                    encoded = await in_thread_async(encode_rows, rows, coded.calibration, coded.table.layout)

        return await self._write(work)

    async def delete(self, ids: list[int | str] | None, filter: RowFilter) -> int:
        self._min_rows = 0
        where = Where.of(filter)
        parameters = {**where.parameters, statements.DELETED_IDS: ids}

        async def work(connection: AsyncConnection) -> int:
            statement = statements.delete(self.table, where.composed(), by_id=ids is not None)
            return await execute(connection, statement, parameters)

        return await self._write(work)

    async def get(self, ids: list[int | str]) -> list[Hit | None]:
        async def work(connection: AsyncConnection) -> list[Hit | None]:
            statement = statements.by_ids(self.table, ("id", "document", "metadata"))
            found = {row[0]: row for row in await fetch(connection, statement, [ids])}
            return [Hit(id, float("nan"), *found[id][1:]) if id in found else None for id in ids]

        return await self._read(work)

    async def vectors(self, ids: list[int | str]) -> NDArray[np.float32]:
        async def work(connection: AsyncConnection) -> NDArray[np.float32]:
            coded = self._coded
            while True:
                statement = statements.vectors(coded.table, self._unchanged(coded))
                fetched = await fetch(connection, statement.as_bytes(None), [ids], binary=True)
                if fetched or await self._has_calibration(connection, coded.calibration):
                    return vectors_of(ids, dict(fetched), coded.calibration, coded.table.layout)
                coded = await self._refresh(connection)

        return await self._read(work)

    async def scroll(self, filter: RowFilter, limit: int | None, texts: bool) -> list[Hit]:
        where = Where.of(filter)
        columns = ("id", "document", "metadata") if texts else ("id",)

        async def work(connection: AsyncConnection) -> list[Hit]:
            statement = statements.first_rows(self.table, columns, where.composed(), limit)
            found = await fetch(connection, statement, where.parameters)
            return [Hit(row[0], float("nan"), *row[1:]) for row in found]

        return await self._read(work)

    async def sample_ids(self, size: int, seed: int) -> list[int | str]:
        async def work(connection: AsyncConnection) -> list[int | str]:
            return [id for (id,) in await fetch(connection, statements.sampled_ids(self.table, size, seed))]

        return await self._read(work)

    async def iter_rows(self, start: int, batch_rows: int) -> AsyncGenerator[StoredRows, None]:
        coded = await self._read(self._current)
        statement = statements.stored_rows(coded.table, start, self._unchanged(coded)).as_bytes(None)
        async with aclosing(self._stream(coded, statement, batch_rows)) as found:
            async for batch in found:
                yield _stored_rows(batch, coded)

    async def iter_codes(self, batch_rows: int) -> AsyncGenerator[StoredCodes, None]:
        coded = await self._read(self._current)
        statement = statements.stored_codes(coded.table, self._unchanged(coded)).as_bytes(None)
        async with aclosing(self._stream(coded, statement, batch_rows)) as found:
            async for batch in found:
                yield _stored_codes(batch, coded)

    async def _stream(self, coded: CodedTable, statement: bytes, batch_rows: int) -> AsyncGenerator[Rows, None]:
        """Yield the rows of a statement that finds nothing once the collection has another calibration."""
        found = None
        async with self._connections.connection() as connection:
            async with aclosing(chunks(connection, statement, {}, batch_rows)) as parts:
                async for found in parts:
                    yield found
            if found is None and not await self._has_calibration(connection, coded.calibration):
                raise RecalibratedError(self.name)

    async def count(self, filter: RowFilter) -> int:
        where = Where.of(filter)
        return await self._read(lambda connection: self._count(connection, where))

    async def _count(self, connection: AsyncConnection, where: Where) -> int:
        ((count,),) = await fetch(connection, statements.count(self.table, where.composed()), where.parameters)
        return int(count)

    # Settings and indexes

    async def info(self) -> Info:
        async def work(connection: AsyncConnection) -> Info:
            table, calibration = self._coded
            (sizes,) = await fetch(connection, statements.sizes(table))
            parts = dict(zip(statements.PARTS, sizes, strict=True))
            return Info(
                name=self.name,
                rows=await self._count(connection, EVERY_ROW),
                dimensions=calibration.dimensions,
                metric=calibration.metric,
                id_type=table.layout.id_type,
                rescore=table.layout.rescore,
                prefilter=table.layout.prefilter,
                oversampling=self.oversampling,
                model=self.model,
                calibration=calibration.id,
                index="built" if await indexes.exists(connection, table) else "none",
                table_bytes=sum(sizes) - parts["prefilter_index"],
                index_bytes=parts["prefilter_index"],
                ram_bytes=None,
                embedding=self.embedding,
                part_bytes=parts,
            )

        return await self._read(work)

    async def has_index(self) -> bool:
        return await self._read(lambda connection: indexes.exists(connection, self.table))

    async def set_oversampling(self, oversampling: float) -> None:
        async def work(connection: AsyncConnection) -> None:
            statement = "UPDATE qvec.collection SET oversampling = %s WHERE name = %s"
            if not await execute(connection, statement, [oversampling, self.name]):
                raise CollectionError(f"collection {self.name!r} was dropped")

        await self._write(work)
        self.oversampling = oversampling

    async def build_index(self, progress: Progress) -> None:
        """Build the HNSW index over direct connections: a build may take longer than the pool's statements. Searches
        continue meanwhile, writes wait."""
        async with (
            await self._connections.connect(writes=True) as builder,
            await self._connections.connect() as watcher,
            watching_async(watcher, self.table.identifier.as_string(), progress),
        ):
            machine = Machine.local() if self._embedded else await indexes.remote_machine(builder)
            await indexes.build(builder, self.table, machine)

    async def index_metadata(self, wanted: Sequence[MetadataIndex]) -> None:
        await self._write(lambda connection: indexes.index_metadata(connection, self.table, wanted))

    async def index_texts(self, language: str) -> None:
        await self._write(lambda connection: indexes.index_texts(connection, self.table, self.name, language))

    # Recalibrations and drops

    async def _read(self, work: Work[T]) -> T:
        return await self._connections.read(lambda connection: self._on_table(connection, work))

    async def _write(self, work: Work[T]) -> T:
        return await self._connections.write(lambda connection: self._on_table(connection, work))

    async def _on_table(self, connection: AsyncConnection, work: Work[T]) -> T:
        """Do work. Raise CollectionError where it finds no table because the collection was dropped."""
        try:
            return await work(connection)
        except (errors.UndefinedTable, CollectionError):
            await self._check_exists(connection)
            raise

    async def _check_exists(self, connection: AsyncConnection) -> None:
        """Raise CollectionError where the collection was dropped since it was opened, even if it was created again."""
        found = await fetch(connection, "SELECT created_at FROM qvec.collection WHERE name = %s", [self.name])
        if not found or found[0][0] != self._created_at:
            self.was_dropped = True
            again = " and created again" if found else ""
            raise CollectionError(f"collection {self.name!r} was dropped{again} since it was opened; open it again")

    async def _has_calibration(self, connection: AsyncConnection, calibration: Calibration) -> bool:
        """Return whether the collection still has this calibration."""
        found = await fetch(connection, "SELECT calibration FROM qvec.collection WHERE name = %s", [self.name])
        return bool(found) and found[0][0] == calibration.id

    async def _current(self, connection: AsyncConnection) -> CodedTable:
        """Return the table and calibration as they are now, before rows are streamed."""
        if await self._has_calibration(connection, self.calibration):
            return self._coded
        return await self._refresh(connection)

    async def _refresh(self, connection: AsyncConnection) -> CodedTable:
        """Read what a recalibration changed. Raise CollectionError where the collection was dropped."""
        await self._check_exists(connection)
        entry = await self._catalog.find(connection, self.name)
        self._coded = CodedTable(entry.table, entry.calibration)
        _LOG.info("collection %r was recalibrated; it now has calibration %s", self.name, self.calibration.id)
        return self._coded

    def _unchanged(self, coded: CodedTable) -> Composed:
        return statements.unchanged(self.name, coded.calibration.id)


def _stored_rows(found: Rows, coded: CodedTable) -> StoredRows:
    ids, vectors, documents, metadata = zip(*found, strict=True)
    layout = coded.table.layout
    return StoredRows(
        ids=pa.array(ids, pa.int64() if layout.id_type == "bigint" else pa.large_string()),
        vectors=stored_vectors(vectors, coded.calibration, layout),
        documents=pa.array(documents, pa.large_string()),
        metadata=pa.array(metadata, pa.large_string()),
    )


def _stored_codes(found: Rows, coded: CodedTable) -> StoredCodes:
    ids, codes, floats = zip(*found, strict=True)
    layout = coded.table.layout
    return (
        np.array(ids, np.int64 if layout.id_type == "bigint" else object),
        np.frombuffer(b"".join(codes), np.uint8).reshape(len(ids), -1),
        stored_vectors(floats, coded.calibration, layout) if layout.float_type else None,
    )
