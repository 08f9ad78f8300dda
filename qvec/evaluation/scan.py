"""What a prefilter finds when it compares every row: the codes of a collection in Postgres, read once.

Against it a search through the index shows what the index alone loses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.calibration import Calibration
from qvec.codes import PLANES, hamming_top_k, learned, quantize, score, ternary
from qvec.evaluation.ways import Block

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Candidates:
    """The rows nearest to each query by one prefilter's bits, nearest first (of equal ones the first in the table), and
    their scores (m, n) by each precision."""

    ids: NDArray[Any]
    distances: NDArray[np.int32]
    scores: dict[str, Floats]

    def best(self, count: int, rescore: str | None = None) -> list[list[int | str]]:
        """The ids of the first `count` for each query; rescored by a precision where one is named, best first."""
        ids = self.ids[:, :count]
        if rescore is not None:
            order = np.argsort(-self.scores[rescore][:, :count], axis=1, kind="stable")
            ids = np.take_along_axis(ids, order, axis=1)
        return [line.tolist() for line in ids]

    def without(self, rows: Sequence[int | str]) -> Candidates:
        """Without the row of each query's own, and so one fewer."""
        own = self.ids == np.array(rows, self.ids.dtype)[:, None]
        order = np.argsort(own, axis=1, kind="stable")[:, :-1]

        def kept(values: NDArray[Any]) -> NDArray[Any]:
            return np.take_along_axis(values, order, axis=1)

        scores = {name: kept(values) for name, values in self.scores.items()}
        return Candidates(kept(self.ids), kept(self.distances), scores)

    def merged(self, other: Candidates, count: int) -> Candidates:
        """The nearest of both; `other` comes later in the table."""
        distances = np.concatenate([self.distances, other.distances], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :count]

        def chosen(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
            return np.take_along_axis(np.concatenate([first, second], axis=1), order, axis=1)

        scores = {name: chosen(self.scores[name], other.scores[name]) for name in self.scores}
        return Candidates(chosen(self.ids, other.ids), chosen(self.distances, other.distances), scores)


def scan(
    blocks: Iterable[Block],
    queries: Floats,
    calibration: Calibration,
    prefilters: Sequence[str],
    rescores: Sequence[str],
    count: int,
) -> dict[str, Candidates]:
    """The `count` candidates of each prefilter for prepared queries (m, d), over blocks of stored rows."""
    codes = quantize(queries, calibration)
    bits = {name: _bits(codes, name, calibration) for name in prefilters}
    found: dict[str, Candidates] = {}
    for ids, stored, floats in blocks:
        scores = {name: _scores(stored, floats, queries, calibration, name) for name in rescores}
        for name in prefilters:
            # Where floats are kept, the codes may be the prefilter's bits and nothing else.
            rows = stored if stored.shape[1] == bits[name].shape[1] else _bits(stored, name, calibration)
            near, distances = hamming_top_k(rows, bits[name], min(count, len(rows)))
            taken = {key: np.take_along_axis(values, near, axis=1) for key, values in scores.items()}
            new = Candidates(ids[near], distances, taken)
            found[name] = found[name].merged(new, count) if name in found else new
    return found


def candidate_count(k: int, oversampling: float) -> int:
    """How many candidates a search takes."""
    return max(k, math.ceil(k * oversampling))


def _bits(codes: Codes, prefilter: str, calibration: Calibration) -> Codes:
    if prefilter == "learned":
        return learned(codes, calibration)
    width = math.ceil(calibration.dimensions / 8)
    return ternary(codes, calibration) if prefilter == "ternary" else np.ascontiguousarray(codes[:, :width])


def _scores(stored: Codes, floats: Floats | None, queries: Floats, calibration: Calibration, rescore: str) -> Floats:
    if rescore in PLANES:
        return score(stored, queries, calibration, PLANES[rescore])
    assert floats is not None
    seen: Floats = queries.astype(rescore).astype(np.float32)  # Postgres rounds the query as well
    return np.asarray(seen @ floats.T)
