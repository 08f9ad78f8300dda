"""Codes: quantize vectors into bit planes, and compute distances, scores and vectors from these.

A row's codes are planes of w = ceil(dimensions / 8) bytes, the top bit of every dimension's code first, dimension i at
byte i // 8, most significant bit first (numpy's packbits, pgvector's bit), padded with zero bits. p planes take p * w
bytes: 1 plane is binary, 4 are int4, 8 are int8, 10 are int10, and each is a prefix of the next. Arrays of codes are
plain C-contiguous uint8 arrays of shape (n, p * w).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec import _native
from qvec.arrays import as_rows, as_vectors
from qvec.errors import InputError, RowError
from qvec.prefilter_levels import LEVEL_THRESHOLDS, LEVELS, level_planes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qvec.calibration import Calibration

Codes = NDArray[np.uint8]

PLANES = {"int10": 10, "int8": 8, "int4": 4, "binary": 1}
"""Number of planes of each precision."""
MAX_PLANES = max(PLANES.values())
LEARNED_PLANES = 8
"""Number of planes that learned bits are computed from."""


def quantize(vectors: ArrayLike, calibration: Calibration, planes: int = 8) -> Codes:
    """Return the codes of `vectors`, shape (n, planes * w).

    With t = (x - threshold) * (128 / radius), the code of x in 8 bits is clamp(127 + ceil(t), 0, 255), so that its top
    bit is exactly [x > threshold]; its `planes` top bits are kept. Of p = 9 or 10 planes, the code has p bits:
    clamp(2**(p-1) - 1 + ceil(2**(p-8) * t), 0, 2**p - 1), and its top 8 bits are the code above. `vectors` has shape
    (n, D) or (D,) with D one of `calibration.accepted_dimensions`. Rows are cut to the calibration's dimensions and,
    under cosine, then normalized.

    Raise RowError for NaN, an infinity or, under cosine, a zero vector; InputError for a wrong shape or dtype.
    """
    _check_planes(planes)
    rows = as_vectors(vectors, "vectors", calibration.accepted_dimensions)
    with _row_errors("vectors"):
        return _native.quantize(rows, calibration.threshold, calibration.radius, planes, calibration.metric == "cosine")


def levels(codes: ArrayLike, calibration: Calibration, count: int) -> Codes:
    """Return the level of every dimension, one of `count`, in unary (a thermometer code): shape (n, (count - 1) * w).

    Plane j is [code >= LEVEL_THRESHOLDS[count][j]], so that the Hamming distance of two rows is the sum of the
    differences of their levels. Two levels are the sign bits, three the ternary code.

    Raise InputError for another `count` than 2, 3, 4, 5, 6 or 8, or codes of fewer planes than the thresholds need.
    """
    if count not in LEVEL_THRESHOLDS:
        raise InputError(f"count: {count} levels found, one of {', '.join(map(str, LEVEL_THRESHOLDS))} wanted")
    rows = as_codes(codes, "codes")
    held, needed = _planes_held(rows, calibration.dimensions), level_planes(count)
    if held < needed:
        raise InputError(f"codes: {held} planes found, at least {needed} wanted for {count} levels")
    return _native.compare(rows, calibration.dimensions, LEVEL_THRESHOLDS[count])


def ternary(codes: ArrayLike, calibration: Calibration) -> Codes:
    """Return the ternary code of each row, shape (n, 2 * w): three `levels`, parted by x > threshold + radius / 8 and
    x > threshold - radius / 8. Raise InputError for codes of fewer than 4 planes.
    """
    return levels(codes, calibration, 3)


def learned(codes: ArrayLike, calibration: Calibration) -> Codes:
    """Return the learned bits of each row, shape (n, m / 8), from the first 8 planes of its codes.

    Bit j is [sum_i projection[j, i] * (2 * code[i] - 255) + bias[j] > 0] of codes of 8 bits, computed in integers.

    Raise InputError if the calibration has no projection, or the codes have fewer planes.
    """
    if calibration.projection is None or calibration.bias is None:
        raise InputError(
            f"calibration {calibration.id} has no learned bits; make a calibration that has them: qvec adapt SOURCE"
        )
    rows = as_codes(codes, "codes")
    held = _planes_held(rows, calibration.dimensions)
    if held < LEARNED_PLANES:
        raise InputError(f"codes: {held} planes found, at least {LEARNED_PLANES} wanted for learned bits")
    first = np.ascontiguousarray(rows[:, : code_bytes(calibration.dimensions, LEARNED_PLANES)])
    return _native.project(first, calibration.projection, calibration.bias)


def prefilter_bits(codes: ArrayLike, calibration: Calibration, prefilter: str) -> Codes:
    """Return the bits of codes that a prefilter compares: `learned` bits, or the `levels` that the prefilter names."""
    if prefilter == "learned":
        return learned(codes, calibration)
    return levels(codes, calibration, LEVELS[prefilter])


def dequantize(codes: ArrayLike, calibration: Calibration, planes: int | None = None) -> NDArray[np.float32]:
    """Return the vectors decoded from the top `planes` planes of the codes (None: all), float32, shape (n, d).

    The top p bits of a code, as an integer c, decode to threshold + (c + 1/2 - 2**(p-1)) * radius / 2**(p-1); a single
    bit decodes to threshold + deviation or threshold - deviation.
    """
    rows = as_codes(codes, "codes")
    return _native.dequantize(
        rows,
        calibration.threshold,
        calibration.radius,
        calibration.deviation,
        _planes_read(rows, calibration.dimensions, planes),
    )


def score(
    codes: ArrayLike, queries: ArrayLike, calibration: Calibration, planes: int | None = None
) -> NDArray[np.float32]:
    """Return the score of every query for every row, float32, shape (m, n): an estimate of the metric.

    A score is the inner product of the query and the row x that `dequantize` returns. Under cosine it is divided by the
    length of x, because the rounding of codes changes the length of rows, which was 1 (recall@10 of MiniLM's sign bits
    against float32 queries: 75.6 with the division, 71.7 without; Cranfield). A row of length 0 scores 0.

    Queries have shape (m, D) or (D,), are cut like the vectors of `quantize`, and stay float32. They are not
    normalized: under cosine, the caller does that (a search does). The rounding error of the inner product is below
    1e-5 of the sum of |query * threshold| + |query * (x - threshold)|, that of the length below 1e-5 of the length.

    Raise RowError for a query that holds NaN or an infinity.
    """
    rows = as_codes(codes, "codes")
    dimensions = calibration.dimensions
    wanted = as_vectors(queries, "queries", calibration.accepted_dimensions)[:, :dimensions]
    read = _planes_read(rows, dimensions, planes)
    with _row_errors("queries"):
        return _native.score(
            rows,
            np.ascontiguousarray(wanted, dtype=np.float32),
            calibration.threshold,
            calibration.radius,
            calibration.deviation,
            read,
            divides_by_length(calibration),
        )


def divides_by_length(calibration: Calibration) -> bool:
    """Tell whether scores of codes are divided by the length of the decoded rows."""
    return calibration.metric == "cosine"


def hamming(codes: ArrayLike, queries: ArrayLike) -> NDArray[np.int32]:
    """Return the number of bits in which every query differs from every row, shape (m, n).

    If rows are longer than queries, their prefix is compared: for example the sign bits of stored codes.
    """
    return _native.hamming(*_comparable(codes, queries))


def hamming_top_k(codes: ArrayLike, queries: ArrayLike, k: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the k nearest rows of each query by `hamming`, and their distances, both of shape (m, min(k, n)).

    The nearest row comes first; of rows at the same distance, the one with the lower number.
    """
    if k < 1:
        raise InputError(f"k: {k} found, at least 1 wanted")
    return _native.hamming_top_k(*_comparable(codes, queries), k)


