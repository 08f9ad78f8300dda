"""Training of a projection on frozen embeddings: without labels, or with pairs of queries and documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div

from qvec.adapting.directions import Floats, Projection
from qvec.adapting.pairs import Pairs

GROUPS, NEIGHBOURS = 8, 32
"""A batch: so many rows, drawn at random, each with its nearest. Among strangers alone, near rows are never told apart:
at half as many bits as dimensions that cost 1 to 3 points of recall."""
PAIRS, SHARE = 128, 0.1
"""Pairs in a batch, drawn at random, and the share of what a query's bits are to follow that lies on its own document;
the rest is float similarities. On Cranfield and Python's documentation a share of 0.3 cost a point of recall of the
nearest, one of 1 five to nine, and after rescoring rankings were no better for it."""
TEMPERATURE = 0.05
"""Of the similarities that are learned from, at unit length."""
RATE = 3e-3
SHARPNESS = (1.0, 8.0)
"""tanh(sharpness * y) stands for the sign of y; it grows from the first to the second."""
_BLOCK = 1024


@dataclass(frozen=True)
class Material:
    """What is learned from: rows (n, d) as they are compared, the same rows minus the threshold, of each of the rows
    that batches are built around its nearest rows (a, NEIGHBOURS), itself first where it is one, and the positions of
    paired queries and documents (p, 2)."""

    rows: Floats
    centred: Floats
    near: NDArray[np.int64]
    pairs: NDArray[np.int64]


def material(rows: Floats, threshold: Floats, queries: Floats, pairs: Pairs) -> Material:
    """Batches are built around all rows and, where there are any, around queries half of the time: `queries` (m, d) and
    those of pairs, whose documents are rows too."""
    rows, queries = np.concatenate([rows, pairs.documents]), np.concatenate([queries, pairs.queries])
    together = np.concatenate([rows, queries])
    near = _nearest(together, rows)
    near[:, 0] = np.arange(len(together))
    if len(queries):
        of_queries = np.tile(near[len(rows) :], (-(-len(rows) // len(queries)), 1))
        near = np.concatenate([near[: len(rows)], of_queries[: len(rows)]])
    last = np.arange(-len(pairs), 0)
    return Material(together, together - threshold, near, np.stack([len(together) + last, len(rows) + last], axis=1))


def _nearest(of: Floats, among: Floats) -> NDArray[np.int64]:
    count = min(NEIGHBOURS, len(among))
    candidates = torch.from_numpy(among)
    blocks = [(torch.from_numpy(block) @ candidates.T).topk(count).indices for block in _blocks(of)]
    nearest: NDArray[np.int64] = torch.cat(blocks).numpy()
    return nearest


def _blocks(rows: Floats) -> list[Floats]:
    return [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches are small: several threads wait for each other longer than they compute, most where others run too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def learn(start: Projection, given: Material, steps: int, seed: int, progress: Callable[[int], None]) -> Projection:
    """Trains a projection from `start` so that similarities of bits follow those of floats in every batch, and those of
    a pair's query its document too.

    The loss is the Kullback-Leibler divergence between the softmax of each row's float similarities and that of its
    bits', whose scale is learned too; where there are pairs, plus that of their queries over the documents of a batch.
    """
    rows, centred, pairs = map(torch.from_numpy, (given.rows, given.centred, given.pairs))
    student = _Student(start, given.centred)
    unit = TEMPERATURE * float((given.rows**2).sum(axis=1).mean())
    parameters = [{"params": [student.weights, student.bias]}, {"params": [student.scale], "lr": 1e-2}]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    random = np.random.default_rng(seed)
    for step in range(steps):
        sharpness = _sharpness(step / steps)
        drawn = torch.from_numpy(given.near[random.integers(len(given.near), size=GROUPS)].reshape(-1))
        found, wanted = student.alike(centred[drawn], centred[drawn], sharpness), rows[drawn] @ rows[drawn].T / unit
        loss = _divergence(found, wanted, drawn[:, None] == drawn)
        if len(pairs):
            asked, answers = pairs[torch.from_numpy(random.integers(len(pairs), size=PAIRS))].T
            found = student.alike(centred[asked], centred[answers], sharpness)
            loss = loss + _divergence_of_pairs(found, rows[asked] @ rows[answers].T / unit, answers[:, None] == answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.step()
        progress(step + 1)
    return Projection(student.weights.detach().numpy(), student.bias.detach().numpy())


class _Student:
    """A projection being learned, and what its bits find alike: tanh stands for their signs."""

    def __init__(self, start: Projection, centred: Floats) -> None:
        self.weights, self.bias = _at_unit_spread(start, centred)
        self.scale = torch.tensor(float(-np.log(TEMPERATURE)), requires_grad=True)

    def alike(self, left: torch.Tensor, right: torch.Tensor, sharpness: float) -> torch.Tensor:
        """Of each row of `left` (m, d) with each of `right` (n, d), centred: (m, n)."""
        first = self._soft(left, sharpness)
        second = first if left is right else self._soft(right, sharpness)
        return first @ second.T / len(self.weights) * self.scale.exp()

    def _soft(self, centred: torch.Tensor, sharpness: float) -> torch.Tensor:
        return torch.tanh(sharpness * (centred @ self.weights.T + self.bias))


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


def _divergence_of_pairs(found: torch.Tensor, wanted: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Of each query's documents (m, m); `own` are copies of its own, among which its share is divided."""
    target = (1 - SHARE) * wanted.softmax(1) + SHARE * own / own.sum(1, keepdim=True)
    return kl_div(found.log_softmax(1), target, reduction="batchmean")
