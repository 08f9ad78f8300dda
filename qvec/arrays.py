"""Checks at the border: what a caller hands over becomes an array that the Rust component takes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.errors import InputError, RowError

Vectors = NDArray[np.float32] | NDArray[np.float16]
Form = Literal["raw", "prepared", "centred"]
"""How far vectors are prepared: raw, as the model gave them; prepared, cut and, under cosine, normalized already; or
centred, prepared and with the calibration's threshold subtracted. Only raw vectors are cut and normalized."""


def as_vectors(array: ArrayLike, name: str, dimensions: Collection[int] = ()) -> Vectors:
    """`array` as a C-contiguous float32 or float16 array of shape (n, d), d one of `dimensions` where any are given.

    A 1-D array is one row. Other floats and integers are converted to float32. `name` stands in the errors: InputError
    for another kind of array or number of columns, RowError for a number beyond float32.
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
    """`array` with two axes, one row where it has one."""
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
