"""Uniform samples of a source as vectors: its own, or those that a model makes of its texts."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from qvec.embedding import Embedder
from qvec.errors import InputError
from qvec.ingest.encoder import embed_texts
from qvec.ingest.load_options import Reporter
from qvec.sources import Source

Vectors = NDArray[np.float32]
Load = Callable[[], Embedder]
"""Loads the model that embeds texts, at the first text."""


def dimensions_of(source: Source, load: Load | None) -> int:
    """Of a source's vectors. Raises InputError for one without vectors where no model embeds its texts."""
    if source.dimensions is not None:
        return source.dimensions
    if not source.has_text:
        raise InputError(f"{source.name} has neither vectors nor text; name a column: --vector-column or --text-column")
    if load is None:
        raise InputError(f"{source.name} has text but no vectors; name a model that embeds it: --model NAME")
    return load().dimensions


def draw_vectors(
    source: Source, size: int, seed: int, reporter: Reporter, load: Load | None, *, are_queries: bool = False
) -> Vectors:
    """At most `size` vectors (n, D), drawn uniformly, as the source or the model has them; NaN where the model cannot
    embed a text. Texts are embedded as documents, or as questions where they `are_queries`."""
    reporter.stage("sampling", source.rows)
    sample = source.sample(size, seed, lambda done: reporter.advance("sampling", done))
    texts = [] if sample is not None else _draw_texts(source, size, seed, reporter)
    reporter.finish("sampling")
    if sample is not None:
        return np.ascontiguousarray(sample, np.float32)
    assert load is not None
    return _embedded(load(), texts, are_queries, reporter)


def _draw_texts(source: Source, size: int, seed: int, reporter: Reporter) -> list[str]:
    """Every text draws a number, and those with the lowest stay, in the order of the source."""
    generator = random.Random(seed)
    drawn = heapq.nsmallest(size, ((generator.random(), row, text) for row, text in _texts(source, reporter)))
    return [text for _, _, text in sorted(drawn, key=lambda one: one[1])]


def _texts(source: Source, reporter: Reporter) -> Iterator[tuple[int, str]]:
    for batch in source.batches():
        if batch.documents is not None:
            there = zip(batch.rows.tolist(), batch.documents.to_pylist(), strict=True)
            yield from ((row, text) for row, text in there if text is not None)
        reporter.advance("sampling", batch.stop)


def _embedded(embedder: Embedder, texts: list[str], are_queries: bool, reporter: Reporter) -> Vectors:
    reporter.stage("embedding", len(texts))

    def progress(done: int) -> None:
        reporter.advance("embedding", done)

    vectors = embedder.embed_queries(texts, progress) if are_queries else embed_texts(embedder, texts, progress)[0]
    reporter.finish("embedding")
    return vectors
