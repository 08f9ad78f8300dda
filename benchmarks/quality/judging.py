"""What a comparison of embeddings finds, against judgements and against exact float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvec import Calibration
from qvec.evaluation.metrics import ndcg
from qvec.evaluation.truth import Truth, nearest_rows
from qvec.training.retrieval import Retrieval
from qvec.training.scoring import Comparison

K = 10


@dataclass(frozen=True)
class Judged:
    """nDCG@10 and recall@10 against exact float32, of each query (m,)."""

    ndcgs: NDArray[np.float64]
    recalls: NDArray[np.float64]


class Judge:
    """Judges rankings of a retrieval whose texts were embedded: queries (m, d) and documents (n, d) at unit length."""

    def __init__(self, data: Retrieval, queries: Tensor, documents: Tensor) -> None:
        self._data = data
        self._queries = queries
        self._documents = documents
        self._names = list(data.corpus)
        self._truth = self._nearest()

    @property
    def documents(self) -> NDArray[np.float32]:
        """The documents' embeddings."""
        found: NDArray[np.float32] = self._documents.numpy()
        return found

    def judged(self, comparison: Comparison, calibration: Calibration) -> Judged:
        """What a comparison of every query with every document finds; equal scores rank by the documents' order."""
        scores = comparison.scores(self._queries, self._documents, calibration)
        found = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :K].tolist()
        ndcgs = [self._ndcg(*pair) for pair in zip(self._data.queries, found, strict=True)]
        return Judged(np.array(ndcgs), self._truth.recalls(found))

    def _nearest(self) -> Truth:
        rows = np.arange(len(self._documents)), self.documents
        return nearest_rows([rows], self._queries.numpy(), K)

    def _ndcg(self, query: str, found: list[int]) -> float:
        return ndcg([self._names[row] for row in found], dict.fromkeys(self._data.relevant[query], 1), K)
