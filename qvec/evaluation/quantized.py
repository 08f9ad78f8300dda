"""A sweep's rows and queries by one calibration, and what every way to search them finds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.codes import PLANES, Codes, code_bytes, hamming_top_k, quantize, score, ternary
from qvec.evaluation.material import Array, Material
from qvec.evaluation.results import NONE
from qvec.evaluation.truth_table import Recalls, Rows, TruthTable

OVERSAMPLING = (1, 2, 4, 8, 16)
RESCORES = {"ternary": ("int8", "int4", "float16"), "binary": ("int8", "int4", "binary", "float16")}
"""What a collection in Postgres can rescore by, for each prefilter."""
PRECISIONS = ("float32", "int8", "int4", "binary")
"""What every row can be compared by."""
_BLOCK_SCORES = 4 << 20

Scores = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Measured:
    """The recall of each query (m,) by one way to search; as in `Result` and `Trial`."""

    prefilter: str
    rescore: str
    oversampling: float | None
    recalls: Recalls
    candidates: float | None = None


class Quantized:
    """Rows and queries by one calibration, as a load and a search make them."""

    def __init__(self, material: Material, calibration: Calibration) -> None:
        self._calibration = calibration
        self._documents = material.documents
        self._codes = quantize(material.documents, calibration)
        self._queries = calibration.prepared(material.queries)
        self._asked = quantize(calibration.for_prefilter(self._queries), calibration)

    def every_way(self, truth: TruthTable) -> Iterator[Measured]:
        """Each prefilter alone, and at every oversampling before each precision."""
        for prefilter, rescores in RESCORES.items():
            candidates = self._candidates(prefilter, truth.k * OVERSAMPLING[-1])
            yield Measured(prefilter, NONE, None, truth.recalls(candidates[:, : truth.k]))
            for rescore in rescores:
                yield from self._two_steps(prefilter, rescore, OVERSAMPLING, candidates, truth)

    def one_way(self, prefilter: str, rescore: str, oversampling: float, truth: TruthTable) -> Measured:
        """One prefilter before one precision."""
        candidates = self._candidates(prefilter, math.ceil(truth.k * oversampling))
        return next(self._two_steps(prefilter, rescore, (oversampling,), candidates, truth))

    def _candidates(self, prefilter: str, count: int) -> Rows:
        """The rows (m, count) that are nearest to each query by the prefilter, nearest first."""
        return hamming_top_k(*self._bits(prefilter), count)[0]

    def _two_steps(
        self, prefilter: str, rescore: str, oversamplings: Sequence[float], candidates: Rows, truth: TruthTable
    ) -> Iterator[Measured]:
        scores = self._rescored(candidates, rescore)
        for oversampling in oversamplings:
            count = math.ceil(truth.k * oversampling)
            among = candidates[:, :count]
            found = truth.recalls(_best(among, scores[:, :count], truth.k))
            yield Measured(prefilter, rescore, oversampling, found, float(truth.recalls(among).mean()))

    def every_row(self, truth: TruthTable, rescores: Sequence[str] = PRECISIONS) -> Iterator[Measured]:
        """Each precision without a prefilter: every row compared with the query in float32."""
        for rescore in rescores:
            yield Measured(NONE, rescore, None, truth.recalls(self._nearest(rescore, truth.k)))

    def _bits(self, prefilter: str) -> tuple[Codes, Codes]:
        """What a prefilter compares, of rows and of queries."""
        if prefilter == "ternary":
            return ternary(self._codes, self._calibration), ternary(self._asked, self._calibration)
        return self._planes(1), self._asked[:, : code_bytes(self._calibration.dimensions, 1)]

    def _planes(self, planes: int) -> Codes:
        return self._codes[:, : code_bytes(self._calibration.dimensions, planes)]

    def _floats(self) -> Array:
        return self._calibration.prepared(self._documents)

    def _rescored(self, candidates: Rows, rescore: str) -> Scores:
        """The scores of each query's candidates (m, n)."""
        if rescore == "float16":
            rows = self._floats().astype(np.float16)
            pairs = zip(candidates, self._queries, strict=True)
            return np.array([rows[of].astype(np.float32) @ query for of, query in pairs], np.float32)
        codes = self._planes(PLANES[rescore])
        pairs = zip(candidates, self._queries, strict=True)
        return np.array([score(codes[of], query, self._calibration)[0] for of, query in pairs], np.float32)

    def _nearest(self, rescore: str, k: int) -> Rows:
        rows = self._floats() if rescore == "float32" else self._planes(PLANES[rescore])
        every = np.arange(len(rows))
        size = max(_BLOCK_SCORES // len(rows), 1)
        found = []
        for start in range(0, len(self._queries), size):
            queries = self._queries[start : start + size]
            scores = queries @ rows.T if rescore == "float32" else score(rows, queries, self._calibration)
            found.append(_best(np.broadcast_to(every, scores.shape), scores, k))
        return np.concatenate(found)


def _best(rows: Rows, scores: Scores, k: int) -> Rows:
    """The k rows (m, k) with the highest scores, of rows and scores (m, n)."""
    k = min(k, rows.shape[1])
    order = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(rows, order, axis=1)
