"""MiniLM's embeddings of the texts of a retrieval, kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvec.embedding import PACKAGED_MODEL, Embedder, load_embedder
from qvec.training.retrieval import Retrieval

Floats = NDArray[np.float32]


class Embeddings:
    """Embeds texts, once as long as the file is kept: each list of texts is known by its content."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: dict[str, Floats] = {}
        self._model: Embedder | None = None
        if path and path.exists():
            with np.load(path) as file:
                self._kept = {name: file[name] for name in file.files}

    def of(self, data: Retrieval) -> tuple[Tensor, Tensor]:
        """Queries (m, d) and documents (n, d), each in the order of the retrieval's."""
        queries = self._embedded(list(data.queries.values()), lambda model: model.embed_queries)
        documents = self._embedded(list(data.corpus.values()), lambda model: model.embed_documents)
        return torch.from_numpy(queries), torch.from_numpy(documents)

    def _embedded(self, texts: list[str], side: Callable[[Embedder], Callable[[Sequence[str]], Floats]]) -> Floats:
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        if digest not in self._kept:
            self._model = self._model or load_embedder(PACKAGED_MODEL)
            self._kept[digest] = side(self._model)(texts)
            if self._path:
                with self._path.open("wb") as file:
                    np.savez(file, **self._kept)
        return self._kept[digest]
