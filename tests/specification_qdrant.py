"""What Qdrant must score by its sign bits alone (binary quantization of one bit, without rescoring), in plain numpy.

Under `Distance.Dot`, for vectors and queries stored and sent as float16, or as `datatype` says. Found in the engine's
own source, 0.9 of qdrant-edge, and held against it in test_qdrant_codes.py.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stored = NDArray[np.float16] | NDArray[np.float32]

LEAST_STEP = np.finfo(np.float32).eps
"""A query whose levels would lie closer together than this has every dimension at level 0."""


def scores(stored: Stored, query: Floats, query_bits: int, datatype: type = np.float16) -> Floats:
    """The dimensions that agree less those that differ: float32 (n,), for `stored` (n, d) and a query (d,).

    `query_bits` is 1, 4 or 8: the query encodings Binary, Scalar4Bits and Scalar8Bits. With 4 or 8 a dimension
    differs by the distance of the query's level from that of the bit: from the lowest level for 0, from the
    highest for 1, as a share of all levels.
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
    """Each dimension's level, 0 to 2^query_bits − 1: uniform over ±(the largest magnitude), halves rounded up.

    The engine rounds a query to the datatype of the stored vectors first.
    """
    rounded = query.astype(datatype).astype(np.float32)
    if query_bits == 1:
        return sign_bits(rounded).astype(np.int64)
    largest = np.abs(rounded).max()
    step = np.float32(2) * largest / np.float32(2**query_bits - 1)
    if step <= LEAST_STEP:
        return np.zeros(len(query), np.int64)
    return np.floor(((rounded + largest) / step).astype(np.float64) + 0.5).astype(np.int64)
