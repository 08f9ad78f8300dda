"""A collection: write, read and search its rows, by vectors or by text."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.arrays import as_vectors, document_array, metadata_array
from qvec.calibration import Calibration
from qvec.client import arguments, pages
from qvec.client._async.grouping import search_groups
from qvec.client.diversity import check_mmr, mmr, unit_length
from qvec.client.embedders import Embedders, embedding_of
from qvec.client.fusion import FUSIONS, MIN_FETCH_K, Fusion, check_fusion
from qvec.client.groups import Group, check_groups
from qvec.client.pages import Page
from qvec.client.query_types import OfUnknownRank, OneQuery, SeveralQueries
from qvec.client.recall import (
    RecallQueries,
    check_rows,
    given_queries,
    mean_recall,
    oversampling_with_own_row,
    recalls_of,
    usable_rows,
)
from qvec.client.reranking import Reranker, rerank
from qvec.embedding import TextEmbedder
from qvec.embedding.asynchronous import embed_documents_async, embed_queries_async, in_embedding_thread_async
from qvec.filters import FilterLike
from qvec.full_text import check_language, clean_question
from qvec.metadata_index import MetadataIndex
from qvec.results import Explanation, Hit, Info, Progress, Recall, StoredRows
from qvec.sources import Form, IdType
from qvec.store._async.interface import AsyncStore, AsyncStoreCollection, StoredCodes
from qvec.store.requests import OnDuplicate, RescoreIn, RowColumns, RowFilter, SearchRequest, TextRequest
from qvec.store.scope import operation
from qvec.tracing import span
from qvec.waiting import in_thread_async


class AsyncCollection:
    """A named set of rows with one calibration. Get one from a database's `collection` or `create_collection`.

    Methods raise DatabaseError where the database refuses or is unreachable, CollectionError where the collection was
    dropped, and InputError for arguments that cannot be used.
    """

    def __init__(self, store: AsyncStore, stored: AsyncStoreCollection, embedders: Embedders) -> None:
        self.stored = stored
        """The collection as its store holds it, for bulk loads."""
        self._store = store
        self._embedders = embedders
        self._embedder: TextEmbedder | None = None

    def __repr__(self) -> str:
        settings = self.settings
        return (
            f"{type(self).__name__}({self.name!r}, dimensions={self.calibration.dimensions}, "
            f"rescore={settings['rescore']!r}, prefilter={settings['prefilter']!r}, "
            f"calibration={self.calibration.id!r})"
        )

    # What it is

    @property
    def name(self) -> str:
        return self.stored.name

    @property
    def calibration(self) -> Calibration:
        """The calibration of its codes. A recalibration replaces it."""
        return self.stored.calibration

    @property
    def id_type(self) -> IdType:
        return self.stored.id_type

    @property
    def oversampling(self) -> float:
        """Candidates for each hit, for searches that name none."""
        return self.stored.oversampling

    @property
    def model(self) -> str | None:
        """The model that embedded its texts."""
        return self.stored.model

    @property
    def embedding(self) -> Mapping[str, Any] | None:
        """How its texts were embedded beyond the model's name: server, task, prefixes."""
        return self.stored.embedding

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that it was created with, by their names in `create_collection`."""
        return self.stored.settings

    @property
    def keeps_floats(self) -> bool:
        """Whether it holds vectors as floats, and not as codes alone."""
        return self.stored.keeps_floats

    @property
    def exposes_codes(self) -> bool:
        """Whether `iter_codes` can read its codes: on Postgres."""
        return self.stored.exposes_codes

    @property
    def form(self) -> Form:
        """The form of the vectors that `iter_rows` gives."""
        return self.stored.form

    @property
    def was_dropped(self) -> bool:
        """Whether a call found that the collection was dropped since it was opened."""
        return self.stored.was_dropped

    async def count(self, filter: FilterLike | None = None) -> int:
        """Return the number of rows that pass `filter`, or of all."""
        rows = self._filter(filter)
        with self._reading():
            return await self.stored.count(rows)

    async def info(self) -> Info:
        """Return its settings, and its size on disk and in memory as far as the store reports it."""
        with self._reading():
            return await self.stored.info()

    # Rows

    async def upsert(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None = None,
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        on_duplicate: OnDuplicate = "replace",
    ) -> int:
        """Write rows; return the number written. All rows are checked before the first one is written.

        `vectors` has shape (n, d); `metadata` holds JSON values. A row whose id exists is replaced, and of equal ids
        the last one stays; with `on_duplicate` "skip" existing rows stay, and "error" raises CollectionError. Postgres
        writes all rows or none.
        """
        self.stored.check_writable()
        rows = await in_thread_async(self._columns, ids, vectors, documents, metadata, on_duplicate)
        with self._writing(f"cannot write to collection {self.name!r}"):
            return await self.stored.upsert(rows, on_duplicate)

    async def add(
        self,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        ids: Sequence[int | str] | None = None,
        *,
        on_duplicate: OnDuplicate | None = None,
    ) -> list[int | str]:
        """Embed texts and write them as documents; return their ids.

        Without `ids` they are random: UUIDs, or integers of 63 bits. A row whose id exists is replaced unless
        `on_duplicate` says otherwise.
        """
        documents = arguments.text_list(texts)
        written = list(ids) if ids is not None else arguments.new_ids(len(documents), self.id_type)
        with operation():
            if documents:
                with span("embed", collection=self.name, texts=len(documents)):
                    vectors = await embed_documents_async(await self._loaded_embedder(), documents)
                rule = on_duplicate or ("error" if ids is None else "replace")
                await self.upsert(written, vectors, documents, metadata, on_duplicate=rule)
        return written

    async def delete(self, ids: Sequence[int | str] | None = None, *, filter: FilterLike | None = None) -> int:
        """Delete the rows with these ids, those that pass `filter`, or those of both; return the number deleted.

        Raise InputError without either, and for an empty filter: it holds for every row.
        """
        self.stored.check_writable()
        rows = arguments.deleted_rows(self._store, ids, filter)
        wanted = None if ids is None else self._id_list(ids)
        with self._writing(f"cannot delete from collection {self.name!r}"):
            return await self.stored.delete(wanted, rows)

    async def get(self, ids: Sequence[int | str]) -> list[Hit | None]:
        """Return the rows with these ids in their order, None for a missing one. Their score is NaN."""
        wanted = self._id_list(ids)
        with self._reading():
            return await self.stored.get(wanted)

    async def vectors(self, ids: Sequence[int | str]) -> NDArray[np.float32]:
        """Return the vectors of the rows with these ids as they are stored, float32 (n, d): floats, or decoded codes;
        NaN for a missing row."""
        wanted = self._id_list(ids)
        with self._reading():
            return await self.stored.vectors(wanted)

    async def scroll(
        self, filter: FilterLike | None = None, limit: int | None = None, *, texts: bool = True
    ) -> list[Hit]:
        """Return the rows that pass `filter`, or all, in the order of their ids (Qdrant: of its point ids), at most
        `limit` of them. Their score is NaN. `texts` False leaves out documents and metadata."""
        arguments.check_limit(limit)
        rows = arguments.row_filter(self._store, filter)
        with self._reading():
            return await self.stored.scroll(rows, limit, texts)

    async def iter_rows(self, start: int = 0, batch_rows: int = 8192) -> AsyncGenerator[StoredRows, None]:
        """Yield all rows from position `start` on in the order of their ids, at most `batch_rows` at a time."""
        self._store.check_open()
        with self._store.wrap_errors(self._cannot_read):
            async with aclosing(self.stored.iter_rows(start, batch_rows)) as batches:
                async for rows in batches:
                    yield rows

    async def iter_codes(self, batch_rows: int = 8192) -> AsyncGenerator[StoredCodes, None]:
        """Yield the ids (n,), the stored codes uint8 (n, bytes) and, where floats are kept, those (n, d) of all rows.

        Raise InputError on Qdrant, whose engine does not expose its codes.
        """
        self._store.check_open()
        with self._store.wrap_errors(self._cannot_read):
            async with aclosing(self.stored.iter_codes(batch_rows)) as batches:
                async for codes in batches:
                    yield codes

    def encode(self, rows: RowColumns) -> Any:
        """Return rows as this collection's loader writes them. Raise RowError for a row that cannot be stored."""
        return self.stored.encode(rows)

    # Settings and indexes

    async def set_oversampling(self, oversampling: float) -> None:
        """Store the number of candidates for each hit, for all later searches that name none. A collection that is open
        elsewhere keeps the number it has read."""
        arguments.check_oversampling(oversampling)
        with self._writing(f"cannot set the oversampling of collection {self.name!r}"):
            await self.stored.set_oversampling(oversampling)

    async def has_index(self) -> bool:
        """Return whether the prefilter's index is complete; without it a search scans the rows."""
        with self._reading():
            return await self.stored.has_index()

    async def build_index(self, progress: Progress = lambda *_: None) -> None:
        """Build the prefilter's index unless it exists, and wait until it is complete. Searches continue meanwhile; on
        Postgres writes wait."""
        with self._writing(f"cannot build the index of collection {self.name!r}"):
            await self.stored.build_index(progress)

    async def index_metadata(self, indexes: Sequence[MetadataIndex]) -> None:
        """Create indexes for filters on metadata where they are missing."""
        with self._writing(f"cannot index the metadata of collection {self.name!r}"):
            await self.stored.index_metadata(indexes)

    async def index_texts(self, language: str = "english") -> None:
        """Index the documents' words for `search_text` and `search_hybrid`, now and for rows written later.

        `language` selects the stemmer; `simple` does not stem. Raise InputError where the documents are indexed in
        another language. On Postgres the table is rewritten with a column of lexemes: best done before the rows are
        loaded. A Qdrant server must be 1.20 or newer.
        """
        check_language(language)
        with self._writing(f"cannot index the texts of collection {self.name!r}"):
            await self.stored.index_texts(language)

    # Searches

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
        texts: bool = ...,
        rescore_in: RescoreIn | None = ...,
        planes: int | None = ...,
        ef: int | None = ...,
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
        texts: bool = ...,
        rescore_in: RescoreIn | None = ...,
        planes: int | None = ...,
        ef: int | None = ...,
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
        texts: bool = ...,
        rescore_in: RescoreIn | None = ...,
        planes: int | None = ...,
        ef: int | None = ...,
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
        texts: bool = True,
        rescore_in: RescoreIn | None = None,
        planes: int | None = None,
        ef: int | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """Return the k rows nearest to a query (d,), best first, or a list of them for each query of (m, d).

        A question, or several, in place of vectors is embedded by the collection's `embedder`.

        The prefilter finds k × `oversampling` candidates (the collection's own number by default) by their bits; the
        float32 query rescores them on the stored codes or floats. `exact` rescores every row instead. Without `rescore`
        hits are ranked by the prefilter alone, and scores are not the metric: on Postgres the agreement of bits from -1
        to 1, on Qdrant a rough estimate (turbo codes) or a count of bits (binary). `filter` keeps rows whose metadata
        passes, in the language of `qvec.filters` or as a native filter (psycopg.sql, or Qdrant's models.Filter).
        `texts` False leaves out documents and metadata.

        Only on Postgres: `rescore_in` "sql" rescores codes in the database instead of in this process, in one round
        trip; `planes` limits the planes of the codes that this process reads: 4 of int8 are int4, 1 is binary. Several
        queries take one round trip, and the texts of their hits a second. Only on Qdrant: `ef` is the width of the
        graph search (hnsw_ef); scores are the metric to the stored precision, to which the engine rounds the query as
        well.
        """
        arguments.check_rescore_in(rescore_in)
        options = {"rescore_in": rescore_in, "planes": planes, "ef": ef}
        arguments.check_store_options(self._store, options, self._store.search_options)
        arguments.check_planes(planes, rescore_in, self.name, self.settings["rescore"])
        if ef is not None:
            arguments.check_count("ef", ef, ", or None for the engine's own")
        request = replace(
            self._request(k, oversampling, filter, exact),
            rescore=rescore,
            texts=texts,
            rescore_in=rescore_in,
            planes=planes,
            ef=ef,
        )
        with operation():
            vectors = await self._embedded(query)
            found = await self._search(self._queries(vectors), request)
        return found if np.ndim(vectors) == 2 else found[0]

    async def search_text(
        self, question: str, k: int = 10, *, filter: FilterLike | None = None, texts: bool = True
    ) -> list[Hit]:
        """Return the k rows whose documents match the words of a question best, by BM25; any of its words suffices.

        Raise InputError before `index_texts`.
        """
        arguments.check_count("k", k)
        return await self._search_text(TextRequest(clean_question(question), k, self._filter(filter), texts))

    async def search_hybrid(
        self,
        question: str,
        k: int = 10,
        *,
        vector: ArrayLike | None = None,
        fetch_k: int | None = None,
        fusion: Fusion = "ranks",
        weights: tuple[float, float] = (1, 1),
        filter: FilterLike | None = None,
        oversampling: float | None = None,
        reranker: Reranker | None = None,
    ) -> list[Hit]:
        """Return the k best rows by vector and words together. Needs `index_texts`.

        The `fetch_k` nearest rows and the `fetch_k` that match the words best (50 by default, or k) are fused: by
        "ranks", reciprocal rank fusion, or by "scores", each ranking's scaled to 0 to 1. `weights` belong to vector and
        words. `reranker` receives the question and the texts of the `fetch_k` best, and returns a score for each. A
        score is that of the fusion, or of the reranker. `vector` replaces the question's embedding.
        """
        check_fusion(fusion)
        arguments.check_count("k", k)
        wanted = arguments.fetch_count(fetch_k, k, max(k, MIN_FETCH_K))
        request = replace(self._request(wanted, oversampling, filter), texts=False)
        words = TextRequest(clean_question(question), wanted, request.filter, texts=False)
        with operation():
            query = await self._single(question if vector is None else vector)
            nearest = await self._search_one(query, request)
            fused = FUSIONS[fusion]([nearest, await self._search_text(words)], weights)
            if reranker is None:
                return await self._with_texts(fused[:k])
            candidates = await self._with_texts(fused[:wanted])
        with span("rerank", texts=len(candidates)):
            ranked = await in_thread_async(rerank, question, candidates, reranker)
        return ranked[:k]

    async def search_diverse(
        self,
        query: ArrayLike | str,
        k: int = 10,
        *,
        fetch_k: int | None = None,
        lambda_mult: float = 0.5,
        filter: FilterLike | None = None,
        oversampling: float | None = None,
    ) -> list[Hit]:
        """Return k rows that are near a query (d,), or a question, and unlike each other: maximal marginal relevance.

        They are chosen from the `fetch_k` nearest (5 × k by default) by the vectors that the collection holds.
        `lambda_mult` goes from 0, novelty, to 1, relevance. Scores are those of `search`.
        """
        check_mmr(k, lambda_mult)
        request = self._request(arguments.fetch_count(fetch_k, k, 5 * k), oversampling, filter)
        with operation():
            target = await self._single(query)
            hits = await self._search_one(target, replace(request, texts=False))
            vectors = await self.vectors([hit.id for hit in hits])
            if self.calibration.metric == "cosine":
                target, vectors = unit_length(target), unit_length(vectors)
            return await self._with_texts([hits[position] for position in mmr(target, vectors, k, lambda_mult)])

    async def search_groups(
        self,
        query: ArrayLike | str,
        group_by: str,
        k: int = 10,
        *,
        group_size: int = 1,
        filter: FilterLike | None = None,
        oversampling: float | None = None,
    ) -> list[Group]:
        """Return the k best groups of rows that share a value of the metadata field `group_by`, each with its
        `group_size` best rows.

        A group ranks by its best row; `group_by` names nested fields by dots. Rows without the field belong to no
        group. Groups of strings, numbers and booleans are found by filters; lists and objects are separated by reading
        more rows, all of them where there are fewer than k groups.
        """
        check_groups(group_by, k, group_size)
        request = self._request(k, oversampling, filter)
        with operation():
            target = await self._single(query)

            async def search(limit: int, rows: RowFilter) -> list[Hit]:
                return await self._search_one(target, replace(request, k=limit, filter=rows))

            return await search_groups(search, request.filter, group_by, k, group_size)

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
        """Return a page of k hits, and the cursor to pass as `after` for the next one; None after the last page.

        A cursor holds the score and id where the page ended, so no row comes twice, even when rows are written in
        between. Equal scores are ordered by id. Each page repeats the search for those before it: suited to hundreds of
        rows, not to all. A row that the prefilter overlooks on its page comes on no later one: of 3,000 random vectors
        of 32 dimensions 20 were missing after the last page on Postgres, 79 on Qdrant. With `exact` the pages hold all
        rows that pass, each once, and every page scores all of them again. `scroll` lists rows without ranking them.

        Raise InputError for a cursor of another collection, query or filter. A question counts by its text.
        """
        arguments.check_count("k", k)
        fingerprint = pages.search_fingerprint(self.name, query, filter)
        seen, last = pages.read_cursor(after, fingerprint) if after else (0, None)
        request = self._request(seen + k + 1, oversampling, filter, exact)
        with operation():
            if seen >= pages.VERIFIED_FROM:
                pages.check_seen(seen, await self.count())
            target = await self._single(query)
            while True:
                ranked = sorted(await self._search_one(target, request), key=pages.rank_of)
                following = ranked if last is None else [hit for hit in ranked if pages.rank_of(hit) > last]
                if len(ranked) < request.k or pages.is_complete(following, k):
                    return pages.page_of(following, k, seen, fingerprint)
                request = replace(request, k=request.k * pages.WIDEN)

    async def explain(
        self,
        query: ArrayLike | str,
        k: int = 10,
        oversampling: float | None = None,
        *,
        filter: FilterLike | None = None,
        exact: bool = False,
        rescore_in: RescoreIn | None = None,
    ) -> Explanation:
        """Search for one query (d,) and return how that was done: the statement or request, Postgres's plan, and the
        time of each step."""
        arguments.check_rescore_in(rescore_in)
        arguments.check_store_options(self._store, {"rescore_in": rescore_in}, self._store.search_options)
        request = replace(self._request(k, oversampling, filter, exact), rescore_in=rescore_in)
        with operation():
            queries = self._queries(await self._embedded(query))[:1]
            with self._reading():
                return await self.stored.explain(queries, request)

    async def recall(
        self,
        queries: ArrayLike | Sequence[str] | None = None,
        *,
        sample: int = 50,
        k: int = 10,
        oversampling: float | None = None,
        filter: FilterLike | None = None,
        seed: int = 0,
        progress: Progress = lambda *_: None,
    ) -> Recall:
        """Measure the share of the k nearest rows that searches find, by an exact search of the same collection.

        `queries` are vectors (m, d), or questions that the collection's `embedder` embeds: best some from real traffic.
        Without them, `sample` rows drawn uniformly are searched for, each left out of its own hits. The exact search
        ranks all rows by the same scores, so the result shows what the index and the prefilter lose; what quantizing
        loses is measured by `qvec eval --truth`. It reads every row: once on Postgres for a collection of codes,
        otherwise once for each query. `progress` is called after each of the other searches.

        Raise InputError for a collection of at most k rows, and if `filter` leaves no row for any query.
        """
        arguments.check_count("sample", sample)
        arguments.check_seed(seed)
        request = replace(self._request(k, oversampling, filter), texts=False)
        factor = self.oversampling if oversampling is None else oversampling
        with operation():
            rows = await self.count()
            check_rows(self.name, rows, k)
            vectors, own_rows = await self._recall_queries(queries, sample, seed)
            if own_rows is not None:
                request = replace(request, k=k + 1, oversampling=oversampling_with_own_row(k, factor))
            exact = await self._search(vectors, replace(request, exact=True))
            found, milliseconds = await self._timed_searches(vectors, request, progress)
        recalls = recalls_of(self.name, found, exact, k, own_rows)
        return Recall(
            self.name,
            *mean_recall(recalls, k),
            k=k,
            queries=len(recalls),
            rows_as_queries=own_rows is not None,
            oversampling=float(factor),
            rows_scanned=rows,
            truth=f"exact search of the collection's own {self.settings['rescore']} vectors",
            p50_ms=float(np.median(milliseconds)),
        )

    async def _recall_queries(self, queries: ArrayLike | Sequence[str] | None, sample: int, seed: int) -> RecallQueries:
        """Return the given queries, or rows drawn from the collection."""
        if queries is None:
            with self._reading():
                ids = await self.stored.sample_ids(int(sample), int(seed))
            return usable_rows(self.name, ids, await self.vectors(ids))
        return given_queries(self._queries(await self._embedded(queries)))

    async def _timed_searches(
        self, queries: NDArray[Any], request: SearchRequest, progress: Progress
    ) -> tuple[list[list[Hit]], list[float]]:
        """Search for one query after the other; return the hits and the milliseconds of each search."""
        found: list[list[Hit]] = []
        milliseconds: list[float] = []
        for query in queries:
            started = time.perf_counter()
            found += await self._search(query[None], request)
            milliseconds.append((time.perf_counter() - started) * 1e3)
            progress(len(found), len(queries))
        return found, milliseconds

    # Texts

    @property
    def embedder(self) -> TextEmbedder:
        """The embedder of texts and questions: the one that was set, otherwise the model that the collection names,
        loaded when first needed. Raise InputError where it names none."""
        return self._embedder or self._embedders.load(embedding_of(self, self.calibration))

    @embedder.setter
    def embedder(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder

    async def _loaded_embedder(self) -> TextEmbedder:
        """Return the embedder; loading it takes seconds."""
        if self._embedder is not None:
            return self._embedder
        options = embedding_of(self, self.calibration)
        loaded = self._embedders.loaded(options)
        return await in_embedding_thread_async(self._embedders.load, options) if loaded is None else loaded

    async def _embedded(self, query: ArrayLike | str | Sequence[str]) -> ArrayLike:
        """Return queries as vectors: a question (d,), several (m, d), and vectors unchanged."""
        if isinstance(query, str):
            return np.asarray((await self._embed_queries([query]))[0])
        return await self._embed_queries(query) if arguments.are_texts(query) else query

    async def _embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        with span("embed", collection=self.name, texts=len(texts)):
            return await embed_queries_async(await self._loaded_embedder(), texts)

    async def _single(self, query: ArrayLike | str) -> NDArray[np.float32]:
        """Return one query as a vector (d,)."""
        return np.asarray(await self._embedded(query), np.float32).reshape(-1)

    async def _with_texts(self, hits: Sequence[Hit]) -> list[Hit]:
        """Return hits with the documents and metadata that they were found without; a row that is gone has none."""
        if not hits:
            return []
        with span("texts", rows=len(hits)):
            rows = await self.get([hit.id for hit in hits])
        return [
            replace(hit, document=row.document, metadata=row.metadata) if row else hit
            for hit, row in zip(hits, rows, strict=True)
        ]

    # Requests

    def _request(
        self, k: int, oversampling: float | None, filter: FilterLike | None, exact: bool = False
    ) -> SearchRequest:
        arguments.check_count("k", k)
        if oversampling is not None:
            arguments.check_oversampling(oversampling)
        return SearchRequest(k, oversampling, self._filter(filter), exact)

    def _filter(self, filter: FilterLike | None) -> RowFilter:
        return arguments.row_filter(self._store, filter)

    def _queries(self, vectors: ArrayLike) -> NDArray[Any]:
        """Return raw queries (m, D). Raise InputError unless the calibration accepts them."""
        array = as_vectors(vectors, "query", self.calibration.accepted_dimensions)
        self.calibration.check(array, "query")
        return array

    async def _search(self, queries: NDArray[Any], request: SearchRequest) -> list[list[Hit]]:
        with self._reading():
            return await self.stored.search(queries, request)

    async def _search_one(self, query: NDArray[np.float32], request: SearchRequest) -> list[Hit]:
        return (await self._search(self._queries(query), request))[0]

    async def _search_text(self, request: TextRequest) -> list[Hit]:
        with self._reading():
            return await self.stored.search_text(request)

    def _columns(
        self,
        ids: Sequence[int | str] | NDArray[Any],
        vectors: ArrayLike,
        documents: Sequence[str | None] | None,
        metadata: Sequence[Mapping[str, Any] | None] | None,
        on_duplicate: str,
    ) -> RowColumns:
        array = as_vectors(vectors, "vectors", self.calibration.accepted_dimensions)
        arguments.check_columns(array, ids, documents, metadata, on_duplicate)
        return RowColumns(
            arguments.id_array(ids, self.id_type), array, document_array(documents), metadata_array(metadata)
        )

    def _id_list(self, ids: Sequence[int | str]) -> list[int | str]:
        return list(ids) if self.stored.accepts_any_id else arguments.id_list(ids, self.id_type)

    @property
    def _cannot_read(self) -> str:
        return f"cannot read collection {self.name!r}"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Do one operation that reads; raise DatabaseError for the driver's errors."""
        self._store.check_open()
        with operation(), self._store.wrap_errors(self._cannot_read):
            yield

    @contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        """Do one operation that writes; raise DatabaseError for the driver's errors, and where writes are refused."""
        self._store.check_open()
        self._store.options.check_writable(self._store.name)
        with operation(), self._store.wrap_errors(doing):
            yield
