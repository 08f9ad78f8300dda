"""Scores of embeddings as qvec stores and searches them, and the measured quality of every precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from qvec.calibration import Calibration
from qvec.codes import PLANES, score
from qvec.embedding.sentence_transformer import quiet
from qvec.evaluation.metrics import ndcg
from qvec.training.quantizers import (
    PRECISIONS,
    Scale,
    check_precision,
    dequantize_embeddings,
    prepare,
    quantize_embeddings,
    unit_rows,
    unpack_bits,
)
from qvec.training.text_datasets import RetrievalDataset, TextPairs

_K = 10


@dataclass(frozen=True)
class Scorer:
    """Scores documents stored at `precision` against queries at `query_precision` (float32 when qvec rescores).

    Binary against binary and ternary against ternary are scored by Hamming distance, like a prefilter. Everything else
    is scored by `qvec.score`, with decoded queries. qvec itself never scores ternary documents against float32 queries;
    here they are decoded and, under cosine, normalized.
    """

    precision: str
    query_precision: str = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_precision(self.query_precision)

    @classmethod
    def for_stored(cls, precision: str) -> Scorer:
        """The scorer of documents at `precision` in a search: float32 queries, except that ternary is symmetric."""
        return cls(precision, "ternary" if precision == "ternary" else "float32")

    @property
    def name(self) -> str:
        """The precision, with the suffix _symmetric or the prefix of the query precision unless queries are float32."""
        if self.query_precision == "float32":
            return self.precision
        if self.query_precision == self.precision:
            return f"{self.precision}_symmetric"
        return f"{self.query_precision}_{self.precision}"

    @property
    def uses_hamming(self) -> bool:
        """Whether both sides are bits that are compared by Hamming distance."""
        return self.precision == self.query_precision and self.precision in ("binary", "ternary")

    def scores(self, queries: Tensor, documents: Tensor, calibration: Calibration) -> Tensor:
        """Score every query (m, D) against every document (n, D): (m, n), higher is more similar."""
        if self.uses_hamming:
            left, right = (self._bits(side, calibration) for side in (queries, documents))
            return -torch.cdist(left, right, p=1)
        queries = _decoded(queries, calibration, self.query_precision)
        if self.precision in PLANES:
            codes = quantize_embeddings(documents, calibration, self.precision).cpu().numpy()
            return torch.from_numpy(score(codes, queries.cpu().numpy(), calibration)).to(documents.device)
        decoded = _decoded(documents, calibration, self.precision)
        if self.precision == "ternary" and calibration.metric == "cosine":
            decoded = unit_rows(decoded)
        return queries @ decoded.T

    def pairwise_scores(self, queries: Tensor, documents: Tensor, calibration: Calibration) -> Tensor:
        """Score each query (n, D) against the document in the same row: (n,)."""
        if self.uses_hamming:
            left, right = (self._bits(side, calibration) for side in (queries, documents))
            return -(left - right).abs().sum(1)
        pairs = zip(queries.split(1), documents.split(1), strict=True)
        return torch.cat([self.scores(query, document, calibration).flatten() for query, document in pairs])

    def _bits(self, embeddings: Tensor, calibration: Calibration) -> Tensor:
        """Return codes as float32 zeros and ones (n, 8 * bytes), whose L1 distance is the Hamming distance."""
        return unpack_bits(quantize_embeddings(embeddings, calibration, self.precision)).float()


def coarsest(precisions: Sequence[str]) -> Scorer:
    """The scorer of the coarsest of these precisions, which loses most by quantization."""
    for precision in precisions:
        check_precision(precision)
    return Scorer.for_stored(max(precisions, key=PRECISIONS.index))


def _decoded(embeddings: Tensor, calibration: Calibration, precision: str) -> Tensor:
    scale = Scale.of(calibration, embeddings.device)
    if precision == "float32":
        return prepare(embeddings, scale)
    return dequantize_embeddings(quantize_embeddings(embeddings, scale, precision), scale, precision)


# The measured quality of every precision

TABLE_SCORERS = (
    Scorer("float32"),
    Scorer("int8"),
    Scorer("int4"),
    Scorer("ternary", "ternary"),
    Scorer("binary"),
    Scorer("binary", "binary"),
)
"""The rows of a table of precisions."""


Embeddings = tuple[Tensor, Tensor]
"""Queries (m, d) and documents (n, d) of an evaluation, float32 on the CPU."""


def batch_size_for(model: Any) -> int:
    """The number of texts to embed at once; small batches are fastest on a CPU."""
    return 16 if model.device.type == "cpu" else 128


def embed_texts(model: Any, data: RetrievalDataset | TextPairs) -> Embeddings:
    """Embed queries and documents with the model's prompts for each; both texts of scored pairs as documents."""
    if isinstance(data, TextPairs):
        encode_query, queries, documents = model.encode_document, data.queries, data.documents
    else:
        encode_query, queries, documents = model.encode_query, list(data.queries.values()), list(data.corpus.values())
    options = {"batch_size": batch_size_for(model), "convert_to_tensor": True, "show_progress_bar": False}
    with quiet():
        embedded = encode_query(queries, **options), model.encode_document(documents, **options)
    return embedded[0].cpu().float(), embedded[1].cpu().float()


def measure_precisions(
    embeddings: Embeddings, data: RetrievalDataset | TextPairs, calibration: Calibration
) -> list[float]:
    """Return one number for each of TABLE_SCORERS: the mean nDCG@10, or Spearman's correlation of scored pairs."""
    if isinstance(data, TextPairs):
        similarities = [scorer.pairwise_scores(*embeddings, calibration).numpy() for scorer in TABLE_SCORERS]
        return [float(spearmanr(data.scores, found).statistic) for found in similarities]
    return [_mean_ndcg(scorer.scores(*embeddings, calibration), data) for scorer in TABLE_SCORERS]


def _mean_ndcg(scores: Tensor, data: RetrievalDataset) -> float:
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :_K].tolist()
    names = list(data.corpus)
    values = [
        ndcg([names[place] for place in ranking], dict.fromkeys(data.relevant[query], 1), _K)
        for query, ranking in zip(data.queries, order, strict=True)
    ]
    return sum(values) / len(values)
