"""Shared by the studies: datasets of documentation strings or in BEIR's layout, their embeddings, and the quality of
rankings against relevance judgements and against exact float32."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvec import Calibration
from qvec.embedding import PACKAGED_MODEL, TextEmbedder, load_embedder
from qvec.evaluation.ground_truth import nearest_rows
from qvec.evaluation.metrics import ndcg
from qvec.passages import Passage, stdlib_passages
from qvec.training.scoring import Scorer
from qvec.training.text_datasets import RetrievalDataset, read_beir, retrieval_from_pairs

sys.path.append(str(Path(__file__).parents[1]))

from synthetic import WordHashes

Floats = NDArray[np.float32]
Pairs = list[tuple[str, str]]

K = 10
SMOKE_LIMIT = 60
"""Pairs in a smoke run."""

_MIN_QUESTION, _MIN_ANSWER = 15, 60
"""Characters; shorter first lines and bodies say too little to be found."""
_HELD_OUT_SHARE = 4
_SEED = 0


def documentation(limit: int | None = None) -> RetrievalDataset:
    """Return the first lines of documentation strings as queries, each answered by the rest of its own string."""
    return _retrieval(documentation_pairs(stdlib_passages(10**9))[:limit])


def documentation_split(limit: int | None = None) -> tuple[Pairs, RetrievalDataset]:
    """Return pairs to train on and a retrieval dataset of held-out pairs, at most `limit` of each.

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
    """Return the first line and the rest of each passage that has both.

    No text occurs twice: a copy would be a wrong answer.
    """
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
    """Read folders in BEIR's layout; return the datasets by folder name."""
    return {folder.name: read_beir(folder) for folder in folders}


def _retrieval(pairs: Pairs) -> RetrievalDataset:
    queries, documents = zip(*pairs, strict=True)
    return retrieval_from_pairs(queries, documents)


def load_model(smoke: bool) -> TextEmbedder:
    """Return MiniLM, or in a smoke run a stand-in that is there at once."""
    return WordHashes() if smoke else load_embedder(PACKAGED_MODEL)


class EmbeddingCache:
    """Embeds texts and keeps the vectors in a file, if one is given, by the content of the texts."""

    def __init__(self, path: Path | None, smoke: bool = False) -> None:
        self._path = path
        self._smoke = smoke
        self._cached: dict[str, Floats] = {}
        self._model: TextEmbedder | None = None
        if path and path.exists():
            with np.load(path) as file:
                self._cached = {name: file[name] for name in file.files}

    def embed(self, data: RetrievalDataset) -> tuple[Tensor, Tensor]:
        """Return the vectors of queries (m, d) and documents (n, d), in the dataset's order."""
        queries = self._embed(list(data.queries.values()), lambda model: model.embed_queries)
        documents = self._embed(list(data.corpus.values()), lambda model: model.embed_documents)
        return torch.from_numpy(queries), torch.from_numpy(documents)

    def _embed(self, texts: list[str], method: Callable[[TextEmbedder], Callable[[Sequence[str]], Floats]]) -> Floats:
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        if digest not in self._cached:
            self._model = self._model or load_model(self._smoke)
            self._cached[digest] = method(self._model)(texts)
            if self._path:
                with self._path.open("wb") as file:
                    np.savez(file, **self._cached)  # type: ignore[arg-type]  # no name is that of an option
        return self._cached[digest]


@dataclass(frozen=True)
class RankingQuality:
    """nDCG@10, and recall@10 of the exact float32 ranking, of each query (m,)."""

    ndcgs: NDArray[np.float64]
    recalls: NDArray[np.float64]


class RankingEvaluator:
    """Evaluates rankings of a dataset with embedded texts: queries (m, d) and documents (n, d) of unit length."""

    def __init__(self, data: RetrievalDataset, queries: Tensor, documents: Tensor) -> None:
        self._data = data
        self._queries = queries
        self._documents = documents
        self._names = list(data.corpus)
        rows = np.arange(len(documents)), self.documents
        self._truth = nearest_rows([rows], queries.numpy(), K)

    @property
    def documents(self) -> NDArray[np.float32]:
        """The documents' embeddings."""
        found: NDArray[np.float32] = self._documents.numpy()
        return found

    def evaluate(self, scorer: Scorer, calibration: Calibration) -> RankingQuality:
        """Rank all documents for every query; equal scores rank in the documents' order."""
        scores = scorer.scores(self._queries, self._documents, calibration)
        found = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :K].tolist()
        ndcgs = [self._ndcg(*pair) for pair in zip(self._data.queries, found, strict=True)]
        return RankingQuality(np.array(ndcgs), self._truth.recalls(found))

    def _ndcg(self, query: str, found: list[int]) -> float:
        return ndcg([self._names[row] for row in found], dict.fromkeys(self._data.relevant[query], 1), K)
