"""Projections that need no training: rotations, and iterative quantization."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from qvec.training.learned_bits_data import Floats

ITQ_ITERATIONS = 20


@dataclass(frozen=True)
class Projection:
    """The bits [weights @ (x - threshold) + bias > 0]: weights float32 (m, d), bias float32 (m,)."""

    weights: Floats
    bias: Floats


def projection_from(directions: Floats, centred: Floats, bits: int) -> Projection:
    """Distribute `bits` bits over directions (m, d), with thresholds that split a normal distribution evenly.

    Its standard deviation in each direction is that of the centred rows (n, d). One bit is the sign of a direction; two
    are ternary, with thresholds at 0.43 standard deviations on both sides.
    """
    deviations = np.sqrt(np.mean((centred @ directions.T) ** 2, axis=0))
    weights, bias = [], []
    for number, (direction, deviation) in enumerate(zip(directions, deviations, strict=True)):
        count = bits // len(directions) + (number < bits % len(directions))
        for level in range(1, count + 1):
            weights.append(direction)
            bias.append(-deviation * NormalDist().inv_cdf(level / (count + 1)))
    return Projection(np.array(weights, np.float32), np.array(bias, np.float32))


def random_rotation(dimensions: int, seed: int) -> Floats:
    """Rows of a random orthogonal matrix (d, d)."""
    normal = np.random.default_rng(seed).standard_normal((dimensions, dimensions))
    orthogonal: Floats = np.linalg.qr(normal)[0].astype(np.float32)
    return orthogonal


def itq(centred: Floats, count: int, seed: int) -> Floats:
    """Iterative quantization (Gong and Lazebnik, 2011): directions (count, d), rotated until rows are near their signs.

    They span the `count` principal directions of the centred rows (n, d).
    """
    principal = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count].astype(np.float32)
    reduced = centred @ principal
    rotation = random_rotation(count, seed)
    for _ in range(ITQ_ITERATIONS):
        signs = np.where(reduced @ rotation > 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(signs.T @ reduced)
        rotation = (left @ right).T
    directions: Floats = np.ascontiguousarray((principal @ rotation).T, dtype=np.float32)
    return directions
