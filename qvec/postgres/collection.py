"""A collection in Postgres: write, read and search its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.calibration import Calibration
from qvec.calls import one_call
from qvec.hits import Hit
from qvec.loading import OnDuplicate
from qvec.postgres import full_text, statements
from qvec.postgres.errors import explained
from qvec.postgres.indexing import watching
from qvec.postgres.layout import Table
from qvec.postgres.operations import CollectionOperations
from qvec.postgres.search import RescoreIn
from qvec.postgres.steps import Work, chunks, perform
from qvec.retrieval.methods import Retrieval
from qvec.stores import Explanation, Info, Progress, StoredRows

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.metadata_index import MetadataIndex
    from qvec.postgres.database import PostgresDatabase
    from qvec.queries import OfUnknownRank, OneQuery, SeveralQueries

T = TypeVar("T")


class PostgresCollection(CollectionOperations, Retrieval):
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
        created_at: datetime | None = None,
    ) -> None:
        super().__init__(
            name, table, calibration, oversampling, model, embedding, created_at, database.embedders, database.find
        )
        self._database = database

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
        work = self._upserting(ids, vectors, documents, metadata, on_duplicate)
        return self._write(f"cannot write to collection {self.name!r}", work)

    def stored_rows(self, start: int, rows: int) -> Iterator[StoredRows]:
        """Its rows in the order of their ids, from the row at this position on, so many at a time."""
        self._read(self._ensure_current)
        calibration, found = self.calibration, None
        statement = statements.stored_rows(self.table, start, self._still()).as_bytes(None)
        with explained(self._reading), self._database.connection() as connection:
            for found in chunks(connection, statement, {}, rows):
                yield self._stored(found)
            if found is None:
                perform(connection, self._check_unchanged(calibration))

    def stored_codes(self, rows: int) -> Iterator[tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32] | None]]:
        """Its rows as they lie in the table, so many at a time: ids (n,), the codes column (n, bytes) and, where floats
        are kept, those (n, d)."""
        self._read(self._ensure_current)
        calibration, found = self.calibration, None
        statement = statements.stored_codes(self.table, self._still()).as_bytes(None)
        with explained(self._reading), self._database.connection() as connection:
            for found in chunks(connection, statement, {}, rows):
                yield self._stored_codes(found)
            if found is None:
                perform(connection, self._check_unchanged(calibration))

    def delete(self, ids: Sequence[int | str]) -> int:
        """Deletes the rows with these ids; returns how many there were."""
        return self._write(f"cannot delete from collection {self.name!r}", self._deleting(ids))

    def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """The rows with these ids, in their order, None for each that is missing; their score is NaN."""
        return self._read(self._getting(ids))

    def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of the rows with these ids as far as they are kept, float32 (n, d): floats, or decoded codes. NaN
        for a row that is missing."""
        return self._read(self._getting_vectors(ids))

    def matching(self, filter: FilterLike | None = None, limit: int | None = None, *, texts: bool = True) -> list[Hit]:
        """The rows whose metadata passes `filter`, or all, in the order of their ids, no more than `limit` of them;
        their score is NaN. `texts` false leaves documents and metadata out."""
        return self._read(self._matching(filter, limit, texts))

    def count(self) -> int:
        """The number of rows."""
        return self._read(self._count)

    def info(self) -> Info:
        """What it is, and what it takes on disk."""
        return self._read(self._info)

    def set_oversampling(self, oversampling: float) -> None:
        """Stores the candidates for each hit, for this and every later search that names none: here, by the command and
        in SQL. What has the collection open elsewhere goes on with what it read."""
        work = self._setting_oversampling(oversampling)
        self._write(f"cannot set the oversampling of collection {self.name!r}", work)

    def has_index(self) -> bool:
        """Whether the prefilter's index is there; without it a search scans all rows."""
        return self._read(self._has_index)

    def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Creates indexes for filters on metadata, where they are not there yet."""
        self._write(f"cannot index the metadata of collection {self.name!r}", partial(self._index_metadata, indexes))

    def index_texts(self, language: str = "english") -> None:
        """Indexes the documents' words for `search_text` and `search_hybrid`, now and as rows are written, unless they
        are. `language` says how words are stemmed, `simple` not at all. Raises InputError where they are indexed in
        another one.

        The table gets a column of lexemes, for which it is written anew: best before the rows.
        """
        doing = f"cannot index the texts of collection {self.name!r}"
        self._write(doing, partial(full_text.create, self.table, self.name, language))

    def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Builds the prefilter's HNSW index, unless it is there. Searches go on meanwhile, writes wait."""
        self._database.check_writable()
        with (
            explained(f"cannot build the index of collection {self.name!r}"),
            self._database.connect() as builder,
            self._database.connect() as watcher,
            watching(watcher, builder.info.backend_pid, progress),
        ):
            perform(builder, self._build_index(self._database.machine()))

    @overload
    def search(
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
    def search(  # type: ignore[overload-overlap]
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
    def search(
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
    @one_call()
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
            self._embedded(query), k, oversampling, filter, exact, rescore, rescore_in, planes, texts
        )
        found: list[Hit] | list[list[Hit]] = self._read(work)
        return found

    def search_text(
        self, question: str, k: int = 10, *, filter: FilterLike | None = None, texts: bool = True
    ) -> list[Hit]:
        """The k rows whose documents match the words of a question best, by BM25; any of its words will do.

        Needs `index_texts`. Raises InputError where that was not called.
        """
        return self._read(self._searching_text(question, k, filter, texts))

    @one_call()
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
        return self._read(self._explaining(self._embedded(query), k, oversampling, filter, exact, rescore_in))

    def _read(self, work: Work[T]) -> T:
        with explained(self._reading):
            return self._database.read(partial(self._on_table, work))

    def _write(self, doing: str, work: Work[T]) -> T:
        with explained(doing):
            return self._database.write(partial(self._on_table, work))
