"""The quality of rankings by quantized embeddings, against relevance judgements and against exact float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qvec import Calibration
from qvec.evaluation.ground_truth import nearest_rows
from qvec.evaluation.metrics import ndcg
from qvec.training.scoring import Scorer
from qvec.training.text_datasets import RetrievalDataset

K = 10


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
