"""What each precision costs a model: texts embedded once and compared in every way that qvec stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from qvec.calibration import Calibration, Metric
from qvec.evaluation.metrics import ndcg
from qvec.training.pairs import Pairs
from qvec.training.retrieval import Retrieval
from qvec.training.scoring import Comparison

COMPARISONS = (
    Comparison("float32"),
    Comparison("int8"),
    Comparison("int4"),
    Comparison("ternary", "ternary"),
    Comparison("binary"),
    Comparison("binary", "binary"),
)
"""Rows of the table: documents in a precision against float32 queries, and bits against bits as in a prefilter."""

_K = 10


@dataclass(frozen=True)
class Embedded:
    """The evaluation's texts as a model embeds them: queries (m, d) and documents (n, d), float32."""

    queries: Tensor
    documents: Tensor


def batch_size_of(model: Any) -> int:
    """Texts to embed at once: a CPU is fastest with few."""
    return 16 if model.device.type == "cpu" else 128


def embed(model: Any, data: Retrieval | Pairs) -> Embedded:
    """Embeds queries and documents, each with the model's own prompt for them; scored pairs both as documents."""
    encode = model.encode_query
    if isinstance(data, Pairs):
        queries, documents = data.queries, data.documents
        encode = model.encode_document
    else:
        queries, documents = list(data.queries.values()), list(data.corpus.values())
    options = {"batch_size": batch_size_of(model), "convert_to_tensor": True, "show_progress_bar": False}
    return Embedded(encode(queries, **options).cpu().float(), model.encode_document(documents, **options).cpu().float())


def measured(embedded: Embedded, data: Retrieval | Pairs, calibration: Calibration) -> list[float]:
    """A number for each of COMPARISONS: mean nDCG@10 of a retrieval, Spearman's correlation of scored pairs."""
    measure = _correlation if isinstance(data, Pairs) else _ndcg
    return [measure(comparison, embedded, data, calibration) for comparison in COMPARISONS]


def fitted(documents: Tensor, metric: Metric, seed: int, dimensions: int | None = None) -> Calibration:
    """The calibration that `qvec ingest` fits to documents of a model that carries none: quantized after training."""
    return Calibration.fit(documents.numpy(), metric=metric, seed=seed, dimensions=dimensions)


def _ndcg(comparison: Comparison, embedded: Embedded, data: Any, calibration: Calibration) -> float:
    scores = comparison.scores(embedded.queries, embedded.documents, calibration)
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :_K].tolist()
    names = list(data.corpus)
    found = [
        ndcg([names[place] for place in ranking], dict.fromkeys(data.relevant[query], 1), _K)
        for query, ranking in zip(data.queries, order, strict=True)
    ]
    return sum(found) / len(found)


def _correlation(comparison: Comparison, embedded: Embedded, data: Any, calibration: Calibration) -> float:
    scores = comparison.pairwise(embedded.queries, embedded.documents, calibration)
    return float(spearmanr(data.scores, scores.numpy()).statistic)
