"""A collection in Qdrant: write, read and search its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.hits import Hit
from qvec.qdrant.errors import explained
from qvec.qdrant.following import FollowingCollection
from qvec.qdrant.steps import Steps
from qvec.retrieval.methods import Retrieval
from qvec.stores import Explanation, Info, Progress, StoredRows

if TYPE_CHECKING:
    from qvec.filters import FilterLike
    from qvec.loading import OnDuplicate
    from qvec.metadata_index import MetadataIndex
    from qvec.qdrant.database import QdrantDatabase
    from qvec.queries import OfUnknownRank, OneQuery, SeveralQueries

T = TypeVar("T")


class QdrantCollection(FollowingCollection, Retrieval):
    """A named set of rows with one calibration. Get one from a database's `collection` or `create_collection`."""

    def __init__(self, database: QdrantDatabase, *opened: Any) -> None:
        """`opened` is what the database's catalog gives, an `Opened`."""
        super().__init__(database, *opened)
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
        """Writes rows; returns how many. A row whose id is there is replaced; of equal ids the last stays.

        `vectors` has shape (n, d); `metadata` is what JSON can hold. All rows are checked before the first is written.
        """
        steps = self._upserting_by_view(ids, vectors, documents, metadata, on_duplicate)
        return self._run(f"cannot write to collection {self.name!r}", steps)

    def delete(self, ids: Sequence[int | str]) -> int:
        """Deletes the rows with these ids; returns how many there were."""
        return self._run(
            f"cannot delete from collection {self.name!r}", self._writing(lambda view: view._deleting(ids))
        )

    def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """The rows with these ids, in their order, None for each that is missing; their score is NaN."""
        return self._run(self._reading, self._by_view(lambda view: view._getting(ids)))

    def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """The vectors of the rows with these ids as far as they are kept, float32 (n, d). NaN for a row that is
        missing."""
        return self._run(self._reading, self._by_view(lambda view: view._getting_vectors(ids)))

    def matching(self, filter: FilterLike | None = None, limit: int | None = None, *, texts: bool = True) -> list[Hit]:
        """The rows whose metadata passes `filter`, or all, in the order of their points' ids, no more than `limit` of
        them; their score is NaN. `texts` false leaves documents and metadata out."""
        return self._run(self._reading, self._by_view(lambda view: view._matching(filter, limit, texts)))

    def stored_rows(self, start: int, rows: int) -> Iterator[StoredRows]:
        """Its rows in the order of their points' ids, from the row at this position on, so many at a time."""
        view, following = self._run(self._reading, self._skipping(start))
        while following is not None:
            found, following = self._run(self._reading, self._page(view, following, rows))
            if found:
                yield found

    def count(self) -> int:
        """The number of rows."""
        return self._run(self._reading, self._by_view(lambda view: view._count()))

    def info(self) -> Info:
        """What it is and, in a directory, what it takes on disk and in memory."""
        return self._run(self._reading, self._by_view(lambda view: view._info()))

    def set_oversampling(self, oversampling: float) -> None:
        """Stores the candidates for each hit, for this and every later search that names none. What has the collection
        open elsewhere goes on with what it read."""
        steps = self._storing_oversampling(oversampling)
        self._run(f"cannot set the oversampling of collection {self.name!r}", steps)

    def has_index(self) -> bool:
        """Whether the graph is there for all points; without it a search scans those that it does not hold."""
        return self._run(self._reading, self._by_view(lambda view: view._has_index()))

    def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Has the engine index all points, and waits for it."""
        self._run(
            f"cannot build the index of collection {self.name!r}",
            self._writing(lambda view: view._building_index(progress)),
        )

    def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Creates indexes for filters on metadata, where they are not there yet."""
        steps = self._writing(lambda view: view._indexing_metadata(indexes))
        self._run(f"cannot index the metadata of collection {self.name!r}", steps)

    def index_texts(self, language: str = "english") -> None:
        """Indexes the documents' words for `search_text` and `search_hybrid`, now and as rows are written, unless they
        are. `language` says how words are stemmed, `simple` not at all. Raises InputError where they are indexed in
        another one. A server has to be 1.20 or newer."""
        steps = self._writing(lambda view: view._indexing_texts(language))
        self._run(f"cannot index the texts of collection {self.name!r}", steps)

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
        ef: int | None = ...,
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
        ef: int | None = ...,
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
        ef: int | None = ...,
        texts: bool = ...,
    ) -> list[list[Hit]]: ...
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
        vectors = self._embedded(query)
        steps = self._by_view(lambda view: view._searching(vectors, k, oversampling, filter, exact, rescore, ef, texts))
        found: list[Hit] | list[list[Hit]] = self._run(self._reading, steps)
        return found

    def search_text(
        self, question: str, k: int = 10, *, filter: FilterLike | None = None, texts: bool = True
    ) -> list[Hit]:
        """The k rows whose documents match the words of a question best, by BM25; any of its words will do.

        Needs `index_texts`. Raises InputError where that was not called.
        """
        return self._run(self._reading, self._by_view(lambda view: view._searching_text(question, k, filter, texts)))

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
        steps = self._by_view(lambda view: view._explaining(vector, k, oversampling, filter, exact))
        return self._run(self._reading, steps)

    def _run(self, doing: str, steps: Steps[T]) -> T:
        with explained(doing):
            return self._database.run(steps)
