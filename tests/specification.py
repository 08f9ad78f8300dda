"""Specification of the native functions in plain numpy: each formula once, slow but easy to verify."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
LongCodes = NDArray[np.uint8] | NDArray[np.uint16]
"""Codes of 8 bits, uint8, or of MAX_PLANES bits, uint16."""

MAX_PLANES = 10
LEAST_RADIUS = np.float32(2.0**-120)
UNIT_TOLERANCE = 2e-4


def width(dimensions: int) -> int:
    """Return the bytes of a plane."""
    return (dimensions + 7) // 8


def unit_rows(vectors: NDArray[np.floating], dimensions: int) -> Floats:
    """Return the first dimensions of each row, divided by their norm unless that is 1 already."""
    cut = vectors[:, :dimensions].astype(np.float32)
    return np.array([_unit(row) for row in cut], dtype=np.float32).reshape(cut.shape)


def _unit(row: Floats) -> Floats:
    squared = squared_norm(row)
    if abs(squared - 1) <= UNIT_TOLERANCE:
        return row
    return (row.astype(np.float64) / np.sqrt(squared)).astype(np.float32)


def squared_norm(row: Floats) -> float:
    """Return the sum of squares, added in eight lanes (lane l has dimensions l, l + 8, ...), then lane by lane."""
    squares = np.zeros(8 * width(len(row)))
    squares[: len(row)] = row.astype(np.float64) ** 2
    lanes = np.zeros(8)
    for group in squares.reshape(-1, 8):
        lanes += group
    total = 0.0
    for lane in lanes:
        total += lane
    return total


def codes(vectors: NDArray[np.floating], threshold: Floats, radius: Floats, *, cosine: bool) -> Codes:
    """Return a byte for each dimension: clamp(127 + ceil((x - threshold) * (128 / radius)), 0, 255), above 127 if
    x > threshold."""
    dimensions = len(threshold)
    rows = unit_rows(vectors, dimensions) if cosine else vectors[:, :dimensions].astype(np.float32)
    with np.errstate(all="ignore"):
        difference = rows - threshold
        steps = np.ceil(difference * (np.float32(128) / np.maximum(radius, LEAST_RADIUS)))
    clamped = np.clip(127 + steps.astype(np.float64), 0, 255)
    return np.where(rows > threshold, np.maximum(clamped, 128), clamped).astype(np.uint8)


def long_codes(vectors: NDArray[np.floating], threshold: Floats, radius: Floats, *, cosine: bool) -> LongCodes:
    """Return codes of MAX_PLANES bits: as `codes`, with steps that are finer by a power of two."""
    dimensions, half = len(threshold), 2 ** (MAX_PLANES - 1)
    rows = unit_rows(vectors, dimensions) if cosine else vectors[:, :dimensions].astype(np.float32)
    with np.errstate(all="ignore"):
        t = (rows - threshold) * (np.float32(128) / np.maximum(radius, LEAST_RADIUS))
    clamped = np.clip(half - 1 + np.ceil(t.astype(np.float64) * (half / 128)), 0, 2 * half - 1)
    return np.where(rows > threshold, np.maximum(clamped, half), clamped).astype(np.uint16)


def bits_of(codes: LongCodes) -> int:
    """Return the bits of a code."""
    return 8 if codes.dtype == np.uint8 else MAX_PLANES


def to_planes(codes: LongCodes, planes: int) -> Codes:
    """Return the top bit planes of codes, the highest first; each plane is padded to whole bytes."""
    bits = [np.packbits((codes >> (bits_of(codes) - 1 - plane)) & 1 > 0, axis=1) for plane in range(planes)]
    return np.concatenate(bits, axis=1)


def from_planes(rows: Codes, dimensions: int, planes: int) -> LongCodes:
    """Return the codes, of MAX_PLANES bits for more than 8 planes, with zero bits below the top `planes`."""
    codes = np.zeros((len(rows), dimensions), np.uint8 if planes <= 8 else np.uint16)
    for plane in range(planes):
        start = plane * width(dimensions)
        bits = np.unpackbits(rows[:, start : start + width(dimensions)], axis=1, count=dimensions)
        codes |= bits.astype(codes.dtype) << (bits_of(codes) - 1 - plane)
    return codes


THRESHOLDS = {
    2: (128,),
    3: (144, 112),
    4: (160, 128, 96),
    5: (160, 144, 112, 96),
    6: (160, 144, 128, 112, 96),
    8: (176, 160, 144, 128, 112, 96, 80),
}


def levels(codes: Codes, count: int) -> Codes:
    """Return a plane for each threshold between levels: codes of at least the threshold."""
    return np.concatenate([np.packbits(codes >= threshold, axis=1) for threshold in THRESHOLDS[count]], axis=1)


def ternary(codes: Codes) -> Codes:
    return levels(codes, 3)


def learned(codes: Codes, projection: NDArray[np.int8], bias: NDArray[np.int32]) -> Codes:
    """Return the signs of an integer projection of codes."""
    sums = (2 * codes.astype(np.int64) - 255) @ projection.astype(np.int64).T + bias
    return np.packbits(sums > 0, axis=1)


def decoded(codes: LongCodes, threshold: Floats, radius: Floats, deviation: Floats, planes: int) -> Floats:
    """Return the values that the top `planes` bits stand for: the middle of each step, or threshold ± deviation."""
    if planes == 1:
        return np.where(codes >= 2 ** (bits_of(codes) - 1), threshold + deviation, threshold - deviation)
    step = radius / np.float32(2 ** (planes - 1))
    level = (codes >> (bits_of(codes) - planes)).astype(np.float32) + np.float32(0.5 - 2 ** (planes - 1))
    return threshold + level * step


def scores(decoded: NDArray[np.floating], queries: Floats, *, by_length: bool) -> NDArray[np.float64]:
    """Return <query, decoded row>; `by_length` divides it by the decoded row's length (0 for length 0)."""
    rows = decoded.astype(np.float64)
    products = queries.astype(np.float64) @ rows.T
    if not by_length:
        return products
    lengths = np.linalg.norm(rows, axis=1)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def hamming(codes: Codes, queries: Codes) -> NDArray[np.int64]:
    """Return the number of differing bits (queries, rows); rows may be longer than queries."""
    differing = codes[None, :, : queries.shape[1]] ^ queries[:, None, :]
    return np.unpackbits(differing, axis=2).sum(axis=2, dtype=np.int64)


def nearest(distances: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Return the k nearest rows of each query; of equal distances the lower row comes first."""
    return np.argsort(distances, axis=1, kind="stable")[:, :k]
