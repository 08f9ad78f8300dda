"""How embeddings compare once they are stored: as codes on one side or both, as qvec's search compares them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qvec.calibration import Calibration
from qvec.training.quantizers import Scale, dequantize_embeddings, prepared, quantizable, quantize_embeddings

_BITS = ("binary", "ternary")


@dataclass(frozen=True)
class Comparison:
    """Documents in one precision, queries in another: float32 where qvec rescores.

    Bits against bits of the same kind compare by Hamming distance, as a prefilter does; everything else by the inner
    product of what the codes stand for, which under cosine estimates the cosine.
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
        left, right = self._sides(queries, documents, calibration)
        return -torch.cdist(left, right, p=1) if self.by_hamming else left @ right.T

    def pairwise(self, queries: Tensor, documents: Tensor, calibration: Calibration) -> Tensor:
        """The score of each query (n, D) with the document in the same row: (n,)."""
        left, right = self._sides(queries, documents, calibration)
        return -(left - right).abs().sum(1) if self.by_hamming else (left * right).sum(1)

    def _sides(self, queries: Tensor, documents: Tensor, calibration: Calibration) -> tuple[Tensor, Tensor]:
        scale = Scale.of(calibration, documents.device)
        return self._side(queries, scale, self.query_precision), self._side(documents, scale, self.precision)

    def _side(self, embeddings: Tensor, scale: Scale, precision: str) -> Tensor:
        if precision == "float32":
            return prepared(embeddings, scale)
        codes = quantize_embeddings(embeddings, scale, precision)
        return _bits(codes) if self.by_hamming else dequantize_embeddings(codes, scale, precision)


def _bits(codes: Tensor) -> Tensor:
    """Codes (n, bytes) as float32 zeros and ones (n, 8 * bytes), whose L1 distance is the Hamming distance."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=codes.device)
    return ((codes.unsqueeze(2) >> shifts) & 1).flatten(1).float()
