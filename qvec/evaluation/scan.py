"""Searches without an index: every row's bits are compared, then the best candidates are rescored.

`scan_codes` reads the codes of a collection; a search through the index of the same codes shows what the index loses.
`QuantizedSample` quantizes a sample in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.codes import MAX_PLANES, PLANES, Codes, code_bytes, hamming_top_k, prefilter_bits, quantize, score
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.evaluation.evaluation_results import NONE
from qvec.evaluation.ground_truth import RecallTable
from qvec.evaluation.sample import Sample
from qvec.evaluation.search_config import CodeBlock, HitIds

Floats = NDArray[np.float32]
Positions = NDArray[np.int64]

RESCORES = {
    "levels8": ("int10", "int8", "int4", "float16"),
    "levels6": ("int10", "int8", "int4", "float16"),
    "levels5": ("int10", "int8", "int4", "float16"),
    "levels4": ("int10", "int8", "int4", "float16"),
    "ternary": ("int10", "int8", "int4", "float16"),
    "binary": ("int10", "int8", "int4", "binary", "float16"),
}
"""The rescoring precisions of a collection of codes, for each prefilter."""
SAMPLE_PRECISIONS = ("float32", "int10", "int8", "int4", "binary")
"""The precisions by which every row of a sample can be ranked."""
SAMPLE_OVERSAMPLINGS = tuple(sorted({1, 2, 4, 8, 16, DEFAULT_OVERSAMPLING}))
_BLOCK_SCORES = 4 << 20


@dataclass(frozen=True)
class Candidates:
    """The rows (m, n) whose prefilter bits are nearest to each query, nearest first, ties in table order.

    `scores` holds their scores (m, n) for each precision.
    """

    ids: NDArray[Any]
    distances: NDArray[np.int32]
    scores: dict[str, Floats]

    def best(self, count: int, rescore: str | None = None) -> HitIds:
        """Return the ids of the first `count` candidates, reordered by the scores of `rescore` if given."""
        ids = self.ids[:, :count]
        if rescore is not None:
            order = np.argsort(-self.scores[rescore][:, :count], axis=1, kind="stable")
            ids = np.take_along_axis(ids, order, axis=1)
        return [line.tolist() for line in ids]

    def without(self, rows: Sequence[int | str]) -> Candidates:
        """Return one candidate fewer for each query: without the given row, or else without the last."""
        own = self.ids == np.array(rows, self.ids.dtype)[:, None]
        return self._reordered(np.argsort(own, axis=1, kind="stable")[:, :-1])

    def merged(self, other: Candidates, count: int) -> Candidates:
        """Return the nearest `count` of these and of `other` candidates that come later in the table."""
        both = Candidates(
            np.concatenate([self.ids, other.ids], axis=1),
            np.concatenate([self.distances, other.distances], axis=1),
            {name: np.concatenate([self.scores[name], other.scores[name]], axis=1) for name in self.scores},
        )
        return both._reordered(np.argsort(both.distances, axis=1, kind="stable")[:, :count])

    def _reordered(self, order: Positions) -> Candidates:
        ids, distances = (np.take_along_axis(values, order, axis=1) for values in (self.ids, self.distances))
        scores = {name: np.take_along_axis(values, order, axis=1) for name, values in self.scores.items()}
        return Candidates(ids, distances, scores)


def scan_codes(
    blocks: Iterable[CodeBlock],
    queries: Floats,
    calibration: Calibration,
    prefilters: Sequence[str],
    rescores: Sequence[str],
    count: int,
) -> dict[str, Candidates]:
    """Find `count` candidates of each prefilter for prepared queries (m, d) among blocks of stored rows."""
    codes = quantize(queries, calibration)
    query_bits = {name: prefilter_bits(codes, calibration, name) for name in prefilters}
    found: dict[str, Candidates] = {}
    for ids, stored, floats in blocks:
        scores = {name: _scores(stored, floats, queries, calibration, name) for name in rescores}
        for name, bits in query_bits.items():
            # Beside floats, a table keeps the bits of its prefilter as codes.
            rows = stored if stored.shape[1] == bits.shape[1] else prefilter_bits(stored, calibration, name)
            near, distances = hamming_top_k(rows, bits, min(count, len(rows)))
            new = Candidates(
                ids[near], distances, {key: np.take_along_axis(each, near, axis=1) for key, each in scores.items()}
            )
            found[name] = found[name].merged(new, count) if name in found else new
    return found


def _scores(stored: Codes, floats: Floats | None, queries: Floats, calibration: Calibration, rescore: str) -> Floats:
    if rescore in PLANES:
        return score(stored, queries, calibration, PLANES[rescore])
    assert floats is not None
    rounded = queries.astype(rescore).astype(np.float32)  # Postgres rounds the query as well
    return np.asarray(rounded @ floats.T, np.float32)


@dataclass(frozen=True, eq=False)
class Measurement:
    """The recall of each query (m,) by one configuration; `candidates` is the mean recall before rescoring."""

    prefilter: str
    rescore: str
    oversampling: float | None
    recalls: NDArray[np.float64]
    candidates: float | None = None


class QuantizedSample:
    """A sample quantized with one calibration, to be searched as a collection of codes is."""

    def __init__(self, sample: Sample, calibration: Calibration) -> None:
        self._calibration = calibration
        self._rows = sample.rows
        self._codes = quantize(sample.rows, calibration, MAX_PLANES)
        self._queries = calibration.prepared(sample.queries)
        self._query_codes = quantize(calibration.for_prefilter(self._queries), calibration)

    def measure_all(self, truth: RecallTable) -> Iterator[Measurement]:
        """Measure each prefilter alone, and with every precision and oversampling."""
        for prefilter, rescores in RESCORES.items():
            candidates = self._candidates(prefilter, truth.k * SAMPLE_OVERSAMPLINGS[-1])
            yield Measurement(prefilter, NONE, None, truth.recalls(candidates[:, : truth.k]))
            for rescore in rescores:
                yield from self._rescore(prefilter, rescore, SAMPLE_OVERSAMPLINGS, candidates, truth)

    def measure(self, prefilter: str, rescore: str, oversampling: float, truth: RecallTable) -> Measurement:
        """Measure one configuration."""
        candidates = self._candidates(prefilter, math.ceil(truth.k * oversampling))
        return next(self._rescore(prefilter, rescore, (oversampling,), candidates, truth))

    def measure_exact(self, truth: RecallTable, rescore: str) -> Measurement:
        """Rank every row by one precision, with the query in float32 and without a prefilter."""
        rows = self._floats() if rescore == "float32" else np.ascontiguousarray(self._planes(PLANES[rescore]))
        size = max(_BLOCK_SCORES // len(rows), 1)
        found = []
        for start in range(0, len(self._queries), size):
            queries = self._queries[start : start + size]
            scores = queries @ rows.T if rescore == "float32" else score(rows, queries, self._calibration)
            found.append(_best(np.broadcast_to(np.arange(len(rows)), scores.shape), scores, truth.k))
        return Measurement(NONE, rescore, None, truth.recalls(np.concatenate(found)))

    def _candidates(self, prefilter: str, count: int) -> Positions:
        """The rows (m, count) whose prefilter bits are nearest to each query, nearest first."""
        rows, queries = (
            prefilter_bits(codes, self._calibration, prefilter) for codes in (self._codes, self._query_codes)
        )
        return hamming_top_k(rows, queries, count)[0]

    def _rescore(
        self, prefilter: str, rescore: str, oversamplings: Sequence[float], candidates: Positions, truth: RecallTable
    ) -> Iterator[Measurement]:
        pairs = list(zip(candidates, self._queries, strict=True))
        if rescore == "float16":
            halves = self._floats().astype(np.float16)
            scores = np.array([halves[rows].astype(np.float32) @ query for rows, query in pairs], np.float32)
        else:
            codes = self._planes(PLANES[rescore])
            scores = np.array([score(codes[rows], query, self._calibration)[0] for rows, query in pairs], np.float32)
        for oversampling in oversamplings:
            count = math.ceil(truth.k * oversampling)
            among = candidates[:, :count]
            recalls = truth.recalls(_best(among, scores[:, :count], truth.k))
            yield Measurement(prefilter, rescore, oversampling, recalls, float(truth.recalls(among).mean()))

    def _planes(self, planes: int) -> Codes:
        return self._codes[:, : code_bytes(self._calibration.dimensions, planes)]

    def _floats(self) -> Floats:
        return self._calibration.prepared(self._rows)


def _best(rows: Positions, scores: Floats, k: int) -> Positions:
    """The k rows (m, k) with the highest scores, of rows and scores (m, n)."""
    k = min(k, rows.shape[1])
    order = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(rows, order, axis=1)
