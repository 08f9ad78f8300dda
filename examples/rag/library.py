"""The passages in one collection, searched by vectors and words together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec import Hit
from qvec.embedding import CachedQueries, Embedder


class Library:
    """A collection of passages in a database that `qvec.connect_async` opened; `open_library` gives one."""

    def __init__(self, collection: Any, embedder: Embedder) -> None:
        self._collection = collection
        self._embedder = CachedQueries(embedder)
        collection.embedder = self._embedder

    async def search(self, question: str, k: int) -> list[Hit]:
        """The k passages that are nearest to the question and hold its words, best first."""
        hits: list[Hit] = await self._collection.search_hybrid(question, k)
        return hits

    async def count(self) -> int:
        """The number of passages."""
        count: int = await self._collection.count()
        return count

    def similarities(self, question: str, texts: list[str]) -> NDArray[np.float32]:
        """The cosine similarity of each text to the question, by the collection's model; slow, so for a thread."""
        query = self._embedder.embed_queries([question])[0]
        vectors = self._embedder.embed_documents(texts)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        cosines: NDArray[np.float32] = vectors @ query / np.maximum(lengths, np.finfo(np.float32).tiny)
        return cosines
