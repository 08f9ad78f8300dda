"""The Rust part of qvec, private to the package: rust/python binds it, rust/core and rust/copy compute.

Callers have validated shapes and dtypes, and arrays are C-contiguous; what is left to find here is bad values. Shapes:
n rows, m queries, d dimensions, w = ceil(d / 8) bytes of one plane. The GIL is released while a function computes.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32] | NDArray[np.float16]
Codes = NDArray[np.uint8]
Text = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_] | None]
"""Buffers of an Arrow large_string array: offsets (n+1), UTF-8 bytes, validity (n) or None if no value is null."""

COPY_HEADER: bytes
"""Start of the data of a binary COPY."""
COPY_TRAILER: bytes
"""End of the data of a binary COPY."""

class BadRow(ValueError):  # noqa: N818
    """A row that cannot be used; its args are (row, reason)."""

def normalize(vectors: Vectors, dimensions: int) -> NDArray[np.float32]:
    """Return the first `dimensions` columns of each row at norm 1, shape (n, d)."""

def bad_rows(vectors: Vectors, dimensions: int, cosine: bool) -> list[tuple[int, str]]:
    """Return (row, reason) of each row with NaN, an infinity or, under cosine, no length."""

def quantize(
    vectors: Vectors, threshold: NDArray[np.float32], radius: NDArray[np.float32], planes: int, cosine: bool
) -> Codes:
    """Return the top `planes` planes of each row's codes, shape (n, planes * w); under cosine rows are normalized."""

def centre(vectors: Vectors, threshold: NDArray[np.float32], cosine: bool, half: bool) -> NDArray[np.float32]:
    """Return x - threshold, shape (n, d); with `half` rounded to float16, but never from above zero to zero."""

def compare(codes: Codes, dimensions: int, thresholds: Sequence[int]) -> Codes:
    """Return the plane [code >= t] for each of b thresholds t in 1 to 255, shape (n, b * w). Codes have all planes down
    to the last set bit of every threshold."""

def project(codes: Codes, weights: NDArray[np.int8], bias: NDArray[np.int32]) -> Codes:
    """Return the learned bits of codes of 8 planes, shape (n, b / 8), by weights of shape (b, d)."""

def dequantize(
    codes: Codes,
    threshold: NDArray[np.float32],
    radius: NDArray[np.float32],
    deviation: NDArray[np.float32],
    planes: int,
) -> NDArray[np.float32]:
    """Return the vectors that the top `planes` planes of the codes represent, shape (n, d)."""

def score(
    codes: Codes,
    queries: NDArray[np.float32],
    threshold: NDArray[np.float32],
    radius: NDArray[np.float32],
    deviation: NDArray[np.float32],
    planes: int,
    by_length: bool,
) -> NDArray[np.float32]:
    """Return the inner product of each query and decoded row, shape (m, n); `by_length` divides by the row's length."""

def hamming(codes: Codes, queries: Codes) -> NDArray[np.int32]:
    """Return the Hamming distance of each query to the prefix of each row, shape (m, n)."""

def hamming_top_k(codes: Codes, queries: Codes, k: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the k nearest rows to each query and their distances, nearest first, ties by lower row: (m, k) each."""

@final
class Statistics:
    """Streaming statistics of each dimension; with a threshold also the mean of |x - threshold|."""

    def __new__(cls, dimensions: int, threshold: NDArray[np.float32] | None = None) -> Statistics: ...
    def update(self, vectors: NDArray[np.float32]) -> None:
        """Add rows, shape (n, d). A bad row leaves the statistics unchanged."""

    def merge(self, other: Statistics) -> None:
        """Add the rows of `other`, which must have the same dimensions and threshold."""

    @property
    def count(self) -> int: ...
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def variance(self) -> NDArray[np.float64]: ...
    @property
    def minimum(self) -> NDArray[np.float32]: ...
    @property
    def maximum(self) -> NDArray[np.float32]: ...
    @property
    def absolute_deviation(self) -> NDArray[np.float32]: ...

def deviation_quantile(
    vectors: NDArray[np.float32], threshold: NDArray[np.float32], quantile: float
) -> NDArray[np.float32]:
    """Return the quantile of |x - threshold| in each dimension, shape (d,), interpolated as numpy.quantile does."""

def encode_copy(
    ids: NDArray[np.int64] | Text,
    codes: Codes,
    embedding: Vectors | None,
    half: bool,
    document: Text | None,
    metadata: Text | None,
    learned: Codes | None = None,
) -> bytes:
    """Return rows in the binary COPY format: id, codes, learned bits and embedding if given, document, metadata. The
    embedding is a halfvec with `half`, else a vector."""
