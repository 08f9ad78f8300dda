"""A collection in Qdrant whose methods are awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.hits import Hit
from qvec.qdrant.errors import explained
from qvec.qdrant.following import FollowingCollection
from qvec.qdrant.steps import Steps
from qvec.retrieval.async_methods import AsyncRetrieval
from qvec.stores import Explanation, Info, Progress, StoredRows

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.loading import OnDuplicate
    from qvec.metadata_index import MetadataIndex
    from qvec.qdrant.async_database import AsyncQdrantDatabase
    from qvec.queries import OfUnknownRank, OneQuery, SeveralQueries

T = TypeVar("T")


class AsyncQdrantCollection(FollowingCollection, AsyncRetrieval):
    """A named set of rows with one calibration. Get one from a database's `collection` or `create_collection`."""

    def __init__(self, database: AsyncQdrantDatabase, *opened: Any) -> None:
        """`opened` is what the database's catalog gives, an `Opened`."""
        super().__init__(database, *opened)
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
        """Writes rows; returns how many. A row whose id is there is replaced; of equal ids the last stays.

        `vectors` has shape (n, d); `metadata` is what JSON can hold. All rows are checked before the first is written.
        """
        steps = self._upserting_by_view(ids, vectors, documents, metadata, on_duplicate)
        return await self._run(f"cannot write to collection {self.name!r}", steps)

    async def delete(self, ids: Sequence[int | str]) -> int:
        """Deletes the rows with these ids; returns how many there were."""
        return await self._run(
            f"cannot delete from collection {self.name!r}", self._writing(lambda view: view._deleting(ids))
        )

    async def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """The rows with these ids, in their order, None for each that is missing; their score is NaN."""
        return await self._run(self._reading, self._by_view(lambda view: view._getting(ids)))

    async def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of the rows with these ids as far as they are kept, float32 (n, d). NaN for a row that is
        missing."""
        return await self._run(self._reading, self._by_view(lambda view: view._getting_vectors(ids)))

    async def matching(
        self, filter: FilterLike | None = None, limit: int | None = None, *, texts: bool = True
    ) -> list[Hit]:
        """The rows whose metadata passes `filter`, or all, in the order of their points' ids, no more than `limit` of
        them; their score is NaN. `texts` false leaves documents and metadata out."""
        return await self._run(self._reading, self._by_view(lambda view: view._matching(filter, limit, texts)))

    async def stored_rows(self, start: int, rows: int) -> AsyncIterator[StoredRows]:
        """Its rows in the order of their points' ids, from the row at this position on, so many at a time."""
        view, following = await self._run(self._reading, self._skipping(start))
        while following is not None:
            found, following = await self._run(self._reading, self._page(view, following, rows))
            if found:
                yield found

    async def count(self) -> int:
        """The number of rows."""
        return await self._run(self._reading, self._by_view(lambda view: view._count()))

    async def info(self) -> Info:
        """What it is and, in a directory, what it takes on disk and in memory."""
        return await self._run(self._reading, self._by_view(lambda view: view._info()))

    async def set_oversampling(self, oversampling: float) -> None:
        """Stores the candidates for each hit, for this and every later search that names none. What has the collection
        open elsewhere goes on with what it read."""
        steps = self._storing_oversampling(oversampling)
        await self._run(f"cannot set the oversampling of collection {self.name!r}", steps)

    async def has_index(self) -> bool:
        """Whether the graph is there for all points; without it a search scans those that it does not hold."""
        return await self._run(self._reading, self._by_view(lambda view: view._has_index()))

    async def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Has the engine index all points, and waits for it."""
        await self._run(
            f"cannot build the index of collection {self.name!r}",
            self._writing(lambda view: view._building_index(progress)),
        )

    async def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Creates indexes for filters on metadata, where they are not there yet."""
        steps = self._writing(lambda view: view._indexing_metadata(indexes))
        await self._run(f"cannot index the metadata of collection {self.name!r}", steps)

    async def index_texts(self, language: str = "english") -> None:
        """Indexes the documents' words for `search_text` and `search_hybrid`, now and as rows are written, unless they
        are. `language` says how words are stemmed, `simple` not at all. Raises InputError where they are indexed in
        another one. A server has to be 1.20 or newer."""
        steps = self._writing(lambda view: view._indexing_texts(language))
        await self._run(f"cannot index the texts of collection {self.name!r}", steps)

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
        ef: int | None = ...,
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
        ef: int | None = ...,
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
        ef: int | None = ...,
        texts: bool = ...,
    ) -> list[list[Hit]]: ...
    async def search(
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

        A question in place of a vector, or several, is embedded by the collection's `embedder`. Several queries are one
        request, texts included.

        The engine finds k × `oversampling` candidates (the collection's own when not given) by its quantized vectors
        and rescores them on the stored ones; `exact` scores every stored one instead. Scores are the true metric to the
        precision that is stored: the engine rounds the query to it as well.

        `filter` keeps to rows whose metadata passes, in the language of `qvec.filters` or as Qdrant's own
        `models.Filter`; `$ilike`, the order of strings and most patterns of `$like` take a scan. Without `rescore` hits
        are ranked by the quantized vectors alone: by turbo codes a score is a rough estimate of the metric, by binary
        ones the engine's count of equal bits less that of different ones.
        `ef` widens the search of the graph (Qdrant's hnsw_ef), `texts` false leaves documents and metadata out.
        """
        vectors = await self._embedded_async(query)
        steps = self._by_view(lambda view: view._searching(vectors, k, oversampling, filter, exact, rescore, ef, texts))
        found: list[Hit] | list[list[Hit]] = await self._run(self._reading, steps)
        return found

    async def search_text(
        self, question: str, k: int = 10, *, filter: FilterLike | None = None, texts: bool = True
    ) -> list[Hit]:
        """The k rows whose documents match the words of a question best, by BM25; any of its words will do.

        Needs `index_texts`. Raises InputError where that was not called.
        """
        return await self._run(
            self._reading, self._by_view(lambda view: view._searching_text(question, k, filter, texts))
        )

    async def explain(
        self,
        query: ArrayLike | str,
        k: int = 10,
        oversampling: float | None = None,
        *,
        filter: FilterLike | None = None,
        exact: bool = False,
    ) -> Explanation:
        """Searches for one query (d,) and tells what the engine was asked, and the time of each step."""
        vector = await self._embedded_async(query)
        steps = self._by_view(lambda view: view._explaining(vector, k, oversampling, filter, exact))
        return await self._run(self._reading, steps)

    async def _run(self, doing: str, steps: Steps[T]) -> T:
        with explained(doing):
            return await self._database.run(steps)
