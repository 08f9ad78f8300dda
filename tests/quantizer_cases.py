"""Vectors and ranges with difficult values, for property tests of quantizers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

DIMENSIONS = (1, 6, 7, 8, 9, 63, 64, 65, 384, 1000)


class Case(NamedTuple):
    vectors: NDArray[np.float32] | NDArray[np.float16]
    threshold: NDArray[np.float32]
    radius: NDArray[np.float32]
    deviation: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        return len(self.threshold)


@st.composite
def cases(draw: st.DrawFn, extreme: bool = True) -> Case:
    """Draw up to 5 rows of float32 or float16, with up to 3 more columns than the ranges; `extreme` adds huge ones."""
    dimensions = draw(st.sampled_from(DIMENSIONS))
    rows = draw(st.integers(0, 5))
    extra = draw(st.sampled_from((0, 0, 3)))
    dtype = draw(st.sampled_from((np.float32, np.float16)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    threshold, radius = _ranges(random, dimensions, extreme)
    vectors = _vectors(random, rows, threshold, radius, extreme)
    with np.errstate(over="ignore"):
        vectors = np.hstack([vectors, random.normal(size=(rows, extra))]).astype(dtype)
    vectors[~np.isfinite(vectors)] = np.finfo(dtype).max
    return Case(vectors, threshold, radius, (radius / 5).astype(np.float32))


def _ranges(
    random: np.random.Generator, dimensions: int, extreme: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    threshold = random.normal(0, 0.1, dimensions).astype(np.float32)
    radius = np.abs(random.normal(1, 0.5, dimensions)).astype(np.float32)
    threshold[random.random(dimensions) < 0.2] = 0
    if extreme:
        odd = random.random(dimensions) < 0.2
        radius[odd] = random.choice(np.array([0, 1e-45, 2**-121, 2**-120, 1e-30, 1e30, 3.4e38], np.float32), odd.sum())
        odd = random.random(dimensions) < 0.1
        threshold[odd] = random.choice(np.array([-3.4e38, 1e-45, 1e-38, 3.4e38], np.float32), odd.sum())
    return threshold, radius


def _vectors(
    random: np.random.Generator,
    rows: int,
    threshold: NDArray[np.float32],
    radius: NDArray[np.float32],
    extreme: bool,
) -> NDArray[np.float32]:
    """Return values within the range, on the threshold, next to it, on edges between codes, and far outside."""
    shape = (rows, len(threshold))
    anywhere = random.normal(0, 1, shape).astype(np.float32)
    with np.errstate(all="ignore"):
        on_edges = (threshold + random.integers(-140, 141, shape) * radius / 128).astype(np.float32)
    at = np.broadcast_to(threshold, shape)
    kinds = [anywhere, on_edges, at, np.nextafter(at, np.float32(np.inf)), np.nextafter(at, np.float32(-np.inf))]
    if extreme:
        far = random.choice(np.array([0, -0.0, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38], np.float32), shape)
        kinds.append(far)
    return np.choose(random.integers(0, len(kinds), shape), kinds).astype(np.float32)
