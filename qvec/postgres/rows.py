"""Rows on their way into a table: from vectors, texts and metadata to the bytes that COPY reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Calibration
from qvec.codes import code_bytes, dequantize, learned, quantize, ternary
from qvec.errors import InputError, RowError
from qvec.postgres.layout import Layout

if TYPE_CHECKING:
    from qvec.sources import Form

HEADER: bytes = _native.COPY_HEADER
TRAILER: bytes = _native.COPY_TRAILER


def stored_codes(vectors: NDArray[Any], calibration: Calibration, layout: Layout) -> NDArray[np.uint8]:
    """What the codes column holds for vectors (n, D): all planes, or the prefilter's bits where floats are kept."""
    if layout.planes:
        return quantize(vectors, calibration, layout.planes)
    return prefilter_bits(vectors, calibration, layout)


def prefilter_bits(vectors: NDArray[Any], calibration: Calibration, layout: Layout) -> NDArray[np.uint8]:
    """The bits that the prefilter compares, shape (n, prefilter_bits / 8)."""
    if layout.prefilter == "binary":
        return quantize(vectors, calibration, 1)
    if layout.prefilter == "learned":
        return learned(quantize(vectors, calibration), calibration)
    return ternary(quantize(vectors, calibration, 4), calibration)


def query_bits(queries: NDArray[np.float32], calibration: Calibration, layout: Layout) -> NDArray[np.uint8]:
    """The bits of prepared queries (m, d) that are compared with the prefilter's of rows, as `qvec._query` in SQL."""
    return prefilter_bits(calibration.for_prefilter(queries), calibration, layout)


def _stored_bits(
    vectors: NDArray[Any], calibration: Calibration, layout: Layout
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """What the codes column holds for vectors (n, D), and the column of learned bits where there is one."""
    if not layout.has_learned_column:
        return stored_codes(vectors, calibration, layout), None
    assert layout.planes
    codes = quantize(vectors, calibration)
    kept = np.ascontiguousarray(codes[:, : code_bytes(layout.dimensions, layout.planes)])
    return kept, learned(codes, calibration)


def stored_vectors(values: Sequence[bytes], calibration: Calibration, layout: Layout) -> NDArray[np.float32]:
    """Vectors (n, d) of what a table holds: its floats, sent by pgvector, or its codes decoded minus the threshold."""
    if layout.float_type:
        floats = np.frombuffer(b"".join(values), ">f4").reshape(len(values), -1)
        return floats[:, 1:].astype(np.float32)  # before them stand the dimensions
    codes = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
    return dequantize(codes, calibration.for_form("centred"), layout.planes)


def vectors_of(
    ids: Sequence[int | str], values: Mapping[int | str, bytes], calibration: Calibration, layout: Layout
) -> NDArray[np.float32]:
    """Vectors (n, d) of rows by id, from what a table holds of those that it has; NaN for the others."""
    vectors = np.full((len(ids), layout.dimensions), np.nan, np.float32)
    found = [position for position, id in enumerate(ids) if id in values]
    if found:
        stored = stored_vectors([values[ids[position]] for position in found], calibration, layout)
        vectors[found] = stored if layout.float_type else stored + calibration.threshold
    return vectors


def encode(
    ids: pa.Array | NDArray[np.int64],
    vectors: NDArray[Any],
    documents: pa.Array | None,
    metadata: pa.Array | None,
    *,
    calibration: Calibration,
    layout: Layout,
    form: Form = "raw",
) -> bytes:
    """The rows in the form of COPY BINARY, without header and trailer.

    `ids` is int64 or large_string to match the layout, `documents` and `metadata` (JSON) are large_string.
    Vectors have the given form. Raises RowError with the position in the batch for a vector or text that cannot be
    stored.
    """
    applied = calibration.for_form(form)
    codes, bits = _stored_bits(vectors, applied, layout)
    embedding = None
    try:
        if layout.float_type:
            embedding = applied.prepared(vectors)
            if form == "centred":
                embedding = embedding + calibration.threshold
        return _native.encode_copy(
            _id_buffers(ids),
            codes,
            embedding,
            layout.float_type == "halfvec",
            None if documents is None else text_buffers(documents),
            None if metadata is None else text_buffers(metadata),
            bits,
        )
    except _native.BadRow as error:
        raise RowError(*error.args) from None


def _id_buffers(ids: pa.Array | NDArray[np.int64]) -> NDArray[np.int64] | _native.Text:
    if isinstance(ids, np.ndarray):
        return ids
    if pa.types.is_integer(ids.type):
        return np.ascontiguousarray(ids.to_numpy(zero_copy_only=False), dtype=np.int64)
    return text_buffers(ids)


def text_buffers(texts: pa.Array) -> _native.Text:
    """The offsets, bytes and validity of a large_string array, without copying the text."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.empty(0, np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
    valid = texts.is_valid().to_numpy(zero_copy_only=False) if texts.null_count else None
    return np.ascontiguousarray(bounds), content, valid


def id_array(ids: Sequence[int | str] | NDArray[Any] | pa.Array, layout: Layout) -> pa.Array | NDArray[np.int64]:
    """Ids as the layout's type. Raises InputError when they are of the other type."""
    wanted = pa.int64() if layout.id_type == "bigint" else pa.large_string()
    try:
        array = pa.array(ids.tolist() if isinstance(ids, np.ndarray) else ids)
    except OverflowError:
        raise InputError("an id is beyond bigint") from None
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        raise InputError(f"ids must be all integers or all text: {error}") from None
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if array.null_count:
        raise InputError("an id is missing (null)")
    fits = pa.types.is_integer(array.type) if layout.id_type == "bigint" else _is_text(array.type)
    if len(array) and not fits:
        raise InputError(
            f"ids are {array.type}, but this collection's ids are {layout.id_type}, as id_type was when it was created"
        )
    try:
        return array.cast(wanted)
    except pa.ArrowInvalid:
        raise InputError("an id is beyond bigint") from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_metadata(metadata: pa.Array | None) -> pa.Array | None:
    """The metadata as it is. Raises RowError for an escaped NUL, the one character of JSON that jsonb cannot hold."""
    if metadata is None or not pc.any(pc.match_substring(metadata, "\\u0000")).as_py():
        return metadata
    # Not behind a backslash that is itself escaped: then it is a backslash and the text u0000.
    found = pc.match_substring_regex(metadata, r"(^|[^\\])(\\\\)*\\u0000").to_pylist()
    if True in found:
        raise RowError(found.index(True), "metadata holds a NUL character, which Postgres cannot store")
    return metadata
