"""How embeddings compare once they are stored: as codes on one side or both, as qvec's search compares them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qvec.calibration import Calibration
from qvec.codes import PLANES, score
from qvec.training.quantizers import (
    Scale,
    dequantize_embeddings,
    prepared,
    quantizable,
    quantize_embeddings,
    unit_rows,
)

_BITS = ("binary", "ternary")


@dataclass(frozen=True)
class Comparison:
    """Documents in one precision, queries in another: float32 where qvec rescores.

    Bits against bits of the same kind compare by Hamming distance, as a prefilter does. Everything else is scored by
    `qvec.score` with what the queries' codes stand for; ternary documents, which qvec never scores, as it scores codes
    of few planes: under cosine by the cosine with what they stand for.
    """

    precision: str
    query_precision: str = "float32"

    def __post_init__(self) -> None:
        quantizable(self.precision)
        quantizable(self.query_precision)

    @property
    def name(self) -> str:
        """The precision, and in front of it that of queries where they are quantized too and otherwise."""
        same = self.query_precision in ("float32", self.precision)
        suffix = "_symmetric" if self.query_precision == self.precision != "float32" else ""
        return f"{self.precision}{suffix}" if same else f"{self.query_precision}_{self.precision}"

    @property
    def by_hamming(self) -> bool:
        return self.precision == self.query_precision and self.precision in _BITS

    def scores(self, queries: Tensor, documents: Tensor, calibration: Calibration) -> Tensor:
        """The score of every query (m, D) with every document (n, D): (m, n), higher is nearer."""
        if self.by_hamming:
            left, right = (self._bits(side, calibration) for side in (queries, documents))
            return -torch.cdist(left, right, p=1)
        asked = _values(queries, calibration, self.query_precision)
        if self.precision not in PLANES:
            return asked @ self._compared(documents, calibration).T
        codes = quantize_embeddings(documents, calibration, self.precision).cpu().numpy()
        return torch.from_numpy(score(codes, asked.cpu().numpy(), calibration)).to(queries.device)

    def pairwise(self, queries: Tensor, documents: Tensor, calibration: Calibration) -> Tensor:
        """The score of each query (n, D) with the document in the same row: (n,)."""
        if self.by_hamming:
            left, right = (self._bits(side, calibration) for side in (queries, documents))
            return -(left - right).abs().sum(1)
        pairs = zip(queries.split(1), documents.split(1), strict=True)
        return torch.cat([self.scores(query, document, calibration).flatten() for query, document in pairs])

    def _compared(self, documents: Tensor, calibration: Calibration) -> Tensor:
        values = _values(documents, calibration, self.precision)
        return unit_rows(values) if self.precision == "ternary" and calibration.metric == "cosine" else values

    def _bits(self, embeddings: Tensor, calibration: Calibration) -> Tensor:
        """Codes (n, bytes) as float32 zeros and ones (n, 8 * bytes), whose L1 distance is the Hamming distance."""
        codes = quantize_embeddings(embeddings, calibration, self.precision)
        shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=codes.device)
        return ((codes.unsqueeze(2) >> shifts) & 1).flatten(1).float()


def _values(embeddings: Tensor, calibration: Calibration, precision: str) -> Tensor:
    """Embeddings (n, D) as they are compared, float32 (n, d): what their codes stand for where they are quantized."""
    scale = Scale.of(calibration, embeddings.device)
    if precision == "float32":
        return prepared(embeddings, scale)
    return dequantize_embeddings(quantize_embeddings(embeddings, scale, precision), scale, precision)
