"""Rows to compare queries with, and queries taken from rows: of a source, or of a collection itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Calibration
from qvec.client import Collection
from qvec.embedding import Embedder
from qvec.errors import InputError
from qvec.sources import Source

Floats = NDArray[np.float32]
Block = tuple[NDArray[Any], Floats]
Progress = Callable[[int], None]
"""Called with the number of rows read so far."""

_BATCH_ROWS = 8192
_TEXTS = 256


@dataclass(frozen=True)
class Rows:
    """A stream of rows that can be read more than once: ids (n,) of int or str and vectors float32 (n, d), as the
    calibration's metric compares them."""

    name: str
    """What these vectors are, in the words of a report."""
    dimensions: int
    read: Callable[[Progress], Iterator[Block]]
    offset: Floats | None = None
    """What is missing from these vectors to be those of queries: the threshold where they are centred."""

    def sample(self, size: int, seed: int, progress: Progress = lambda _: None) -> tuple[list[int | str], Floats]:
        """Ids and vectors (at most size, d) drawn uniformly without repetition, as queries have them."""
        rng = np.random.default_rng(seed)
        kept, names, vectors = np.empty(0), np.empty(0, object), np.empty((0, self.dimensions), np.float32)
        for found, rows in self.read(progress):
            # Each row draws a number, and the lowest stay: every set of rows is as likely.
            drawn = np.concatenate([kept, rng.random(len(rows))])
            stay = np.argsort(drawn, kind="stable")[:size]
            kept = drawn[stay]
            names = np.concatenate([names, np.array(found.tolist(), object)])[stay]
            vectors = np.concatenate([vectors, rows])[stay]
        return names.tolist(), vectors if self.offset is None else vectors + self.offset


def rows_of_source(
    source: Source, calibration: Calibration, embedder: Embedder | None, first_id: int, dimensions: int | None = None
) -> Rows:
    """The rows of a source, as they are compared before anything is quantized. Rows without ids are numbered from
    `first_id` on; rows that cannot be compared (NaN, zero under cosine) are left out, as a load leaves them out.

    `dimensions` are those of the queries: where the collection keeps a Matryoshka prefix, but source and queries have
    all dimensions, all of them are compared.
    """
    found = source.dimensions or (embedder.dimensions if embedder else None)
    if found is None:
        raise InputError(f"{source.name} has no vectors; name a model that embeds its text: --model NAME")
    if found not in calibration.accepted_dimensions:
        wanted = " or ".join(map(str, calibration.accepted_dimensions))
        raise InputError(f"{source.name} has {found} dimensions, expected {wanted}, as the collection")
    compared = found if dimensions == found else calibration.dimensions

    def read(progress: Progress) -> Iterator[Block]:
        for batch in source.batches(batch_rows=_BATCH_ROWS if source.dimensions else _TEXTS):
            ids = batch.rows + first_id if batch.ids is None else batch.ids.to_numpy(zero_copy_only=False)
            vectors = batch.vectors
            if vectors is None:
                assert embedder
                assert batch.documents is not None
                has_text = batch.documents.is_valid().to_numpy(zero_copy_only=False)
                vectors = embedder.embed_documents(batch.documents.filter(batch.documents.is_valid()).to_pylist())
                ids = ids[has_text]
            yield _comparable(ids, vectors, calibration, compared)
            progress(batch.stop)

    return Rows(source.name, compared, read)


def _comparable(ids: Any, vectors: NDArray[Any], calibration: Calibration, dimensions: int) -> Block:
    cosine = calibration.metric == "cosine"
    bad = [row for row, _ in _native.bad_rows(vectors, dimensions, cosine)]
    ids, vectors = np.delete(ids, bad), np.delete(vectors, bad, axis=0)
    return ids, prepared(vectors, dimensions, cosine)


def prepared(vectors: NDArray[Any], dimensions: int, cosine: bool) -> Floats:
    """The first dimensions of vectors (n, D) as float32, at unit length under cosine."""
    if cosine:
        return _native.normalize(np.ascontiguousarray(vectors), dimensions)
    return np.ascontiguousarray(vectors[:, :dimensions], np.float32)


def rows_of_collection(collection: Collection) -> Rows:
    """The rows of a collection by what it keeps of them: floats, or codes decoded."""

    def read(progress: Progress) -> Iterator[Block]:
        done = 0
        for rows in collection.iter_rows(0, _BATCH_ROWS):
            ids = rows.ids if isinstance(rows.ids, np.ndarray) else rows.ids.to_numpy(zero_copy_only=False)
            yield ids, rows.vectors
            done += len(rows.vectors)
            progress(done)

    calibration = collection.calibration
    offset = calibration.threshold if collection.form == "centred" else None
    return Rows(collection.name, calibration.dimensions, read, offset)
