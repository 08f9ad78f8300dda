"""The ways to train that the study compares, and the training."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sentence_transformers.sentence_transformer import losses
from upper import States, UpperLayers, features_of

from qvec import Calibration, RangeMethod
from qvec.training import QuantizationAwareLoss, constant, staged

_BATCH = 32
_LEARNING_RATE = 1e-4
_WARMUP_SHARE = _FROZEN_SHARE = 0.1
_STARTS = {"int8": 1 / 15, "ternary": 0.6, "binary": 0.6}
"""Shares of the steps: of 3,000 the 200 and 1,800 that are reported as best, with weights 1, 1 and 0.5."""
_WEIGHTS = {"float32": 1.0, "int8": 1.0, "ternary": 0.5, "binary": 0.5}


@dataclass(frozen=True)
class Recipe:
    """One way to train. All are multiple-negatives ranking over the same batches; a plain one quantizes nothing.

    `threshold` is the share of the mean that is subtracted: 0, as QAT is usually done, or ½ as qvec quantizes others.
    """

    name: str
    quantized: bool = True
    asymmetric: bool = False
    staged: bool = False
    ranges: str = "rolling"
    threshold: float = 0.0

    def loss(self, model: UpperLayers, steps: int) -> QuantizationAwareLoss:
        precisions = tuple(_WEIGHTS) if self.quantized else ("float32",)
        starts = {name: round(share * steps) for name, share in _STARTS.items()}
        return QuantizationAwareLoss(
            model,
            losses.MultipleNegativesRankingLoss(model),
            precisions=precisions,
            weights={name: _WEIGHTS[name] for name in precisions},
            schedule=staged(starts) if self.staged else constant(),
            asymmetric=self.asymmetric,
            calibration=RangeMethod(self.ranges),
            threshold=self.threshold,
        )


BEFORE, PLAIN = "before", "plain"
"""The model as it is, and trained without quantizing."""
RECIPES = (
    Recipe(PLAIN, quantized=False),
    Recipe("QAT, symmetric"),
    Recipe("QAT, asymmetric", asymmetric=True),
    Recipe("QAT, symmetric, staged", staged=True),
    Recipe("QAT, symmetric, min/max", ranges="minmax"),
    Recipe("QAT, symmetric, half the mean", threshold=0.5),
)


def trained(recipe: Recipe, model: UpperLayers, pairs: list[States], steps: int, seed: int) -> Calibration:
    """Trains a model in place on `pairs`, states of queries and of their documents; the ranges it was trained with."""
    torch.manual_seed(seed)
    loss = recipe.loss(model, steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    batches = _batches(len(pairs[0]), random.Random(seed))
    model.train()
    for step in range(steps):
        if step >= (1 - _FROZEN_SHARE) * steps:
            loss.freeze()
        rows = next(batches)
        found = loss([features_of([column[row] for row in rows]) for column in pairs], None)
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return loss.to_calibration()


def _pace(step: int, steps: int) -> float:
    """The share of the learning rate: a warm-up, then a straight line down to nothing."""
    warmup = max(1, int(_WARMUP_SHARE * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _batches(count: int, chance: random.Random) -> Iterator[list[int]]:
    """Rows of the next batch, pass after pass over all of them in another order."""
    while True:
        order = chance.sample(range(count), count)
        for start in range(0, count - _BATCH + 1, _BATCH):
            yield order[start : start + _BATCH]
