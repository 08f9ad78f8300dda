"""Convert a caller's vectors, documents and metadata into arrays, and check them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.errors import InputError, RowError

if TYPE_CHECKING:
    import pyarrow as pa

Vectors = NDArray[np.float32] | NDArray[np.float16]
Form = Literal["raw", "prepared", "centred"]
"""How far vectors are prepared: raw, as the model gave them; prepared, cut and, under cosine, normalized already; or
centred, prepared and with the calibration's threshold subtracted. Only raw vectors are cut and normalized."""


def as_vectors(array: ArrayLike, name: str, dimensions: Collection[int] = ()) -> Vectors:
    """Return `array` as a C-contiguous float32 or float16 array of shape (n, d), d one of `dimensions` if given.

    A 1-D array is one row. Other floats and integers are converted to float32. Raise InputError for another dtype or
    number of columns, RowError for a number beyond float32; `name` names the array in errors.
    """
    rows = as_rows(array, name)
    if dimensions and rows.shape[1] not in dimensions:
        wanted = " or ".join(map(str, sorted(set(dimensions))))
        raise InputError(f"{name}: {rows.shape[1]} dimensions found, {wanted} wanted")
    if rows.dtype in (np.float32, np.float16):
        return np.require(rows, requirements=["C", "A"])
    if rows.dtype.kind in "fiu":
        return _to_float32(rows, name)
    raise InputError(f"{name}: dtype {rows.dtype} found, floats or integers wanted")


def as_rows(array: ArrayLike, name: str) -> NDArray[np.generic]:
    """Return `array` with two axes; a 1-D array becomes one row."""
    try:
        rows = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: not an array of numbers ({error})") from error
    if rows.ndim not in (1, 2):
        raise InputError(f"{name}: {rows.ndim} axes found, 2 wanted (rows, dimensions)")
    return rows[np.newaxis] if rows.ndim == 1 else rows


def _to_float32(rows: NDArray[np.generic], name: str) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):
        converted = np.ascontiguousarray(rows, dtype=np.float32)
    beyond = np.argwhere(np.isinf(converted) & np.isfinite(rows))
    if len(beyond):
        row, dimension = (int(i) for i in beyond[0])
        raise RowError(row, f"{rows[row, dimension]} at dimension {dimension} is beyond float32", name)
    return converted


def document_array(documents: Sequence[str | None] | None) -> pa.Array | None:
    """Return documents as large_string. Raise RowError for one that is not text or not valid Unicode."""
    if documents is None:
        return None
    for row, document in enumerate(documents):
        if not isinstance(document, (str, type(None))):
            raise RowError(row, f"document is {type(document).__name__}, expected text or None")
    return _texts(documents, "document")


def _texts(texts: Sequence[str | None], what: str) -> pa.Array:
    import pyarrow as pa  # late: calibrating and quantizing do not need it

    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError as error:
        row = next(row for row, text in enumerate(texts) if text and error.object in text)
        raise RowError(row, f"{what} holds half of a surrogate pair, which is not valid Unicode") from None


def metadata_array(metadata: Sequence[Mapping[str, Any] | None] | None) -> pa.Array | None:
    """Return metadata as large_string of compact JSON. Raise RowError for a value that JSON cannot hold."""
    if metadata is None:
        return None
    return _texts([_json(row, value) for row, value in enumerate(metadata)], "metadata")


def _json(row: int, value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError(row, f"metadata cannot be stored as JSON: {error}") from None
    except RecursionError:
        raise RowError(row, "metadata cannot be stored as JSON: it is nested too deeply") from None
