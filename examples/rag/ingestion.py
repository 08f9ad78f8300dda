"""Bringing a collection up to date with files: only passages that are new are embedded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from qvec import Calibration, CollectionError, RangeMethod
from qvec.embedding import Embedder, lasting_name, load_embedder
from rag.library import Library
from rag.passages import Passage

_LOG = logging.getLogger(__name__)


async def open_library(database: Any, name: str, model: str, passages: Sequence[Passage]) -> Library:
    """The collection of this name, holding these passages and no others; created where it is not there, with a
    calibration that is fitted to them. Raises CollectionError where it was embedded by another model."""
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
        await _write(collection, new, vectors)
    gone = stored - {passage.id for passage in passages}
    if gone:
        await collection.delete(list(gone))
    await collection.build_index()
    _LOG.info("%d passages: %d written, %d deleted", len(passages), len(new), len(gone))
    return Library(collection, embedder)


def _check_model(collection: Any, model: str) -> None:
    if collection.model != model:
        raise CollectionError(
            f"collection {collection.name!r} was embedded by {collection.model}, not {model}; name that model, or "
            "another collection: --collection NAME"
        )


async def _create(database: Any, name: str, model: str, embedder: Embedder, vectors: Any) -> Any:
    # The first files are few, and more will follow: a range of four standard deviations holds those too, where the
    # quantile that is taken otherwise would be the maximum of these.
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


async def _write(collection: Any, passages: Sequence[Passage], vectors: Any) -> None:
    await collection.upsert(
        [passage.id for passage in passages],
        vectors,
        documents=[passage.document for passage in passages],
        metadata=[passage.metadata for passage in passages],
    )
