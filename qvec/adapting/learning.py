"""Training of a projection on frozen embeddings, without labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div

from qvec.adapting.directions import Floats, Projection

GROUPS, NEIGHBOURS = 8, 32
"""A batch: so many rows, drawn at random, each with its nearest. Among strangers alone, near rows are never told apart:
at half as many bits as dimensions that cost 1 to 3 points of recall."""
TEMPERATURE = 0.05
"""Of the similarities that are learned from, at unit length."""
RATE = 3e-3
SHARPNESS = (1.0, 8.0)
"""tanh(sharpness * y) stands for the sign of y; it grows from the first to the second."""
_BLOCK = 1024


@dataclass(frozen=True)
class Material:
    """What is learned from: rows (n, d) as they are compared, the same rows minus the threshold, and of each of the
    rows that batches are built around its nearest rows (a, NEIGHBOURS), itself first where it is one."""

    rows: Floats
    centred: Floats
    near: NDArray[np.int64]


def material(rows: Floats, threshold: Floats, queries: Floats) -> Material:
    """Batches are built around all rows and, where there are any, around queries (m, d) half of the time."""
    together = np.concatenate([rows, queries])
    near = _nearest(together, rows)
    near[:, 0] = np.arange(len(together))
    if len(queries):
        of_queries = np.tile(near[len(rows) :], (-(-len(rows) // len(queries)), 1))
        near = np.concatenate([near[: len(rows)], of_queries[: len(rows)]])
    return Material(together, together - threshold, near)


def _nearest(of: Floats, among: Floats) -> NDArray[np.int64]:
    count = min(NEIGHBOURS, len(among))
    candidates = torch.from_numpy(among)
    blocks = [(torch.from_numpy(block) @ candidates.T).topk(count).indices for block in _blocks(of)]
    nearest: NDArray[np.int64] = torch.cat(blocks).numpy()
    return nearest


def _blocks(rows: Floats) -> list[Floats]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


def learn(start: Projection, given: Material, steps: int, seed: int, progress: Callable[[int], None]) -> Projection:
    """Trains a projection from `start` so that similarities of bits follow those of floats in every batch.

    The loss is the Kullback-Leibler divergence between the softmax of each row's float similarities and that of its
    bits', whose scale is learned too.
    """
    rows, centred = torch.from_numpy(given.rows), torch.from_numpy(given.centred)
    weights, bias = _at_unit_spread(start, given.centred)
    scale = torch.tensor(float(-np.log(TEMPERATURE)), requires_grad=True)
    unit = TEMPERATURE * float((given.rows**2).sum(axis=1).mean())
    optimizer = torch.optim.Adam([{"params": [weights, bias]}, {"params": [scale], "lr": 1e-2}], lr=RATE)
    random = np.random.default_rng(seed)
    for step in range(steps):
        drawn = torch.from_numpy(given.near[random.integers(len(given.near), size=GROUPS)].reshape(-1))
        soft = torch.tanh(_sharpness(step / steps) * (centred[drawn] @ weights.T + bias))
        wanted = rows[drawn] @ rows[drawn].T / unit
        loss = _divergence(soft @ soft.T / len(weights) * scale.exp(), wanted, drawn[:, None] == drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.step()
        progress(step + 1)
    return Projection(weights.detach().numpy(), bias.detach().numpy())


def _at_unit_spread(start: Projection, centred: Floats) -> tuple[torch.Tensor, torch.Tensor]:
    """Each bit scaled so that what its sign is taken of has a standard deviation of 1."""
    spread = (centred @ start.weights.T).std(axis=0)
    scale = np.divide(1, spread, out=np.ones_like(spread), where=spread > 0)
    weights, bias = torch.from_numpy(start.weights * scale[:, None]), torch.from_numpy(start.bias * scale)
    return weights.requires_grad_(), bias.requires_grad_()


def _sharpness(done: float) -> float:
    low, high = SHARPNESS
    return float(low * (high / low) ** done)


def _divergence(found: torch.Tensor, wanted: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Of each row's neighbours but itself, and but for its own copies in the batch."""
    least = torch.finfo(torch.float32).min
    return kl_div(
        found.masked_fill(same, least).log_softmax(1),
        wanted.masked_fill(same, least).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )
