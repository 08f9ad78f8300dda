"""Embedding where some texts cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.embedding import Embedder
from qvec.errors import RowError

TEXT_ROWS = 256
"""Texts that a model embeds in a few seconds."""
NO_TEXT = "has no text to embed"


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
