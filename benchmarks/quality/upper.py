"""MiniLM in two parts, so that training it takes minutes on a CPU: lower layers that stay as they are and are computed
once for each text, and upper layers that are trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from qvec.embedding import PACKAGED_MODEL
from qvec.embedding.hub import load

_BATCH = 32

States = list[Tensor]
"""The states of a text's tokens (tokens, d) below the layers that are trained, for each text."""


class LowerLayers:
    """All of MiniLM below its last `trained` layers."""

    def __init__(self, trained: int, tokens: int) -> None:
        """`tokens` is where longer texts end."""
        self.tokens = tokens
        self._model = load(PACKAGED_MODEL)
        self._model.max_seq_length = tokens
        self._transformer: Any = self._model[0].auto_model
        layers = self._transformer.encoder.layer
        self._transformer.encoder.layer, self._upper = layers[:-trained], layers[-trained:]

    def upper(self) -> UpperLayers:
        """The layers that are trained, as they were before."""
        return UpperLayers(copy.deepcopy(self._upper))

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> States:
        """What the upper layers take, of each text."""
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
            found |= {row: rest[:count].clone() for row, rest, count in zip(rows, hidden, counts, strict=True)}
        return [found[row] for row in range(len(texts))]


class UpperLayers(nn.Module):
    """The last layers, mean pooling and normalization: what a loss of sentence-transformers takes for a model."""

    similarity_fn_name = "cosine"

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def get_embedding_dimension(self) -> int:
        """Length of its embeddings."""
        return int(self.layers[-1].output.dense.out_features)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds `sentence_embedding` (n, d) to what `features_of` made."""
        hidden, mask = features["hidden"], features["mask"]
        hindered = (1 - mask[:, None, None, :]) * torch.finfo(hidden.dtype).min
        for layer in self.layers:
            hidden = layer(hidden, hindered)
        weights = mask.unsqueeze(2)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        return {**features, "sentence_embedding": nn.functional.normalize(pooled)}

    @torch.no_grad()
    def embed(self, states: States) -> Tensor:
        """Embeddings of texts (n, d), of similar lengths together."""
        self.eval()
        order = iter(sorted(range(len(states)), key=lambda row: len(states[row])))
        found = torch.empty(len(states), self.get_embedding_dimension())
        while rows := list(islice(order, _BATCH)):
            found[rows] = self(features_of([states[row] for row in rows]))["sentence_embedding"]
        return found


def features_of(states: States) -> dict[str, Tensor]:
    """A batch: states padded with zeros (n, tokens, d), and which of them are none (n, tokens)."""
    hidden = nn.utils.rnn.pad_sequence(states, batch_first=True)
    lengths = torch.tensor([len(rows) for rows in states])
    return {"hidden": hidden, "mask": (torch.arange(hidden.shape[1]) < lengths[:, None]).float()}
