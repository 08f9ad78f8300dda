"""The datasets of the studies: documentation strings as questions and answers, and folders in BEIR's layout."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvec.embedding import PACKAGED_MODEL, Embedder, load_embedder
from qvec.passages import Passage, stdlib_passages
from qvec.training.text_datasets import RetrievalDataset, read_beir, retrieval_from_pairs

Floats = NDArray[np.float32]
Pairs = list[tuple[str, str]]

_MIN_QUESTION, _MIN_ANSWER = 15, 60
"""Characters; shorter first lines and bodies say too little to be found."""
_HELD_OUT_SHARE = 4
_SEED = 0


def documentation(limit: int | None = None) -> RetrievalDataset:
    """The first lines of documentation strings as queries, each answered by the rest of its own string."""
    return _retrieval(documentation_pairs(stdlib_passages(10**9))[:limit])


def documentation_split(limit: int | None = None) -> tuple[Pairs, RetrievalDataset]:
    """Pairs to train on, and a retrieval dataset of held-out pairs, at most `limit` of each.

    Held out is a random quarter of the modules, because strings of one module resemble each other. No text of the
    training pairs occurs in the held-out ones.
    """
    passages = stdlib_passages(10**9)
    modules = sorted({passage.module for passage in passages})
    held_out = set(random.Random(_SEED).sample(modules, len(modules) // _HELD_OUT_SHARE))
    train = documentation_pairs([passage for passage in passages if passage.module not in held_out])
    trained = {text for pair in train for text in pair}
    others = documentation_pairs([passage for passage in passages if passage.module in held_out])
    return train[:limit], _retrieval([pair for pair in others if trained.isdisjoint(pair)][:limit])


def documentation_pairs(passages: Sequence[Passage]) -> Pairs:
    """First line and rest of each passage that has both. No text occurs twice, as a copy would be a wrong answer."""
    pairs: Pairs = []
    seen: set[str] = set()
    for passage in passages:
        line, _, rest = passage.text.partition("\n")
        pair = line.strip(), rest.strip()
        if len(pair[0]) >= _MIN_QUESTION and len(pair[1]) >= _MIN_ANSWER and seen.isdisjoint(pair):
            seen.update(pair)
            pairs.append(pair)
    return pairs


def beir_datasets(folders: Sequence[Path]) -> dict[str, RetrievalDataset]:
    """Folders in BEIR's layout, by folder name."""
    return {folder.name: read_beir(folder) for folder in folders}


def _retrieval(pairs: Pairs) -> RetrievalDataset:
    queries, documents = zip(*pairs, strict=True)
    return retrieval_from_pairs(queries, documents)


class EmbeddingCache:
    """Embeds texts with MiniLM and keeps the vectors in a file, if one is given, by the content of the texts."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._cached: dict[str, Floats] = {}
        self._model: Embedder | None = None
        if path and path.exists():
            with np.load(path) as file:
                self._cached = {name: file[name] for name in file.files}

    def embed(self, data: RetrievalDataset) -> tuple[Tensor, Tensor]:
        """Queries (m, d) and documents (n, d), in the dataset's order."""
        queries = self._embed(list(data.queries.values()), lambda model: model.embed_queries)
        documents = self._embed(list(data.corpus.values()), lambda model: model.embed_documents)
        return torch.from_numpy(queries), torch.from_numpy(documents)

    def _embed(self, texts: list[str], method: Callable[[Embedder], Callable[[Sequence[str]], Floats]]) -> Floats:
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        if digest not in self._cached:
            self._model = self._model or load_embedder(PACKAGED_MODEL)
            self._cached[digest] = method(self._model)(texts)
            if self._path:
                with self._path.open("wb") as file:
                    np.savez(file, **self._cached)  # type: ignore[arg-type]
        return self._cached[digest]
