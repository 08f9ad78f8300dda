"""The Rust component. Inside the package only: callers have validated shapes, so what is left to find is bad values."""

from typing import final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32] | NDArray[np.float16]
Codes = NDArray[np.uint8]
Text = tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_] | None]
"""Arrow large_string buffers: offsets (n+1), UTF-8 bytes, validity (n) or None when no value is null."""

COPY_HEADER: bytes
"""What stands before the rows of a binary COPY."""
COPY_TRAILER: bytes
"""What ends a binary COPY."""

class BadRow(ValueError):  # noqa: N818
    """Raised with args (row, reason)."""

def normalize(vectors: Vectors, dimensions: int) -> NDArray[np.float32]: ...
def bad_rows(vectors: Vectors, dimensions: int, cosine: bool) -> list[tuple[int, str]]: ...
def quantize(
    vectors: Vectors, threshold: NDArray[np.float32], radius: NDArray[np.float32], planes: int, cosine: bool
) -> Codes: ...
def centre(vectors: Vectors, threshold: NDArray[np.float32], cosine: bool, half: bool) -> NDArray[np.float32]: ...
def ternary(codes: Codes, dimensions: int) -> Codes: ...
def project(codes: Codes, weights: NDArray[np.int8], bias: NDArray[np.int32]) -> Codes: ...
def dequantize(
    codes: Codes,
    threshold: NDArray[np.float32],
    radius: NDArray[np.float32],
    deviation: NDArray[np.float32],
    planes: int,
) -> NDArray[np.float32]: ...
def score(
    codes: Codes,
    queries: NDArray[np.float32],
    threshold: NDArray[np.float32],
    radius: NDArray[np.float32],
    deviation: NDArray[np.float32],
    planes: int,
    by_length: bool,
) -> NDArray[np.float32]: ...
def hamming(codes: Codes, queries: Codes) -> NDArray[np.int32]: ...
def hamming_top_k(codes: Codes, queries: Codes, k: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]: ...

@final
class Statistics:
    def __new__(cls, dimensions: int, threshold: NDArray[np.float32] | None = None) -> Statistics: ...
    def update(self, vectors: NDArray[np.float32]) -> None: ...
    def merge(self, other: Statistics) -> None: ...
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
) -> NDArray[np.float32]: ...
def encode_copy(
    ids: NDArray[np.int64] | Text,
    codes: Codes,
    embedding: Vectors | None,
    half: bool,
    document: Text | None,
    metadata: Text | None,
    learned: Codes | None = None,
) -> bytes: ...
