"""Pairs of a query and a document that answers it, for learning bits: vectors, or texts that a model embeds."""

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
from numpy.typing import NDArray

from qvec.adapting.directions import Floats
from qvec.calibration import Calibration
from qvec.embedding import Embedder
from qvec.errors import InputError
from qvec.evaluation.queries import read_queries
from qvec.sources import Columns, open_source
from qvec.training.pairs import SCORES
from qvec.training.pairs import Pairs as Texts
from qvec.training.pairs import read_pairs as read_texts

MOST = 10_000
"""Of more pairs so many are drawn: embedding the others would take longer than learning, and teach hardly more."""


@dataclass(frozen=True)
class Pairs:
    """Queries and documents, float32 (p, D) each: a row's document answers its query. A query with several answers
    stands in several rows."""

    queries: Floats
    documents: Floats

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: NDArray[Any]) -> Pairs:
        """The pairs of these rows, by their positions or where true."""
        return Pairs(self.queries[rows], self.documents[rows])


def read_pairs(path: str | Path, calibration: Calibration, embedder: Callable[[], Embedder], seed: int) -> Pairs:
    """Reads JSON Lines or Parquet: the first two columns that hold vectors or, where there are none, the first two that
    hold text, as `qvec train` reads them. Of more than MOST pairs so many are drawn by the seed.

    Raises InputError for a file that cannot be read, that has no such columns, or that has scores, and for a row that
    cannot be read or compared.
    """
    first = _first_row(Path(path))
    scored = next((name for name in SCORES if name in first), None)
    if scored:
        raise InputError(
            f"{path} has a column {scored}, but a pair here is a query and a document that answers it: keep the rows "
            "that are, without that column"
        )
    names = [name for name, value in first.items() if isinstance(value, list)]
    if len(names) >= 2:
        read = Pairs(*(_vectors(path, name, calibration, embedder) for name in names[:2]))
        return read.take(np.array(_drawn(len(read), seed)))
    texts = read_texts(path)
    return _embedded(texts.take(_drawn(len(texts), seed)), embedder())


def _first_row(file: Path) -> dict[str, Any]:
    """Empty where it cannot be read, which the reader of all rows explains."""
    try:
        if file.suffix == ".parquet":
            return dict(next(pq.ParquetFile(file).iter_batches(1)).to_pylist()[0])
        with file.open(encoding="utf-8-sig") as lines:
            return dict(json.loads(next(line for line in lines if line.strip())))
    except (OSError, ValueError, TypeError, StopIteration, IndexError, pa.ArrowException):
        return {}


def _vectors(path: str | Path, column: str, calibration: Calibration, embedder: Callable[[], Embedder]) -> Floats:
    with open_source(path, columns=Columns(vector=column, metadata=())) as source:
        return read_queries(source, calibration, embedder).vectors


def _drawn(count: int, seed: int) -> Sequence[int]:
    return sorted(random.Random(seed).sample(range(count), min(count, MOST)))


def _embedded(texts: Texts, embedder: Embedder) -> Pairs:
    return Pairs(
        _each_once(embedder.embed_queries, texts.queries), _each_once(embedder.embed_documents, texts.documents)
    )


def _each_once(embed: Callable[[Sequence[str]], Floats], texts: Sequence[str]) -> Floats:
    """Vectors of texts, those of equal texts equal: in another batch a model's would differ in their last bits."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return embed(list(places))[[places[text] for text in texts]]
