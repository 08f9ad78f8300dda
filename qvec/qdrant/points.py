"""Rows as Qdrant's points: ids, stored vectors and payloads, and back.

The id of a point is an unsigned integer or a UUID. Row ids that are one of these are kept; any other row id gets a UUID
derived from it, and is stored in the payload.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Calibration
from qvec.errors import RowError
from qvec.qdrant.vector_layout import VectorLayout
from qvec.results import Hit
from qvec.sources import Form
from qvec.store.requests import RowColumns

PointId = int | str
Payload = dict[str, Any]

DOCUMENT, METADATA, ID = "document", "metadata", "id"
"""Keys of a payload; the id is stored where the point's own is derived from it."""

MAX_NESTING = 30
"""Objects and arrays inside each other. A gRPC message may be nested 100 deep, three levels for each object; the
embedded engine accepts more than 127, and can then never read or write again."""
_INT64 = range(-(2**63), 2**63)
_MAY_BE_TOO_LARGE = re.compile(r"\d{19}|[eE]\+?\d{3}")
_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NAMESPACE = UUID("6a3ef36c-7a1f-5c4b-9d0e-1b0f2a6f5d21")
"""Of derived UUIDs: uuid5 of this and the text of the row id."""


@dataclass(frozen=True)
class Points:
    """Points to write: ids, stored vectors float32 (n, d), payloads."""

    ids: list[PointId]
    vectors: NDArray[np.float32]
    payloads: list[Payload]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, positions: Sequence[int]) -> Points:
        """Return the points at these positions."""
        return Points(
            [self.ids[i] for i in positions], self.vectors[list(positions)], [self.payloads[i] for i in positions]
        )

    def row_id(self, position: int) -> int | str:
        """Return the row id of the point at a position."""
        return row_id(self.ids[position], self.payloads[position].get(ID))


@dataclass(frozen=True)
class StoredPoint:
    """A point as it is stored; `payload` and `vector` are None where they were not asked for."""

    id: Any
    payload: Payload | None
    vector: NDArray[np.float32] | None


class FoundPoint(NamedTuple):
    """A point that a server found, and its score; the embedded engine's own points have the same attributes."""

    id: Any
    score: float
    payload: Payload | None


@dataclass(frozen=True)
class PointSizes:
    """Bytes of a collection's points, of its index, and in memory; None where the engine does not report them."""

    points: int | None
    index: int | None
    ram: int | None


# Ids


def point_id(id: int | str) -> PointId:
    """Return the id of a row's point, the same one at all times."""
    if isinstance(id, int):
        return id if id >= 0 else str(uuid5(_NAMESPACE, str(id)))
    return id if _UUID.fullmatch(id) else str(uuid5(_NAMESPACE, id))


def unmanaged_point_id(id: int | str) -> PointId | None:
    """Return the id of a point that qvec did not make; None where no point can have this id."""
    if isinstance(id, int):
        return id if 0 <= id < 2**64 else None
    try:
        return str(UUID(id))
    except (ValueError, TypeError, AttributeError):
        return None


def plain(id: Any) -> PointId:
    """Return a point's id as an integer or a string; the embedded engine returns UUID objects."""
    return id if isinstance(id, int) else str(id)


def row_id(point: Any, original: Any) -> int | str:
    """Return the row's id from that of its point and the one in its payload, if any."""
    if isinstance(original, (int, str)):
        return original
    return point if isinstance(point, int) else str(point)


def row_ids(ids: NDArray[np.int64] | pa.Array) -> list[int | str]:
    """Return a column of row ids as Python values."""
    values: list[int | str] = ids.to_pylist() if isinstance(ids, pa.Array) else ids.tolist()
    return values


# Rows to points


def encode(rows: RowColumns, calibration: Calibration, layout: VectorLayout) -> Points:
    """Return rows as points. Raise RowError for a row that cannot be stored."""
    ids = row_ids(rows.ids)
    documents = [None] * len(ids) if rows.documents is None else rows.documents.to_pylist()
    metadata = [None] * len(ids) if rows.metadata is None else _parsed(rows.metadata)
    return Points(
        [point_id(id) for id in ids],
        stored_vectors(rows.vectors, calibration, layout, rows.form),
        [_payload(id, text, value) for id, text, value in zip(ids, documents, metadata, strict=True)],
    )


def stored_vectors(
    vectors: NDArray[Any], calibration: Calibration, layout: VectorLayout, form: Form = "raw"
) -> NDArray[np.float32]:
    """Return what is stored of vectors (n, D) in a form, float32 (n, d): x - threshold, or its signs as +1 and -1.

    Unless float32 is kept, the result is rounded to float16 here, and a positive difference stays positive: until it
    indexes, the engine takes its bits from the vectors that it receives, later from those that it stored. Raise
    RowError for NaN, infinities, zero vectors under cosine, and what the storage cannot hold.
    """
    applied = calibration.for_form(form)
    half = layout.rescore not in ("float32", "binary")
    try:
        centred = _native.centre(vectors, applied.threshold, applied.metric == "cosine", half)
    except _native.BadRow as error:
        raise RowError(*error.args) from None
    return np.where(centred > 0, 1, -1).astype(np.float32) if layout.signs_only else centred


def _parsed(metadata: pa.Array) -> list[Any]:
    return [text and parse_metadata(row, text) for row, text in enumerate(metadata.to_pylist())]


def parse_metadata(row: int, text: str) -> Any:
    """Return the value of a JSON text. Raise RowError where Qdrant would change it, or could not read it back."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(row) from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise RowError(row, f"metadata cannot be read: {error}") from None
    if text.count("{") + text.count("[") > MAX_NESTING or _MAY_BE_TOO_LARGE.search(text):
        _check_value(row, value, depth=0)
    return value


def _check_value(row: int, value: Any, depth: int) -> None:
    if isinstance(value, (dict, list)):
        if depth == MAX_NESTING:
            raise _too_deep(row)
        for inner in value.values() if isinstance(value, dict) else value:
            _check_value(row, inner, depth + 1)
    elif isinstance(value, int) and value not in _INT64:
        raise RowError(row, f"metadata holds {value}, but Qdrant's integers have 64 bits; store it as a string")
    elif isinstance(value, float) and math.isinf(value):
        raise RowError(row, "metadata holds a number beyond float64; store it as a string")


def _too_deep(row: int) -> RowError:
    return RowError(row, f"metadata is nested more than {MAX_NESTING} deep, which Qdrant does not hold; flatten it")


def _payload(id: int | str, document: str | None, metadata: Any) -> Payload:
    payload: Payload = {} if point_id(id) == id else {ID: id}
    if document is not None:
        payload[DOCUMENT] = document
    if metadata is not None:
        payload[METADATA] = metadata
    return payload


# Points to rows

ToHit = Callable[[Any, float, Mapping[str, Any] | None], Hit]


def hit(point: Any, score: float, payload: Mapping[str, Any] | None) -> Hit:
    """Return the row of a point that qvec wrote."""
    if not payload:
        return Hit(row_id(point, None), score)
    return Hit(row_id(point, payload.get(ID)), score, payload.get(DOCUMENT), payload.get(METADATA))


def unmanaged_hit(point: Any, score: float, payload: Mapping[str, Any] | None) -> Hit:
    """Return the row of a point that qvec did not write: its payload is its metadata, apart from its `document`."""
    rest = dict(payload or {})
    document = rest.pop(DOCUMENT, None)
    return Hit(row_id(point, None), score, document if isinstance(document, str) else None, rest.get(METADATA, rest))
