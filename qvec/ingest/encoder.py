"""Encoding: from a source's batches to rows as the collection writes them, with texts embedded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec import _native
from qvec.client import Collection
from qvec.embedding import Embedder
from qvec.errors import InputError, RowError
from qvec.sources import Batch, RejectedRow, Source
from qvec.store.loads import EncodedBatch
from qvec.store.requests import RowColumns

_BATCH_BYTES = 8 << 20
_MAX_BATCH_ROWS = 16_384
TEXT_ROWS = 256
"""Texts that a model embeds in a few seconds."""
NO_TEXT = "has no text to embed"


def batch_rows(source: Source) -> int:
    """Return the rows of a batch: some megabytes of vectors, or the texts that a model embeds in seconds."""
    if source.dimensions is None:
        return TEXT_ROWS
    return min(max(_BATCH_BYTES // (4 * source.dimensions), 1), _MAX_BATCH_ROWS)


@dataclass(frozen=True)
class Encoder:
    """Encodes the batches of one source as rows of one collection."""

    source: Source
    collection: Collection
    first_id: int | None
    embedder: Embedder | None
    embedded: dict[int, NDArray[np.float32]]
    """Vectors of source rows that were embedded for the sample."""
    skip_rejected: bool
    progress: Callable[[int], None]
    """Called with the number of rows embedded so far."""

    def batches(self, start: int, rows: int) -> Iterator[EncodedBatch]:
        """Yield encoded batches from a source row on. Raise InputError at the first rejected row unless skipped."""
        for batch in self.source.batches(start, rows):
            encoded = self._encode(_with_vectors(batch, self) if batch.vectors is None else batch)
            if encoded.rejected and not self.skip_rejected:
                first = min(encoded.rejected, key=lambda rejected: rejected.row)
                raise InputError(f"{first.where}: {first.reason}")
            yield encoded

    def _encode(self, batch: Batch) -> EncodedBatch:
        while True:
            assert batch.vectors is not None
            try:
                rows = self.collection.encode(
                    RowColumns(self._ids(batch), batch.vectors, batch.documents, batch.metadata, self.source.form)
                )
            except RowError as error:
                batch = self._without_rejected(batch, error)
            else:
                return EncodedBatch(batch.start, batch.stop, rows, len(batch.rows), batch.rejected)

    def _ids(self, batch: Batch) -> pa.Array | NDArray[np.int64]:
        if batch.ids is not None:
            return batch.ids
        assert self.first_id is not None
        return batch.rows + self.first_id

    def _without_rejected(self, batch: Batch, error: RowError) -> Batch:
        """Return the batch without the row that could not be encoded, and without all others whose vectors are bad."""
        assert batch.vectors is not None
        calibration = self.collection.calibration.for_form(self.source.form)
        cosine = calibration.metric == "cosine"
        reasons = dict(_native.bad_rows(batch.vectors, calibration.dimensions, cosine))
        reasons.setdefault(error.row, error.reason)
        return _reject(batch, reasons, self.source.where)


def _with_vectors(batch: Batch, encoder: Encoder) -> Batch:
    """Return the batch with its documents embedded; reject rows without one, or with one that cannot be embedded."""
    if encoder.embedder is None or batch.documents is None:
        raise InputError(f"{encoder.source.name} has no vectors; name a model that embeds its text: --model NAME")
    missing = np.flatnonzero(batch.documents.is_null().to_numpy(zero_copy_only=False))
    batch = _reject(batch, {int(row): NO_TEXT for row in missing}, encoder.source.where)
    assert batch.documents is not None
    vectors, reasons = embed(encoder.embedder, batch, encoder.embedded)
    encoder.progress(batch.stop)
    return _reject(replace(batch, vectors=vectors), reasons, encoder.source.where)


def embed(
    embedder: Embedder, batch: Batch, known: dict[int, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return the vectors of a batch's documents, float32 (n, d), and why a position has none. Vectors of `known` source
    rows are reused."""
    assert batch.documents is not None
    texts = batch.documents.to_pylist()
    new = [index for index, row in enumerate(batch.rows) if int(row) not in known]
    vectors = np.empty((len(texts), embedder.dimensions), np.float32)
    vectors[new], reasons = embed_texts(embedder, [texts[index] for index in new])
    for index, row in enumerate(batch.rows):
        if int(row) in known:
            vectors[index] = known[int(row)]
    return vectors, {new[index]: reason for index, reason in reasons.items()}


def embed_texts(
    embedder: Embedder, texts: Sequence[str], progress: Callable[[int], None] | None = None
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return the vectors of documents, float32 (n, d), and why a row has none; such a row is NaN."""
    vectors = np.full((len(texts), embedder.dimensions), np.nan, np.float32)
    reasons: dict[int, str] = {}
    for start in range(0, len(texts), TEXT_ROWS):
        rows = list(range(start, min(start + TEXT_ROWS, len(texts))))
        while rows:
            try:
                vectors[rows] = embedder.embed_documents([texts[row] for row in rows], _after(start, progress))
                break
            except RowError as error:
                reasons[rows.pop(error.row)] = error.reason
    return vectors, reasons


def _after(start: int, progress: Callable[[int], None] | None) -> Callable[[int], Any] | None:
    return None if progress is None else lambda done: progress(start + done)


def _reject(batch: Batch, reasons: dict[int, str], where: Callable[[int], str]) -> Batch:
    """Return the batch with the rows at these positions moved to `rejected`."""
    if not reasons:
        return batch
    kept = np.setdiff1d(np.arange(len(batch.rows)), list(reasons))
    rejected = [_rejected(batch, position, reason, where) for position, reason in sorted(reasons.items())]
    return Batch(
        start=batch.start,
        stop=batch.stop,
        rows=batch.rows[kept],
        ids=_take(batch.ids, kept),
        vectors=None if batch.vectors is None else np.ascontiguousarray(batch.vectors[kept]),
        documents=_take(batch.documents, kept),
        metadata=_take(batch.metadata, kept),
        rejected=(*batch.rejected, *rejected),
    )


def _take(values: Any, kept: NDArray[np.int64]) -> Any:
    return None if values is None else values.take(pa.array(kept))


def _rejected(batch: Batch, position: int, reason: str, where: Callable[[int], str]) -> RejectedRow:
    row = int(batch.rows[position])
    fields = {"id": batch.ids, "document": batch.documents, "metadata": batch.metadata}
    content = {name: values[position].as_py() for name, values in fields.items() if values is not None}
    return RejectedRow(row, where(row), reason, json.dumps(content, ensure_ascii=False))
