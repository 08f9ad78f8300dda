"""A collection in Postgres whose methods are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.calibration import Calibration
from qvec.calls import one_call_async
from qvec.hits import Hit
from qvec.loading import OnDuplicate
from qvec.postgres import full_text, statements
from qvec.postgres.errors import explained
from qvec.postgres.indexing import watching_async
from qvec.postgres.layout import Table
from qvec.postgres.operations import CollectionOperations
from qvec.postgres.search import RescoreIn
from qvec.postgres.steps import Work, chunks_async, perform_async
from qvec.retrieval.async_methods import AsyncRetrieval
from qvec.stores import Explanation, Info, Progress, StoredRows

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.metadata_index import MetadataIndex
    from qvec.postgres.async_database import AsyncPostgresDatabase
    from qvec.queries import OfUnknownRank, OneQuery, SeveralQueries

T = TypeVar("T")


class AsyncPostgresCollection(CollectionOperations, AsyncRetrieval):
    """A named set of rows with one calibration. Get one from a database's `collection` or `create_collection`."""

    def __init__(
        self,
        database: AsyncPostgresDatabase,
        name: str,
        table: Table,
        calibration: Calibration,
        oversampling: float,
        model: str | None,
        embedding: Mapping[str, Any] | None,
        created_at: datetime | None = None,
    ) -> None:
        super().__init__(
            name, table, calibration, oversampling, model, embedding, created_at, database.embedders, database.find
        )
        self._database = database

    async def upsert(
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
        # Thousands of rows take a while to quantize.
        work = await asyncio.to_thread(self._upserting, ids, vectors, documents, metadata, on_duplicate)
        return await self._write(f"cannot write to collection {self.name!r}", work)

    async def stored_rows(self, start: int, rows: int) -> AsyncIterator[StoredRows]:
        """Its rows in the order of their ids, from the row at this position on, so many at a time."""
        await self._read(self._ensure_current)
        calibration, found = self.calibration, None
        statement = statements.stored_rows(self.table, start, self._still()).as_bytes(None)
        with explained(self._reading):
            async with self._database.connection() as connection:
                async with aclosing(chunks_async(connection, statement, {}, rows)) as parts:
                    async for found in parts:
                        yield self._stored(found)
                if found is None:
                    await perform_async(connection, self._check_unchanged(calibration))

    async def stored_codes(
        self, rows: int
    ) -> AsyncIterator[tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]]:
        """Its rows as they lie in the table, so many at a time: ids (n,), the codes column (n, bytes) and, where floats
        are kept, those (n, d)."""
        await self._read(self._ensure_current)
        calibration, found = self.calibration, None
        statement = statements.stored_codes(self.table, self._still()).as_bytes(None)
        with explained(self._reading):
            async with self._database.connection() as connection:
                async with aclosing(chunks_async(connection, statement, {}, rows)) as parts:
                    async for found in parts:
                        yield self._stored_codes(found)
                if found is None:
                    await perform_async(connection, self._check_unchanged(calibration))

    async def delete(self, ids: Sequence[int | str]) -> int:
        """Deletes the rows with these ids; returns how many there were."""
        return await self._write(f"cannot delete from collection {self.name!r}", self._deleting(ids))

    async def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """The rows with these ids, in their order, None for each that is missing; their score is NaN."""
        return await self._read(self._getting(ids))

    async def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of the rows with these ids as far as they are kept, float32 (n, d): floats, or decoded codes. NaN
        for a row that is missing."""
        return await self._read(self._getting_vectors(ids))

    async def matching(
        self, filter: FilterLike | None = None, limit: int | None = None, *, texts: bool = True
    ) -> list[Hit]:
        """The rows whose metadata passes `filter`, or all, in the order of their ids, no more than `limit` of them;
        their score is NaN. `texts` false leaves documents and metadata out."""
        return await self._read(self._matching(filter, limit, texts))

    async def count(self) -> int:
        """The number of rows."""
        return await self._read(self._count)

    async def info(self) -> Info:
        """What it is, and what it takes on disk."""
        return await self._read(self._info)

    async def set_oversampling(self, oversampling: float) -> None:
        """Stores the candidates for each hit, for this and every later search that names none: here, by the command and
        in SQL. What has the collection open elsewhere goes on with what it read."""
        work = self._setting_oversampling(oversampling)
        await self._write(f"cannot set the oversampling of collection {self.name!r}", work)

    async def has_index(self) -> bool:
        """Whether the prefilter's index is there; without it a search scans all rows."""
        return await self._read(self._has_index)

    async def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Creates indexes for filters on metadata, where they are not there yet."""
        await self._write(
            f"cannot index the metadata of collection {self.name!r}", partial(self._index_metadata, indexes)
        )

    async def index_texts(self, language: str = "english") -> None:
        """Indexes the documents' words for `search_text` and `search_hybrid`, now and as rows are written, unless they
        are. `language` says how words are stemmed, `simple` not at all. Raises InputError where they are indexed in
        another one.

        The table gets a column of lexemes, for which it is written anew: best before the rows.
        """
        doing = f"cannot index the texts of collection {self.name!r}"
        await self._write(doing, partial(full_text.create, self.table, self.name, language))

    async def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Builds the prefilter's HNSW index, unless it is there. Searches go on meanwhile, writes wait."""
        self._database.check_writable()
        with explained(f"cannot build the index of collection {self.name!r}"):
            async with (
                await self._database.connect() as builder,
                await self._database.connect() as watcher,
                watching_async(watcher, builder.info.backend_pid, progress),
            ):
                await perform_async(builder, self._build_index(self._database.machine()))

    @overload
    async def search(
        self,
        query: OfUnknownRank,
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
    @overload
    async def search(  # type: ignore[overload-overlap]
        self,
        query: OneQuery,
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
    async def search(
        self,
        query: SeveralQueries,
        k: int = ...,
        oversampling: float | None = ...,
        *,
        filter: FilterLike | None = ...,
        exact: bool = ...,
        rescore: bool = ...,
        rescore_in: RescoreIn = ...,
        planes: int | None = ...,
        texts: bool = ...,
    ) -> list[list[Hit]]: ...
    @one_call_async()
    async def search(
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

        A question in place of a vector, or several, is embedded by the collection's `embedder`. Several queries are one
        round trip, and the texts of all their hits a second; with `rescore_in` "sql", or `texts` false, one is all.

        The prefilter finds k × `oversampling` candidates (the collection's own when not given) by their bits; the
        query in float32 rescores them on codes or floats, in this process or, by `rescore_in`, in Postgres. `exact`
        rescores every row instead. A collection no larger than its candidates is ranked fully. With `planes` this
        process reads no more than so many planes of the codes: 4 of int8 are int4, 1 is binary.

        `filter` keeps to rows whose metadata passes, in the language of `qvec.filters` or as a condition that psycopg's
        sql module composed. Without `rescore` hits are ranked by the prefilter's bits alone, and a score is their
        agreement from -1 to 1, not the metric. `texts` false leaves documents and metadata out.
        """
        work = self._searching(
            await self._embedded_async(query), k, oversampling, filter, exact, rescore, rescore_in, planes, texts
        )
        found: list[Hit] | list[list[Hit]] = await self._read(work)
        return found

    async def search_text(
        self, question: str, k: int = 10, *, filter: FilterLike | None = None, texts: bool = True
    ) -> list[Hit]:
        """The k rows whose documents match the words of a question best, by BM25; any of its words will do.

        Needs `index_texts`. Raises InputError where that was not called.
        """
        return await self._read(self._searching_text(question, k, filter, texts))

    @one_call_async()
    async def explain(
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
        return await self._read(
            self._explaining(await self._embedded_async(query), k, oversampling, filter, exact, rescore_in)
        )

    async def _read(self, work: Work[T]) -> T:
        with explained(self._reading):
            return await self._database.read(partial(self._on_table, work))

    async def _write(self, doing: str, work: Work[T]) -> T:
        with explained(doing):
            return await self._database.write(partial(self._on_table, work))
