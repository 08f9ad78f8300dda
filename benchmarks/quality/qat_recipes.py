"""The recipes of training that the study compares, and training by one of them: the last layers of MiniLM.

The lower layers stay fixed and are computed once for each text, so that a training takes minutes on a CPU.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from qvec import Calibration, RangeMethod
from qvec.embedding import PACKAGED_MODEL
from qvec.embedding.sentence_transformer import load_sentence_transformer
from qvec.training import QuantizationAwareLoss, constant, staged

_BATCH = 32
_LEARNING_RATE = 1e-4
_WARMUP_SHARE = _FROZEN_SHARE = 0.1
_STARTS = {"int8": 1 / 15, "ternary": 0.6, "binary": 0.6}
"""Shares of the steps; of 3,000 steps, the published best starts 200 and 1,800, with weights 1, 1 and 0.5."""
_WEIGHTS = {"float32": 1.0, "int8": 1.0, "ternary": 0.5, "binary": 0.5}

States = list[Tensor]
"""For each text, the states of its tokens (tokens, d) below the layers that are trained."""


@dataclass(frozen=True)
class Recipe:
    """A kind of training. All use multiple-negatives ranking on the same batches; a plain one does not quantize.

    threshold: the share of the mean that is subtracted; 0, as is usual for QAT, or ½, as qvec does for other models.
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
"""The original model, and the model trained without quantization."""
RECIPES = (
    Recipe(PLAIN, quantized=False),
    Recipe("QAT, symmetric"),
    Recipe("QAT, asymmetric", asymmetric=True),
    Recipe("QAT, symmetric, staged", staged=True),
    Recipe("QAT, symmetric, min/max", ranges="minmax"),
    Recipe("QAT, symmetric, half the mean", threshold=0.5),
)


def train_recipe(recipe: Recipe, model: UpperLayers, pairs: list[States], steps: int, seed: int) -> Calibration:
    """Train a model in place on the states of queries and documents; return the calibration it was trained with."""
    torch.manual_seed(seed)
    loss = recipe.loss(model, steps)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_share(step, steps))
    batches = _batches(len(pairs[0]), random.Random(seed))
    model.train()
    for step in range(steps):
        if step >= (1 - _FROZEN_SHARE) * steps:
            loss.freeze()
        rows = next(batches)
        found = loss([make_features([column[row] for row in rows]) for column in pairs], None)
        torch.stack(list(found.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return loss.to_calibration()


def _learning_rate_share(step: int, steps: int) -> float:
    """A warm-up, then linear decay to 0."""
    warmup = max(1, int(_WARMUP_SHARE * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def _batches(count: int, rng: random.Random) -> Iterator[list[int]]:
    """Rows of batches, in a new random order for each pass over the data."""
    while True:
        order = rng.sample(range(count), count)
        for start in range(0, count - _BATCH + 1, _BATCH):
            yield order[start : start + _BATCH]


class LowerLayers:
    """MiniLM without its last `trained` layers. Texts are truncated to `tokens` tokens."""

    def __init__(self, trained: int, tokens: int) -> None:
        self.tokens = tokens
        self._model = load_sentence_transformer(PACKAGED_MODEL)
        self._model.max_seq_length = tokens
        self._transformer: Any = self._model[0].auto_model
        layers = self._transformer.encoder.layer
        self._transformer.encoder.layer, self._upper = layers[:-trained], layers[-trained:]

    def upper(self) -> UpperLayers:
        """Return a copy of the last layers, to be trained."""
        return UpperLayers(copy.deepcopy(self._upper))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def states(self, texts: Sequence[str]) -> States:
        """Return the input of the upper layers for each text."""
        self._model.eval()
        lengths = [len(text) for text in texts]
        order = sorted(range(len(texts)), key=lengths.__getitem__)
        found: dict[int, Tensor] = {}
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            inputs = self._model.preprocess([texts[row] for row in rows])
            hidden = self._transformer(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).last_hidden_state
            counts = inputs["attention_mask"].sum(1).tolist()
            found |= {row: states[:count].clone() for row, states, count in zip(rows, hidden, counts, strict=True)}
        return [found[row] for row in range(len(texts))]


class UpperLayers(nn.Module):  # type: ignore[misc]
    """The last layers with mean pooling and normalization; a model for the losses of sentence-transformers."""

    similarity_fn_name = "cosine"

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def get_embedding_dimension(self) -> int:
        """Return the length of embeddings."""
        return int(self.layers[-1].output.dense.out_features)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add `sentence_embedding` (n, d) to the features that `make_features` returned."""
        hidden, mask = features["hidden"], features["mask"]
        attention_bias = (1 - mask[:, None, None, :]) * torch.finfo(hidden.dtype).min
        for layer in self.layers:
            hidden = layer(hidden, attention_bias)
        weights = mask.unsqueeze(2)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return {**features, "sentence_embedding": nn.functional.normalize(pooled)}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def embed(self, states: States) -> Tensor:
        """Return embeddings (n, d), computed in batches of similar length."""
        self.eval()
        order = iter(sorted(range(len(states)), key=lambda row: len(states[row])))
        found = torch.empty(len(states), self.get_embedding_dimension())
        while rows := list(islice(order, _BATCH)):
            found[rows] = self(make_features([states[row] for row in rows]))["sentence_embedding"]
        return found


def make_features(states: States) -> dict[str, Tensor]:
    """Return a batch: states padded with zeros (n, tokens, d), and a mask (n, tokens) of the tokens."""
    hidden = nn.utils.rnn.pad_sequence(states, batch_first=True)
    lengths = torch.tensor([len(rows) for rows in states])
    return {"hidden": hidden, "mask": (torch.arange(hidden.shape[1]) < lengths[:, None]).float()}
