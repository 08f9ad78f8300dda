"""A sample of a source, with queries, on which calibrations are compared without a database."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec import _native
from qvec.arrays import Vectors
from qvec.calibration import Metric
from qvec.embedding import Embedder
from qvec.errors import InputError
from qvec.evaluation.dataset import prepared
from qvec.evaluation.ground_truth import RecallTable, nearest_rows
from qvec.ingest.embedding import embed_texts
from qvec.ingest.options import Reporter
from qvec.sources import Source

Floats = NDArray[np.float32]
LoadEmbedder = Callable[[], Embedder]
"""Loads the model that embeds texts; called for the first text."""

MIN_DIMENSIONS = 64
"""Shortest Matryoshka prefix to try."""
_VECTORS, _TEXTS = 50_000, 10_000
"""Default number of rows; a small model embeds this many texts in minutes."""
_MAX_VALUES = 2**26
"""Limit for the values of the rows: 256 MB as float32."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows (n, D) and queries (m, D), float32 as the source has them."""

    rows: Floats
    queries: Floats
    held_out: bool
    """Whether the queries are rows that were held out."""
    unusable: int = 0
    """Number of rows drawn that cannot be quantized."""

    @classmethod
    def split(cls, vectors: Vectors, queries: int, seed: int, unusable: int = 0) -> Sample:
        """Hold out at most `queries` vectors, and at most a fifth of them, as queries."""
        order = np.random.default_rng(seed).permutation(len(vectors))
        held = min(queries, len(vectors) // 5)
        rows, held_out = (np.ascontiguousarray(vectors[of], np.float32) for of in (order[held:], order[:held]))
        return cls(rows, held_out, True, unusable)

    @property
    def dimensions(self) -> int:
        """Dimensions of the source's vectors."""
        return int(self.rows.shape[1])

    def ground_truth(self, metric: Metric, k: int) -> RecallTable:
        """Find the k nearest rows of each query in float32, in all dimensions."""
        rows, queries = (prepared(of, self.dimensions, metric == "cosine") for of in (self.rows, self.queries))
        return RecallTable.of(nearest_rows([(np.arange(len(rows)), rows)], queries, k))

    def prefixes(self) -> list[int]:
        """Return the dimensions to try: all, and repeated halves down to 64."""
        found = [self.dimensions]
        while found[-1] // 2 >= MIN_DIMENSIONS:
            found.append(found[-1] // 2)
        return found


def draw_sample(
    source: Source,
    *,
    rows: int | None,
    queries: int,
    metric: Metric,
    seed: int,
    reporter: Reporter,
    query_source: Source | None = None,
    load: LoadEmbedder | None = None,
) -> Sample:
    """Draw rows of a source uniformly, with queries: rows held out, or drawn from `query_source`.

    `rows` defaults to 50,000 vectors or 10,000 texts, and is reduced to fit 256 MB. `load` loads the model that embeds
    texts. Raise InputError if a source has neither vectors nor a model for its texts, too few rows, or other dimensions
    than the other source.
    """
    dimensions = _dimensions_of(source, load)
    if query_source is not None and (found := _dimensions_of(query_source, load)) != dimensions:
        raise InputError(f"{query_source.name} has {found} dimensions, but {source.name} has {dimensions}")
    rows = min(rows or (_TEXTS if source.dimensions is None else _VECTORS), _MAX_VALUES // dimensions)
    size = rows if query_source else rows + queries
    drawn, unusable = _usable(draw_vectors(source, size, seed, reporter, load), metric, source)
    if query_source is None:
        sample = Sample.split(drawn, queries, seed, unusable)
    else:
        vectors = draw_vectors(query_source, queries, seed, reporter, load, as_queries=True)
        query_vectors, bad = _usable(vectors, metric, query_source)
        if bad:
            raise InputError(f"{query_source.name}: {bad} queries hold NaN, an infinity or only zeros")
        sample = Sample(drawn, query_vectors, False, unusable)
    if len(sample.queries) < 2:
        raise InputError(f"{(query_source or source).name} gives {len(sample.queries)} queries, expected at least 2")
    return sample


def _dimensions_of(source: Source, load: LoadEmbedder | None) -> int:
    if source.dimensions is not None:
        return source.dimensions
    if not source.has_text:
        raise InputError(f"{source.name} has neither vectors nor text; name a column: --vector-column or --text-column")
    if load is None:
        raise InputError(f"{source.name} has text but no vectors; name a model that embeds it: --model NAME")
    return load().dimensions


def _usable(vectors: Floats, metric: Metric, source: Source) -> tuple[Floats, int]:
    """The rows that can be quantized in any of the dimensions tried, and the number of the others."""
    widths = min(MIN_DIMENSIONS, vectors.shape[1]), vectors.shape[1]
    bad = {row for width in widths for row, _ in _native.bad_rows(vectors, width, metric == "cosine")}
    if len(bad) == len(vectors):
        raise InputError(f"{source.name} has no usable rows")
    return np.delete(vectors, sorted(bad), axis=0) if bad else vectors, len(bad)


def draw_vectors(
    source: Source, size: int, seed: int, reporter: Reporter, load: LoadEmbedder | None, *, as_queries: bool = False
) -> Floats:
    """Draw at most `size` vectors (n, D) uniformly, as the source or the model gives them.

    Texts are embedded as documents, or `as_queries`; the vector of a text that the model cannot embed is NaN.
    """
    reporter.stage("sampling", source.rows)
    sample = source.sample(size, seed, lambda done: reporter.advance("sampling", done))
    texts = [] if sample is not None else _draw_texts(source, size, seed, reporter)
    reporter.finish("sampling")
    if sample is not None:
        return np.ascontiguousarray(sample, np.float32)
    assert load is not None
    embedder = load()
    reporter.stage("embedding", len(texts))

    def progress(done: int) -> None:
        reporter.advance("embedding", done)

    vectors = embedder.embed_queries(texts, progress) if as_queries else embed_texts(embedder, texts, progress)[0]
    reporter.finish("embedding")
    return vectors


def _draw_texts(source: Source, size: int, seed: int, reporter: Reporter) -> list[str]:
    """Give each text a random key and keep those with the lowest keys, in the order of the source."""
    generator = random.Random(seed)
    drawn = heapq.nsmallest(size, ((generator.random(), row, text) for row, text in _texts(source, reporter)))
    return [text for _, _, text in sorted(drawn, key=lambda each: each[1])]


def _texts(source: Source, reporter: Reporter) -> Iterator[tuple[int, str]]:
    for batch in source.batches():
        if batch.documents is not None:
            rows = zip(batch.rows.tolist(), batch.documents.to_pylist(), strict=True)
            yield from ((row, text) for row, text in rows if text is not None)
        reporter.advance("sampling", batch.stop)
