"""Which model embeds a collection's texts: what is asked for, what the collection stores, what its calibration names;
and embedding where some texts cannot be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.embedding import Embedder, EmbeddingOptions
from qvec.errors import CollectionError, RowError
from qvec.stores import Collection

TEXT_ROWS = 256
"""Texts that a model embeds in a few seconds."""


def stored_embedding(collection: Collection) -> EmbeddingOptions:
    """How a collection's texts were embedded, as far as it stores that."""
    if collection.embedding is None:
        return EmbeddingOptions(collection.model)
    return EmbeddingOptions.from_json(collection.embedding, collection.name)


def described(embedding: EmbeddingOptions) -> Mapping[str, str] | None:
    """What a collection stores beside its model's name; None where there is no more to say."""
    stored = embedding.as_json()
    return stored if embedding.model and len(stored) > 1 else None


def wanted_embedding(
    asked: EmbeddingOptions, collection: Collection | None, calibration: Calibration | None
) -> EmbeddingOptions:
    """What embeds texts and questions: as asked for, otherwise as stored, otherwise as the calibration names."""
    stored = stored_embedding(collection) if collection else EmbeddingOptions()
    found = asked.over(stored)
    if found.model is None and calibration is not None and calibration.model is not None:
        return found.over(EmbeddingOptions(calibration.model))
    return found


def check_embedding(asked: EmbeddingOptions, collection: Collection) -> None:
    """Raises CollectionError where other vectors are asked for than the collection's texts were embedded to."""
    stored = stored_embedding(collection)
    differing = asked.differing(stored) if stored.model else None
    if differing:
        name, wanted, found = differing
        shown = repr if name.endswith("prefix") else str
        raise CollectionError(f"collection {collection.name!r} has {name} {shown(found)}, not {shown(wanted)}")


def embed_texts(
    embedder: Embedder, texts: Sequence[str], progress: Callable[[int], None] | None = None
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Vectors of texts as documents, float32 (n, d), and by row why a text has none; its row is then NaN."""
    vectors = np.full((len(texts), embedder.dimensions), np.nan, np.float32)
    reasons: dict[int, str] = {}
    for start in range(0, len(texts), TEXT_ROWS):
        rows = list(range(start, min(start + TEXT_ROWS, len(texts))))
        while rows:
            try:
                vectors[rows] = embedder.embed_documents([texts[row] for row in rows], _after(start, progress))
                break
            except RowError as error:
                reasons[rows.pop(error.row)] = error.reason
    return vectors, reasons


def _after(start: int, progress: Callable[[int], None] | None) -> Callable[[int], Any] | None:
    return None if progress is None else lambda done: progress(start + done)
