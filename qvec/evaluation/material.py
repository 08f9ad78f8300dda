"""What a sweep works on: rows of a source to be searched, and queries that are not among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Metric
from qvec.errors import InputError
from qvec.evaluation.drawing import Load, dimensions_of, draw_vectors
from qvec.evaluation.rows import prepared
from qvec.evaluation.truth import nearest_rows
from qvec.evaluation.truth_table import TruthTable
from qvec.ingest.load_options import Reporter
from qvec.sources import Source

Array = NDArray[np.float32]

LEAST_DIMENSIONS = 64
"""Of a Matryoshka prefix: shorter ones are not tried."""
_VECTORS, _TEXTS = 50_000, 10_000
"""Rows that are drawn unless told otherwise; a small model embeds so many texts in minutes."""
_LARGEST = 2**26
"""Values of the rows that are held at once, 256 MB as float32."""


@dataclass(frozen=True, eq=False)
class Material:
    """Rows (n, D) and queries (m, D), float32 as the source has them; queries may be rows that were held out."""

    documents: Array
    queries: Array
    held_out: bool
    unusable: int
    """Rows that were drawn and cannot be quantized."""

    @property
    def dimensions(self) -> int:
        return int(self.documents.shape[1])

    def truth(self, metric: Metric, k: int) -> TruthTable:
        """The nearest rows of each query by exact float32, at all dimensions."""
        documents, queries = (
            prepared(of, self.dimensions, metric == "cosine") for of in (self.documents, self.queries)
        )
        return TruthTable.of(nearest_rows([(np.arange(len(documents)), documents)], queries, k))

    def levels(self) -> list[int]:
        """The dimensions that are tried: all of them, and their halves down to 64."""
        found = [self.dimensions]
        while found[-1] // 2 >= LEAST_DIMENSIONS:
            found.append(found[-1] // 2)
        return found


def draw(
    source: Source,
    *,
    rows: int | None,
    queries: int,
    metric: Metric,
    seed: int,
    given: Source | None,
    reporter: Reporter,
    load: Load | None = None,
) -> Material:
    """At most `rows` rows of a source, drawn uniformly, with as many queries held out, or those of another source.

    Texts are embedded by the model that `load` loads. Without `rows` 50,000 vectors or 10,000 texts; fewer where they
    would take more than 256 MB. Raises InputError where a source has neither vectors nor a model for its texts, too few
    rows, or other dimensions than the other.
    """
    dimensions = dimensions_of(source, load)
    if given is not None and (found := dimensions_of(given, load)) != dimensions:
        raise InputError(f"{given.name} has {found} dimensions, but {source.name} has {dimensions}")
    rows = min(rows or (_TEXTS if source.dimensions is None else _VECTORS), _LARGEST // dimensions)
    size = rows if given else rows + queries
    drawn, unusable = _usable(draw_vectors(source, size, seed, reporter, load), metric, source)
    if given is None:
        held = min(queries, len(drawn) // 5)
        order = np.random.default_rng(seed).permutation(len(drawn))
        asked, documents = drawn[order[:held]], drawn[order[held:]]
    else:
        vectors = draw_vectors(given, queries, seed, reporter, load, are_queries=True)
        documents, (asked, bad) = drawn, _usable(vectors, metric, given)
        if bad:
            raise InputError(f"{given.name}: {bad} queries hold NaN, an infinity or nothing but zeros")
    if len(asked) < 2:
        raise InputError(f"{(given or source).name} gives {len(asked)} queries, expected at least 2")
    return Material(documents, asked, given is None, unusable)


def _usable(vectors: Array, metric: Metric, source: Source) -> tuple[Array, int]:
    """The rows that can be quantized at every level, and how many cannot."""
    least = min(LEAST_DIMENSIONS, vectors.shape[1])
    bad = {
        row for width in (least, vectors.shape[1]) for row, _ in _native.bad_rows(vectors, width, metric == "cosine")
    }
    if len(bad) == len(vectors):
        raise InputError(f"{source.name} has no usable rows")
    return np.delete(vectors, sorted(bad), axis=0) if bad else vectors, len(bad)
