"""The methods of an async collection that take several steps, or text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qvec.calls import one_call_async
from qvec.embedding import asynchronous
from qvec.hits import Hit
from qvec.retrieval.diversity import diverse
from qvec.retrieval.grouping import Group, grouped
from qvec.retrieval.hybrid import Fusion, hybrid
from qvec.retrieval.paging import Page, page, search_mark
from qvec.retrieval.reranking import Reranker
from qvec.retrieval.steps import run_async, single
from qvec.retrieval.texts import OfTexts, are_texts, check_texts, new_ids
from qvec.tracing import span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from qvec.embedding import TextEmbedder
    from qvec.filters import FilterLike
    from qvec.loading import OnDuplicate
    from qvec.sources import IdType


class AsyncRetrieval(OfTexts, ABC):
    """The base of each store's async collection."""

    @property
    @abstractmethod
    def id_type(self) -> IdType: ...

    @abstractmethod
    async def upsert(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None = ...,
        metadata: Sequence[Mapping[str, Any] | None] | None = ...,
        *,
        on_duplicate: OnDuplicate = ...,
    ) -> int: ...

    @one_call_async()
    async def add(
        self,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[int | str] | None = None,
        *,
        on_duplicate: OnDuplicate | None = None,
    ) -> list[int | str]:
        """Embeds texts and writes them as documents, all or none; returns their ids.

        Without `ids` they are drawn at random: UUIDs, or integers of 63 bits. A row whose id is there is replaced;
        `on_duplicate` says otherwise.
        """
        documents = check_texts(texts)
        written = list(ids) if ids is not None else new_ids(len(documents), self.id_type)
        if documents:
            with span("embed", collection=self.name, texts=len(documents)):
                vectors = await asynchronous.embed_documents_async(await self._loaded_embedder(), documents)
            rule = on_duplicate or ("error" if ids is None else "replace")
            await self.upsert(written, vectors, documents, metadata, on_duplicate=rule)
        return written

    @one_call_async()
    async def search_diverse(
        self,
        query: ArrayLike | str,
        k: int = 10,
        *,
        among: int | None = None,
        balance: float = 0.5,
        filter: FilterLike | None = None,
        oversampling: float | None = None,
    ) -> list[Hit]:
        """k rows that are near a query (d,), or a question, and unlike each other: maximal marginal relevance.

        They are chosen of the `among` nearest (5 × k unless told) by the vectors that the collection holds. `balance`
        goes from 0, novelty, to 1, relevance. Scores are those of `search`.
        """
        options = {"filter": filter, "oversampling": oversampling}
        return await run_async(
            self, diverse(await self._one(query), k, among, balance, self.calibration.metric, options)
        )

    @one_call_async()
    async def search_hybrid(
        self,
        question: str,
        k: int = 10,
        *,
        vector: ArrayLike | None = None,
        among: int | None = None,
        fusion: Fusion = "ranks",
        weights: tuple[float, float] = (1, 1),
        filter: FilterLike | None = None,
        oversampling: float | None = None,
        reranker: Reranker | None = None,
    ) -> list[Hit]:
        """The k rows that are best by vector and words together; the texts have to be indexed (`index_texts`).

        The `among` nearest rows (50 unless told, or k) and the `among` that match the words best are fused: by "ranks",
        reciprocal rank fusion, or by "scores", each ranking's brought to 0 to 1. `weights` are those of vector and
        words. `reranker` takes the question and the texts of the `among` best, and gives each text a score. A score is
        that of the fusion, or of the reranker. `vector` stands in for the question's own embedding.
        """
        options = {"filter": filter, "oversampling": oversampling}
        query = await self._one(question if vector is None else vector)
        return await run_async(self, hybrid(question, query, k, among, fusion, weights, reranker, options))

    @one_call_async()
    async def search_groups(
        self,
        query: ArrayLike | str,
        by: str,
        k: int = 10,
        *,
        per_group: int = 1,
        filter: FilterLike | None = None,
        oversampling: float | None = None,
    ) -> list[Group]:
        """The k best groups of rows with one value of the metadata field `by`, each with its `per_group` best rows.

        A group ranks by its best row; `by` names nested fields by dots. Rows without the field are of no group. Groups
        of strings, numbers, true and false are found by filters; lists and objects are told apart by reading more rows,
        all of them where there are fewer than k groups.
        """
        options = {"filter": filter, "oversampling": oversampling}
        return await run_async(self, grouped(await self._one(query), k, by, per_group, options))

    @one_call_async()
    async def search_page(
        self,
        query: ArrayLike | str,
        k: int = 10,
        after: str | None = None,
        *,
        filter: FilterLike | None = None,
        oversampling: float | None = None,
        exact: bool = False,
    ) -> Page:
        """A page of k hits, and the cursor that gives the next one as `after`; it is None after the last.

        A cursor says by score and id where the page ended, so no row comes twice, also when rows are written between.
        Equal scores go by id. Each page searches for those before it as well: for the first hundreds, not for all.
        A row that the prefilter overlooks where it belongs comes on no later page: of 3,000 random vectors of 32
        dimensions 20 were missing after the last page in Postgres, 79 in Qdrant. With `exact` the pages to the last are
        all rows that pass, each once; every page scores all of them anew. `matching` lists rows in no such order.

        Raises InputError for a cursor of another collection, query or filter. A question is the same by its text.
        """
        mark = search_mark(self.name, query, filter)
        options = {"filter": filter, "oversampling": oversampling, "exact": exact}
        return await run_async(self, page(await self._one(query), k, after, mark, options))

    async def _one(self, query: ArrayLike | str) -> NDArray[np.float32]:
        return single(await self._embedded_async(query))

    async def _embedded_async(self, query: ArrayLike | str | Sequence[str]) -> ArrayLike:
        """As `_embedded`."""
        if isinstance(query, str):
            vector: NDArray[Any] = (await self._embed_queries_async([query]))[0]
            return vector
        return await self._embed_queries_async(query) if are_texts(query) else query

    async def _embed_queries_async(self, texts: Sequence[str]) -> NDArray[Any]:
        with span("embed", collection=self.name, texts=len(texts)):
            return await asynchronous.embed_queries_async(await self._loaded_embedder(), texts)

    async def _loaded_embedder(self) -> TextEmbedder:
        """The `embedder`, which takes seconds to load."""
        return self._embedder or await self._embedders.of_async(self, self.calibration)
