"""Data for learned bits: pairs of query and document vectors, and the split into learning, selection and test."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.embedding import Embedder
from qvec.errors import InputError
from qvec.evaluation.dataset import read_queries
from qvec.sources import Columns, open_source
from qvec.training.text_datasets import SCORE_COLUMNS, TextPairs, read_pairs

Floats = NDArray[np.float32]

MAX_PAIRS = 10_000
"""Embedding more pairs would take longer than learning, and they help little."""
MIN_ROWS, MIN_QUERIES = 200, 3
MAX_HELD_OUT = 500
"""Upper limit for the selection queries and for the test queries."""
_SAME_TEXT = 1e-5
"""Two embeddings of one text differ by less than this share of their squared length."""


@dataclass(frozen=True)
class VectorPairs:
    """Queries and documents, float32 (p, D) each: the document in each row answers its query. Queries may repeat."""

    queries: Floats
    documents: Floats

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: NDArray[Any]) -> VectorPairs:
        """Return the pairs at these positions, or where a mask is true."""
        return VectorPairs(self.queries[rows], self.documents[rows])


def read_vector_pairs(
    path: str | Path, calibration: Calibration, embedder: Callable[[], Embedder], seed: int
) -> VectorPairs:
    """Read pairs from JSON Lines or Parquet: the first two columns of vectors or, without those, the first two of text.

    Of more than MAX_PAIRS pairs, draw that many at random. Raise InputError if the file cannot be read, has no such
    columns or has scores, or if a row is invalid or does not fit the calibration.
    """
    first = _first_row(Path(path))
    scored = next((name for name in SCORE_COLUMNS if name in first), None)
    if scored:
        raise InputError(
            f"{path} has a column {scored}, but `qvec adapt` needs queries with documents that answer them: keep only "
            "those rows, and remove that column"
        )
    vectors = [name for name, value in first.items() if isinstance(value, list)]
    if len(vectors) >= 2:
        pairs = VectorPairs(*(_read_vectors(path, name, calibration, embedder) for name in vectors[:2]))
        return pairs.take(np.array(_draw(len(pairs), seed)))
    texts = read_pairs(path)
    return _embed_pairs(texts.take(_draw(len(texts), seed)), embedder())


def _first_row(file: Path) -> dict[str, Any]:
    """Return the first row; empty if it cannot be read, because the reader of all rows reports that error."""
    try:
        if file.suffix == ".parquet":
            return dict(next(pq.ParquetFile(file).iter_batches(1)).to_pylist()[0])
        with file.open(encoding="utf-8-sig") as lines:
            return dict(json.loads(next(line for line in lines if line.strip())))
    except (OSError, ValueError, TypeError, StopIteration, IndexError, pa.ArrowException):
        return {}


def _read_vectors(path: str | Path, column: str, calibration: Calibration, embedder: Callable[[], Embedder]) -> Floats:
    with open_source(path, columns=Columns(vector=column, metadata=())) as source:
        return read_queries(source, calibration, embedder).vectors


def _draw(count: int, seed: int) -> Sequence[int]:
    return sorted(random.Random(seed).sample(range(count), min(count, MAX_PAIRS)))


def _embed_pairs(texts: TextPairs, embedder: Embedder) -> VectorPairs:
    return VectorPairs(
        _embed_once(embedder.embed_queries, texts.queries), _embed_once(embedder.embed_documents, texts.documents)
    )


def _embed_once(embed: Callable[[Sequence[str]], Floats], texts: Sequence[str]) -> Floats:
    """Embed equal texts once, so that their vectors are equal: in another batch the last bits could differ."""
    positions = {text: position for position, text in enumerate(dict.fromkeys(texts))}
    return embed(list(positions))[[positions[text] for text in texts]]


@dataclass(frozen=True)
class SampleSplit:
    """Rows to learn from, which held-out queries search too, with disjoint queries: float32 (n, D) each.

    queries and pairs are learned from; selection_queries select among candidate bits; test_queries measure the result.
    """

    rows: Floats
    queries: Floats
    pairs: VectorPairs
    selection_queries: Floats
    test_queries: Floats


def split_sample(
    sample: ArrayLike,
    calibration: Calibration,
    seed: int,
    queries: ArrayLike | None = None,
    pairs: VectorPairs | None = None,
) -> SampleSplit:
    """Split a sample (n, D) at random; hold out queries of `queries`, else of `pairs`, else rows of the sample.

    A third of the queries selects and a third measures, at most MAX_HELD_OUT each. Pairs are split by query, so that
    all documents of a query are on one side. With `queries`, all pairs are learned from whose query is not held out.
    Raise InputError for too few rows or queries, RowError for a row that the calibration does not accept.
    """
    rows = _checked(sample, calibration, "sample")
    if len(rows) < MIN_ROWS:
        raise InputError(f"sample: {len(rows)} rows found, at least {MIN_ROWS} wanted to learn bits from")
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))]
    valid_pairs = _checked_pairs(pairs, calibration, rows.shape[1])
    if queries is not None:
        learning, selection, test = _split_queries(_checked(queries, calibration, "queries"), "queries", rng)
    elif pairs is not None:
        distinct = np.unique(valid_pairs.queries, axis=0)
        _, selection, test = _split_queries(distinct, "pairs with distinct queries", rng)
        learning = rows[:0]
    else:
        held_out = min(MAX_HELD_OUT, len(rows) // 10)
        selection, test, rows = rows[:held_out], rows[held_out : 2 * held_out], rows[2 * held_out :]
        return SampleSplit(rows, rows[:0], valid_pairs, selection, test)
    return SampleSplit(rows, learning, _without(valid_pairs, np.concatenate([selection, test])), selection, test)


def _split_queries(queries: Floats, name: str, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    if len(queries) < MIN_QUERIES:
        raise InputError(
            f"{name}: {len(queries)} found, at least {MIN_QUERIES} wanted: to learn from, to select and to measure"
        )
    held_out = min(MAX_HELD_OUT, len(queries) // 3)
    queries = queries[rng.permutation(len(queries))]
    return queries[2 * held_out :], queries[:held_out], queries[held_out : 2 * held_out]


def _without(pairs: VectorPairs, queries: Floats) -> VectorPairs:
    """Return the pairs whose query is none of these, allowing for rounding in the embedding."""
    lengths = (pairs.queries**2).sum(axis=1)[:, None] + (queries**2).sum(axis=1)
    distances = lengths - 2 * pairs.queries @ queries.T
    return pairs.take((distances > _SAME_TEXT * lengths).all(axis=1))


def _checked_pairs(pairs: VectorPairs | None, calibration: Calibration, dimensions: int) -> VectorPairs:
    if pairs is None:
        return VectorPairs(*(np.empty((0, dimensions), np.float32) for _ in range(2)))
    queries = _checked(pairs.queries, calibration, "queries of pairs")
    documents = _checked(pairs.documents, calibration, "documents of pairs")
    if len(queries) != len(documents):
        raise InputError(f"pairs: {len(queries)} queries and {len(documents)} documents found, expected equally many")
    return VectorPairs(queries, documents)


def _checked(vectors: ArrayLike, calibration: Calibration, name: str) -> Floats:
    array = as_vectors(vectors, name, calibration.accepted_dimensions)
    calibration.check(array, name)
    return np.ascontiguousarray(array, dtype=np.float32)
