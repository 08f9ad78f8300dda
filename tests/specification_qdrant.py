"""The numpy specification of Qdrant's scores by sign bits: 1-bit binary quantization without rescoring.

For `Distance.Dot`, with vectors and queries of float16 or another `datatype`. Taken from the source of qdrant-edge 0.9;
test_qdrant_codes.py compares it with the engine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stored = NDArray[np.float16] | NDArray[np.float32]

SMALLEST_STEP = np.finfo(np.float32).eps
"""Every dimension of a query has level 0 if its levels would be closer together than this."""


def scores(stored: Stored, query: Floats, query_bits: int, datatype: type = np.float16) -> Floats:
    """Return the number of equal dimensions minus the different ones: float32 (n,), for `stored` (n, d), a query (d,).

    `query_bits` is 1, 4 or 8: the query encodings Binary, Scalar4Bits and Scalar8Bits. With 4 or 8 bits a dimension
    differs by a fraction: the distance of the query's level from the lowest level (stored bit 0) or the highest (bit
    1), divided by the highest level.
    """
    highest = 2**query_bits - 1
    level = levels(query, query_bits, datatype)
    differing = np.where(sign_bits(stored), highest - level, level).sum(axis=1)
    differ = differing.astype(np.float32) / np.float32(highest)
    agree = np.float32(stored.shape[1]) - differ
    return agree - differ


def sign_bits(stored: Stored) -> NDArray[np.bool_]:
    return stored > 0


def levels(query: Floats, query_bits: int, datatype: type = np.float16) -> NDArray[np.int64]:
    """Return each dimension's level, 0 to 2^query_bits − 1: uniform over ±(the largest magnitude), halves rounded up.

    The engine first rounds a query to the datatype of the stored vectors.
    """
    rounded = query.astype(datatype).astype(np.float32)
    if query_bits == 1:
        return sign_bits(rounded).astype(np.int64)
    largest = np.abs(rounded).max()
    step = np.float32(2) * largest / np.float32(2**query_bits - 1)
    if step <= SMALLEST_STEP:
        return np.zeros(len(query), np.int64)
    return np.floor(((rounded + largest) / step).astype(np.float64) + 0.5).astype(np.int64)
