"""Directions in which bits are taken without training, and the levels that several bits of one direction stand for."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ITERATIONS = 20


@dataclass(frozen=True)
class Projection:
    """Bits [weights @ (x - threshold) + bias > 0]: weights float32 (m, d), bias float32 (m,)."""

    weights: Floats
    bias: Floats


def identity(dimensions: int) -> Floats:
    """The dimensions as they are: sign bits, or ternary where each has two bits."""
    return np.eye(dimensions, dtype=np.float32)


def rotation(dimensions: int, seed: int) -> Floats:
    """Rows of a random orthogonal matrix (d, d)."""
    normal = np.random.default_rng(seed).standard_normal((dimensions, dimensions))
    orthogonal: Floats = np.linalg.qr(normal)[0].astype(np.float32)
    return orthogonal


def itq(centred: Floats, count: int, seed: int) -> Floats:
    """Iterative quantization (Gong and Lazebnik, 2011): directions (count, d) rotated until rows lie near their signs.

    They span the `count` principal directions of the centred rows (n, d), all of them where count is d.
    """
    principal = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count].astype(np.float32)
    reduced = centred @ principal
    turn = rotation(count, seed)
    for _ in range(ITERATIONS):
        signs = np.where(reduced @ turn > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(signs.T @ reduced)
        turn = (left @ right).T
    directions: Floats = np.ascontiguousarray((principal @ turn).T, dtype=np.float32)
    return directions


def with_levels(directions: Floats, centred: Floats, bits: int) -> Projection:
    """`bits` bits shared out among directions, their levels where they cut a normal distribution of that spread into
    equal parts: one bit is the sign, two are ternary, at 0.43 standard deviations to both sides."""
    spread = np.sqrt(np.mean((centred @ directions.T) ** 2, axis=0))
    weights, bias = [], []
    for number, (direction, deviation) in enumerate(zip(directions, spread, strict=True)):
        share = bits // len(directions) + (number < bits % len(directions))
        for level in range(1, share + 1):
            weights.append(direction)
            bias.append(-deviation * NormalDist().inv_cdf(level / (share + 1)))
    return Projection(np.array(weights, np.float32), np.array(bias, np.float32))
