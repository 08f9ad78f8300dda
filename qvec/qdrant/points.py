"""Rows as points: from vectors, texts and metadata to what is stored, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Calibration
from qvec.errors import RowError
from qvec.hits import Hit
from qvec.qdrant.ids import PointId, is_kept, point_id, row_id
from qvec.qdrant.layout import Layout
from qvec.qdrant.payloads import parsed

if TYPE_CHECKING:
    from qvec.sources import Form

Payload = dict[str, Any]

DOCUMENT, METADATA, ID = "document", "metadata", "id"
"""Keys of a payload. The id stands there when the point's own is made of it."""


@dataclass(frozen=True)
class Points:
    """Points to write: ids, stored vectors float32 (n, d), payloads."""

    ids: list[PointId]
    vectors: NDArray[np.float32]
    payloads: list[Payload]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Sequence[int]) -> Points:
        """Those at these positions."""
        return Points(
            [self.ids[i] for i in positions], self.vectors[list(positions)], [self.payloads[i] for i in positions]
        )


def stored_vectors(
    vectors: NDArray[Any], calibration: Calibration, layout: Layout, form: Form = "raw"
) -> NDArray[np.float32]:
    """What is stored of vectors (n, D) of a form, float32 (n, d): x - threshold, or its signs as +1 and -1.

    It is rounded to float16 here, unless float32 is kept, and a positive difference stays positive: the engine takes
    its bits from what it is given until it indexes, and from what it has stored then. Raises RowError for NaN,
    infinities, zero vectors under cosine, and what the storage cannot hold.
    """
    applied = calibration.for_form(form)
    half = layout.rescore not in ("float32", "binary")
    try:
        centred = _native.centre(vectors, applied.threshold, applied.metric == "cosine", half)
    except _native.BadRow as error:
        raise RowError(*error.args) from None
    return np.where(centred > 0, 1, -1).astype(np.float32) if layout.signs_only else centred


def encode(
    ids: Sequence[int | str],
    vectors: NDArray[Any],
    documents: pa.Array | None,
    metadata: pa.Array | None,
    *,
    calibration: Calibration,
    layout: Layout,
    form: Form = "raw",
) -> Points:
    """Rows as points. `documents` and `metadata` (JSON) are large_string arrays with nulls, or None."""
    texts = [None] * len(ids) if documents is None else documents.to_pylist()
    values = [None] * len(ids) if metadata is None else _values(metadata)
    return Points(
        [point_id(id) for id in ids],
        stored_vectors(vectors, calibration, layout, form),
        [_payload(id, text, value) for id, text, value in zip(ids, texts, values, strict=True)],
    )


def _values(metadata: pa.Array) -> list[Any]:
    return [text and parsed(row, text) for row, text in enumerate(metadata.to_pylist())]


def _payload(id: int | str, document: str | None, metadata: Any) -> Payload:
    payload: Payload = {} if is_kept(id) else {ID: id}
    if document is not None:
        payload[DOCUMENT] = document
    if metadata is not None:
        payload[METADATA] = metadata
    return payload


def foreign_hit(point: Any, score: float, payload: Mapping[str, Any] | None) -> Hit:
    """A point that qvec did not write: its payload is its metadata, apart from its `document`."""
    rest = dict(payload or {})
    document = rest.pop(DOCUMENT, None)
    return Hit(row_id(point, None), score, document if isinstance(document, str) else None, rest.get(METADATA, rest))


def hit(point: Any, score: float, payload: Mapping[str, Any] | None) -> Hit:
    """The row that a point stands for."""
    if not payload:
        return Hit(row_id(point, None), score)
    return Hit(row_id(point, payload.get(ID)), score, payload.get(DOCUMENT), payload.get(METADATA))
