"""Training of a projection for learned bits on frozen embeddings, from rows alone or also from pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import kl_div

from qvec.training.initial_projection import Projection
from qvec.training.learned_bits_data import Floats, VectorPairs

GROUPS, NEIGHBOURS = 8, 32
"""A batch holds GROUPS random rows, each with its NEIGHBOURS nearest rows. Batches of random rows alone do not teach to
separate neighbours: at half as many bits as dimensions that costs 1 to 3 points of recall."""
PAIR_BATCH, ANSWER_SHARE = 128, 0.1
"""Random pairs per batch, and the share of a query's target distribution on its own document; the rest follows float
similarities. On Cranfield and Python's documentation, a share of 0.3 cost a point of recall of the nearest rows and a
share of 1 five to nine, without better rankings after rescoring."""
TEMPERATURE = 0.05
"""Of the softmax over float similarities, for vectors of unit length."""
LEARNING_RATE = 3e-3
SCALE_LEARNING_RATE = 1e-2
SHARPNESS = (1.0, 8.0)
"""tanh(sharpness * y) approximates the sign of y; the sharpness grows from the first value to the second."""
_BLOCK = 1024


@dataclass(frozen=True)
class ProjectionDataset:
    """The vectors to learn from and the positions that batches are made of.

    rows: prepared vectors (n, d). centred: rows minus the threshold. neighbours: for each row around which a batch can
    be built, the positions of its nearest rows (a, NEIGHBOURS), first the row itself. pairs: the positions of paired
    queries and documents (p, 2).
    """

    rows: Floats
    centred: Floats
    neighbours: NDArray[np.int64]
    pairs: NDArray[np.int64]


def build_dataset(rows: Floats, threshold: Floats, queries: Floats, pairs: VectorPairs) -> ProjectionDataset:
    """Combine rows (n, d) with the documents of pairs, and queries (m, d) with the queries of pairs.

    Batches are built around rows and, if there are queries, half of the time around queries.
    """
    rows, queries = np.concatenate([rows, pairs.documents]), np.concatenate([queries, pairs.queries])
    combined = np.concatenate([rows, queries])
    neighbours = _nearest_rows(combined, rows)
    neighbours[:, 0] = np.arange(len(combined))
    if len(queries):
        repetitions = -(-len(rows) // len(queries))
        around_queries = np.tile(neighbours[len(rows) :], (repetitions, 1))[: len(rows)]
        neighbours = np.concatenate([neighbours[: len(rows)], around_queries])
    last = np.arange(-len(pairs), 0)
    positions = np.stack([len(combined) + last, len(rows) + last], axis=1)
    return ProjectionDataset(combined, combined - threshold, neighbours, positions)


def _nearest_rows(queries: Floats, rows: Floats) -> NDArray[np.int64]:
    count = min(NEIGHBOURS, len(rows))
    candidates = torch.from_numpy(rows).T
    blocks = (torch.from_numpy(queries[start : start + _BLOCK]) for start in range(0, len(queries), _BLOCK))
    nearest: NDArray[np.int64] = torch.cat([(block @ candidates).topk(count).indices for block in blocks]).numpy()
    return nearest


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: batches are so small that several would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def train_projection(
    start: Projection, dataset: ProjectionDataset, steps: int, seed: int, progress: Callable[[int], None]
) -> Projection:
    """Train a projection from `start` so that similarities of bits follow those of floats within every batch.

    The loss is the Kullback-Leibler divergence between the softmax of each row's float similarities and that of its
    bits' similarities, whose scale is learned too. With pairs, add the same divergence of their queries over the
    documents of the batch, where each query's own document gets an extra share.
    """
    rows, centred, pairs = map(torch.from_numpy, (dataset.rows, dataset.centred, dataset.pairs))
    student = _Student(start, dataset.centred)
    temperature = TEMPERATURE * float((dataset.rows**2).sum(axis=1).mean())
    parameters = [
        {"params": [student.weights, student.bias]},
        {"params": [student.scale], "lr": SCALE_LEARNING_RATE},
    ]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    rng = np.random.default_rng(seed)
    for step in range(steps):
        sharpness = _sharpness(step / steps)
        groups = rng.integers(len(dataset.neighbours), size=GROUPS)
        drawn = torch.from_numpy(dataset.neighbours[groups].reshape(-1))
        batch = centred[drawn]
        similarities = student.similarities(batch, batch, sharpness)
        targets = rows[drawn] @ rows[drawn].T / temperature
        loss = _row_divergence(similarities, targets, drawn[:, None] == drawn)
        if len(pairs):
            queries, documents = pairs[torch.from_numpy(rng.integers(len(pairs), size=PAIR_BATCH))].T
            similarities = student.similarities(centred[queries], centred[documents], sharpness)
            targets = rows[queries] @ rows[documents].T / temperature
            loss = loss + _pair_divergence(similarities, targets, documents[:, None] == documents)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.step()
        progress(step + 1)
    return Projection(student.weights.detach().numpy(), student.bias.detach().numpy())


class _Student:
    """The projection being trained, with tanh in place of the sign."""

    def __init__(self, start: Projection, centred: Floats) -> None:
        # Scale each bit so that the value whose sign it takes has a standard deviation of 1.
        spread = (centred @ start.weights.T).std(axis=0)
        scale = np.divide(1, spread, out=np.ones_like(spread), where=spread > 0)
        self.weights = torch.from_numpy(start.weights * scale[:, None]).requires_grad_()
        self.bias = torch.from_numpy(start.bias * scale).requires_grad_()
        self.scale = torch.tensor(float(-np.log(TEMPERATURE)), requires_grad=True)

    def similarities(self, left: torch.Tensor, right: torch.Tensor, sharpness: float) -> torch.Tensor:
        """Return the scaled similarity of the bits of each row of `left` (m, d) and of `right` (n, d): (m, n)."""
        first = self._soft_bits(left, sharpness)
        second = first if left is right else self._soft_bits(right, sharpness)
        return first @ second.T / len(self.weights) * self.scale.exp()

    def _soft_bits(self, centred: torch.Tensor, sharpness: float) -> torch.Tensor:
        return torch.tanh(sharpness * (centred @ self.weights.T + self.bias))


def _sharpness(progress: float) -> float:
    low, high = SHARPNESS
    return float(low * (high / low) ** progress)


def _row_divergence(found: torch.Tensor, targets: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Divergence over each row's neighbours, without the row itself and its copies in the batch."""
    excluded = torch.finfo(torch.float32).min
    return kl_div(
        found.masked_fill(same, excluded).log_softmax(1),
        targets.masked_fill(same, excluded).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


def _pair_divergence(found: torch.Tensor, targets: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Divergence over documents (m, m); a query's answer share is divided among the copies of its own document."""
    target = (1 - ANSWER_SHARE) * targets.softmax(1) + ANSWER_SHARE * own / own.sum(1, keepdim=True)
    return kl_div(found.log_softmax(1), target, reduction="batchmean")
