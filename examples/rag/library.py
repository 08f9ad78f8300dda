"""The passages in one collection: synced with the files, searched by vector and words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec import Calibration, CollectionError, Hit, RangeMethod
from qvec.client import AsyncCollection, AsyncDatabase, group
from qvec.embedding import CachedQueries, Embedder, lasting_name, load_embedder
from rag.passages import Passage

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundPassage:
    """A passage that matches a question, with the number by which an answer cites it."""

    number: int
    heading: str
    position: int
    text: str
    score: float


@dataclass(frozen=True)
class FoundFile:
    """A file and its matching passages, best first."""

    path: str
    title: str
    passages: list[FoundPassage]


class Library:
    """A collection of passages; `open_library` returns one."""

    def __init__(self, collection: AsyncCollection, embedder: Embedder) -> None:
        self._collection = collection
        self._embedder = CachedQueries(embedder)
        collection.embedder = self._embedder

    async def search(self, question: str, k: int) -> list[FoundFile]:
        """Return the k best passages by vector and words, grouped by file: first the file with the best passage.

        Passages are numbered from 1 in this order.
        """
        hits = await self._collection.search_hybrid(question, k)
        files, number = [], 1
        for one in group(hits, group_by="path"):
            passages = [_found_passage(number, hit) for number, hit in enumerate(one.hits, number)]
            files.append(FoundFile(one.value, one.hits[0].metadata["title"], passages))
            number += len(passages)
        return files

    async def count(self) -> int:
        """Return the number of passages."""
        return await self._collection.count()

    def similarities(self, question: str, texts: list[str]) -> NDArray[np.float32]:
        """Return the cosine similarity of each text to the question. Slow: call it in a thread."""
        query = self._embedder.embed_queries([question])[0]
        vectors = self._embedder.embed_documents(texts)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        cosines: NDArray[np.float32] = vectors @ query / np.maximum(lengths, np.finfo(np.float32).tiny)
        return cosines


async def open_library(database: AsyncDatabase, name: str, model: str, passages: Sequence[Passage]) -> Library:
    """Open the collection `name`, created if it does not exist, and sync it with these passages.

    Only new passages are embedded; rows of other passages are deleted. A new collection gets a calibration fitted to
    the passages. Raise CollectionError if the collection was embedded by another model.
    """
    collection = await database.collection(name) if await database.has_collection(name) else None
    if collection is not None:
        _check_model(collection, lasting_name(model))
    embedder = await asyncio.to_thread(load_embedder, model)
    stored = {hit.id for hit in await collection.scroll(texts=False)} if collection else set()
    new = [passage for passage in passages if passage.id not in stored]
    vectors = await asyncio.to_thread(embedder.embed_documents, [passage.document for passage in new])
    if collection is None:
        collection = await _create(database, name, lasting_name(model), embedder, vectors)
    if new:
        await collection.upsert(
            [passage.id for passage in new],
            vectors,
            documents=[passage.document for passage in new],
            metadata=[passage.metadata for passage in new],
        )
    gone = stored - {passage.id for passage in passages}
    if gone:
        await collection.delete(list(gone))
    await collection.build_index()
    _LOG.info("%d passages: %d written, %d deleted", len(passages), len(new), len(gone))
    return Library(collection, embedder)


def _check_model(collection: AsyncCollection, model: str) -> None:
    if collection.model != model:
        raise CollectionError(
            f"collection {collection.name!r} was embedded by {collection.model}, not {model}; use that model, or "
            "another collection: --collection NAME"
        )


async def _create(
    database: AsyncDatabase, name: str, model: str, embedder: Embedder, vectors: NDArray[np.float32]
) -> AsyncCollection:
    # The default ranges are quantiles; for the few vectors of the first files they would be the maximum, and clip
    # later vectors. Four standard deviations leave room for those.
    calibration = Calibration.fit(vectors, model=model, ranges=RangeMethod("rolling"))
    collection = await database.create_collection(
        name,
        calibration=calibration,
        id_type="text",
        model=model,
        embedding=embedder.options.as_json(),
    )
    await collection.index_texts("english")
    return collection


def _found_passage(number: int, hit: Hit) -> FoundPassage:
    metadata: dict[str, Any] = hit.metadata
    heading = metadata["heading"]
    text = (hit.document or "").removeprefix(f"{heading}\n\n")
    return FoundPassage(number, heading, metadata["position"], text, hit.score)
