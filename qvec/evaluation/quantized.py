"""A sweep's rows and queries by one calibration, and what every way to search them finds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.codes import Codes, code_bytes, hamming_top_k, quantize, score, ternary
from qvec.evaluation.material import Array, Material
from qvec.evaluation.results import NONE
from qvec.evaluation.trials import PLANES
from qvec.evaluation.truth_table import Recalls, Rows, TruthTable
from qvec.ingest.options import FitOptions

OVERSAMPLING = (1, 2, 4, 8, 16)
RESCORES = {"ternary": ("int8", "int4", "float16"), "binary": ("int8", "int4", "binary", "float16")}
"""What a collection in Postgres can rescore by, for each prefilter."""
_BLOCK_SCORES = 4 << 20

Scores = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Measured:
    """The recall of each query by one configuration; as in `Result` and `Trial`."""

    fit: FitOptions
    prefilter: str
    rescore: str
    oversampling: int | None
    recalls: Recalls
    candidates: float | None = None


def fitted(vectors: Array, fit: FitOptions) -> Calibration:
    """The calibration of some vectors, as a load fits it."""
    return Calibration.fit(
        vectors,
        metric=fit.metric,
        threshold=fit.threshold,
        ranges=fit.ranges,
        dimensions=fit.dimensions,
        sample_size=fit.sample_size,
        seed=fit.seed,
    )


class Quantized:
    """Rows and queries by one calibration, as a load and a search make them."""

    def __init__(self, material: Material, fit: FitOptions) -> None:
        self._fit = fit
        self._calibration = fitted(material.documents, fit)
        self._documents = material.documents
        self._codes = quantize(material.documents, self._calibration)
        self._asked = quantize(material.queries, self._calibration)
        self._queries = self._calibration.prepared(material.queries)

    def two_steps(self, truth: TruthTable) -> Iterator[Measured]:
        """Each prefilter alone, and at every oversampling before each precision."""
        for prefilter, rescores in RESCORES.items():
            rows, asked = self._bits(prefilter)
            candidates, _ = hamming_top_k(rows, asked, truth.k * OVERSAMPLING[-1])
            yield Measured(self._fit, prefilter, NONE, None, truth.recalls(candidates[:, : truth.k]))
            scored = {rescore: self._rescored(candidates, rescore) for rescore in rescores}
            for oversampling in OVERSAMPLING:
                among = candidates[:, : truth.k * oversampling]
                reached = float(truth.recalls(among).mean())
                for rescore, scores in scored.items():
                    found = truth.recalls(_best(among, scores[:, : among.shape[1]], truth.k))
                    yield Measured(self._fit, prefilter, rescore, oversampling, found, reached)

    def every_row(self, truth: TruthTable) -> Iterator[Measured]:
        """Each precision without a prefilter: every row compared with the query in float32."""
        for rescore in ("float32", "int8", "int4", "binary"):
            yield Measured(self._fit, NONE, rescore, None, truth.recalls(self._nearest(rescore, truth.k)))

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
