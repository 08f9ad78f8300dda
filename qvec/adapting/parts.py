"""What bits are learned from, what chooses among them, and what measures the chosen: apart from each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qvec.adapting.directions import Floats
from qvec.adapting.pairs import Pairs
from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.errors import InputError

LEAST_ROWS, LEAST_QUERIES = 200, 3
HELD_OUT = 500
"""At most so many queries choose, and as many measure."""
_SAME = 1e-5
"""Two embeddings of one text differ by less than this share of their squared length."""


@dataclass(frozen=True)
class Parts:
    """Rows (n, D) that bits are learned from and that held-out queries search, and queries (m, D) each."""

    rows: Floats
    asked: Floats
    """Queries to learn from."""
    pairs: Pairs
    """Pairs to learn from: none of their queries chooses or measures."""
    choosing: Floats
    measuring: Floats


def split(
    sample: ArrayLike, calibration: Calibration, seed: int, queries: ArrayLike | None = None, pairs: Pairs | None = None
) -> Parts:
    """Queries that are held out are, of what there is, the first of: queries, those of pairs, rows.

    Of queries a third chooses and a third measures, at most HELD_OUT each. Pairs are divided by their queries, so that
    one with several documents is on one side; where `queries` are held out, all other pairs are learned from. Raises
    InputError for too few, RowError for a row that cannot be compared.
    """
    rows = _checked(sample, calibration, "sample")
    if len(rows) < LEAST_ROWS:
        raise InputError(f"sample: {len(rows)} rows found, at least {LEAST_ROWS} wanted to learn bits from")
    random = np.random.default_rng(seed)
    rows = rows[random.permutation(len(rows))]
    given = _checked_pairs(pairs, calibration, rows.shape[1])
    if queries is not None:
        asked, choosing, measuring = _thirds(_checked(queries, calibration, "queries"), "queries", random)
        return Parts(rows, asked, _without(given, np.concatenate([choosing, measuring])), choosing, measuring)
    if pairs is not None:
        _, choosing, measuring = _thirds(np.unique(given.queries, axis=0), "pairs of different queries", random)
        return Parts(rows, rows[:0], _without(given, np.concatenate([choosing, measuring])), choosing, measuring)
    held_out = min(HELD_OUT, len(rows) // 10)
    return Parts(rows[2 * held_out :], rows[:0], given, rows[:held_out], rows[held_out : 2 * held_out])


def _thirds(queries: Floats, name: str, random: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    if len(queries) < LEAST_QUERIES:
        raise InputError(
            f"{name}: {len(queries)} found, at least {LEAST_QUERIES} wanted: to learn from, to choose and to measure"
        )
    held_out = min(HELD_OUT, len(queries) // 3)
    queries = queries[random.permutation(len(queries))]
    return queries[2 * held_out :], queries[:held_out], queries[held_out : 2 * held_out]


def _without(pairs: Pairs, queries: Floats) -> Pairs:
    """The pairs whose query is none of these."""
    lengths = (pairs.queries**2).sum(axis=1)[:, None] + (queries**2).sum(axis=1)
    apart = lengths - 2 * pairs.queries @ queries.T
    return pairs.take((apart > _SAME * lengths).all(axis=1))


def _checked_pairs(pairs: Pairs | None, calibration: Calibration, dimensions: int) -> Pairs:
    if pairs is None:
        return Pairs(*(np.empty((0, dimensions), np.float32) for _ in range(2)))
    queries = _checked(pairs.queries, calibration, "queries of pairs")
    documents = _checked(pairs.documents, calibration, "documents of pairs")
    if len(queries) != len(documents):
        raise InputError(f"pairs: {len(queries)} queries and {len(documents)} documents found, as many wanted of both")
    return Pairs(queries, documents)


def _checked(vectors: ArrayLike, calibration: Calibration, name: str) -> Floats:
    array = as_vectors(vectors, name, calibration.accepted_dimensions)
    calibration.check(array, name)
    return np.ascontiguousarray(array, dtype=np.float32)
