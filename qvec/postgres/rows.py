"""Rows as a table stores them: from vectors, texts and metadata to the bytes that COPY reads, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from qvec import _native
from qvec.calibration import Calibration
from qvec.codes import LEARNED_PLANES, code_bytes, dequantize, learned, prefilter_bits, quantize
from qvec.errors import RowError
from qvec.postgres.layout import TableLayout
from qvec.prefilter_levels import level_planes
from qvec.store.requests import RowColumns

HEADER: bytes = _native.COPY_HEADER
TRAILER: bytes = _native.COPY_TRAILER


def stored_codes(vectors: NDArray[Any], calibration: Calibration, layout: TableLayout) -> NDArray[np.uint8]:
    """Return the codes column of vectors (n, D): all planes, or the prefilter's bits where floats are kept."""
    if layout.planes:
        return quantize(vectors, calibration, layout.planes)
    return _bits_of_vectors(vectors, calibration, layout)


def _bits_of_vectors(vectors: NDArray[Any], calibration: Calibration, layout: TableLayout) -> NDArray[np.uint8]:
    """Return the bits that the prefilter compares, shape (n, prefilter_bits / 8)."""
    planes = level_planes(layout.levels) if layout.levels else LEARNED_PLANES
    return prefilter_bits(quantize(vectors, calibration, planes), calibration, layout.prefilter)


def query_bits(queries: NDArray[np.float32], calibration: Calibration, layout: TableLayout) -> NDArray[np.uint8]:
    """Return the bits of prepared queries (m, d) that the prefilter compares with those of rows, as `qvec._query`
    does."""
    return _bits_of_vectors(calibration.for_prefilter(queries), calibration, layout)


def _stored_bits(
    vectors: NDArray[Any], calibration: Calibration, layout: TableLayout
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return the codes column of vectors (n, D), and the column of learned bits where the table has one."""
    if not layout.has_learned_column:
        return stored_codes(vectors, calibration, layout), None
    assert layout.planes
    codes = quantize(vectors, calibration, max(layout.planes, LEARNED_PLANES))
    kept = np.ascontiguousarray(codes[:, : code_bytes(layout.dimensions, layout.planes)])
    return kept, learned(codes, calibration)


def stored_vectors(values: Sequence[bytes], calibration: Calibration, layout: TableLayout) -> NDArray[np.float32]:
    """Return vectors (n, d) from stored values: floats as pgvector sends them, or codes decoded minus the threshold."""
    if layout.float_type:
        floats = np.frombuffer(b"".join(values), ">f4").reshape(len(values), -1)
        return floats[:, 1:].astype(np.float32)  # the first element holds the dimensions
    codes = np.frombuffer(b"".join(values), np.uint8).reshape(len(values), -1)
    return dequantize(codes, calibration.for_form("centred"), layout.planes)


def vectors_of(
    ids: Sequence[int | str], values: Mapping[int | str, bytes], calibration: Calibration, layout: TableLayout
) -> NDArray[np.float32]:
    """Return the vectors (n, d) of rows by id from the stored values of those that exist; NaN for the others."""
    vectors = np.full((len(ids), layout.dimensions), np.nan, np.float32)
    found = [position for position, id in enumerate(ids) if id in values]
    if found:
        stored = stored_vectors([values[ids[position]] for position in found], calibration, layout)
        vectors[found] = stored if layout.float_type else stored + calibration.threshold
    return vectors


def encode_rows(rows: RowColumns, calibration: Calibration, layout: TableLayout) -> bytes:
    """Return rows in the format of COPY BINARY, without header and trailer.

    Raise RowError with the position in the batch for a vector or text that cannot be stored.
    """
    applied = calibration.for_form(rows.form)
    codes, bits = _stored_bits(rows.vectors, applied, layout)
    embedding = None
    try:
        if layout.float_type:
            embedding = applied.prepared(rows.vectors)
            if rows.form == "centred":
                embedding = embedding + calibration.threshold
        return _native.encode_copy(
            _id_buffers(rows.ids),
            codes,
            embedding,
            layout.float_type == "halfvec",
            None if rows.documents is None else text_buffers(rows.documents),
            None if rows.metadata is None else text_buffers(rows.metadata),
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
    """Return offsets, bytes and validity of a large_string array, without copying the text."""
    _, offsets, data = texts.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    content = np.empty(0, np.uint8) if data is None else np.frombuffer(data, dtype=np.uint8)
    valid = texts.is_valid().to_numpy(zero_copy_only=False) if texts.null_count else None
    return np.ascontiguousarray(bounds), content, valid


def check_metadata(metadata: pa.Array | None) -> None:
    """Raise RowError for an escaped NUL, the one character of JSON that jsonb cannot hold."""
    if metadata is None or not pc.any(pc.match_substring(metadata, "\\u0000")).as_py():
        return
    # Not behind a backslash that is itself escaped: then it is a backslash and the text u0000.
    found = pc.match_substring_regex(metadata, r"(^|[^\\])(\\\\)*\\u0000").to_pylist()
    if True in found:
        raise RowError(found.index(True), "metadata holds a NUL character, which Postgres cannot store")