def code_bytes(dimensions: int, planes: int) -> int:
    """Return the bytes of one row of codes."""
    return planes * math.ceil(dimensions / 8)


def as_codes(array: ArrayLike, name: str) -> Codes:
    """Return `array` as a C-contiguous uint8 array of shape (n, bytes); a 1-D array is one row."""
    rows = as_rows(array, name)
    if rows.dtype != np.uint8:
        raise InputError(f"{name}: dtype {rows.dtype} found, uint8 wanted")
    return np.ascontiguousarray(rows)


def _comparable(codes: ArrayLike, queries: ArrayLike) -> tuple[Codes, Codes]:
    rows, wanted = as_codes(codes, "codes"), as_codes(queries, "queries")
    if not 1 <= wanted.shape[1] <= rows.shape[1]:
        raise InputError(f"queries: {wanted.shape[1]} bytes a row found, 1 to {rows.shape[1]} (those of codes) wanted")
    return rows, wanted


def _planes_held(codes: Codes, dimensions: int) -> int:
    width = code_bytes(dimensions, 1)
    planes, rest = divmod(int(codes.shape[1]), width)
    if rest or not 1 <= planes <= MAX_PLANES:
        raise InputError(f"codes: {codes.shape[1]} bytes a row found, 1 to {MAX_PLANES} planes of {width} bytes wanted")
    return planes


def _planes_read(codes: Codes, dimensions: int, planes: int | None) -> int:
    held = _planes_held(codes, dimensions)
    if planes is None:
        return held
    _check_planes(planes)
    if planes > held:
        raise InputError(f"codes: {held} planes found, {planes} wanted")
    return planes


def _check_planes(planes: int) -> None:
    if not 1 <= planes <= MAX_PLANES:
        raise InputError(f"planes: {planes} found, 1 to {MAX_PLANES} wanted")


@contextmanager
def _row_errors(where: str) -> Iterator[None]:
    try:
        yield
    except _native.BadRow as bad:
        row, reason = bad.args
        raise RowError(row, reason, where) from None
