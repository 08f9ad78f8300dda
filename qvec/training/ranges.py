"""The ranges of embeddings while a model trains: of the batch, or moving averages over batches."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from qvec.calibration import UNIT_LENGTH_TOLERANCE, Calibration, Metric
from qvec.errors import InputError
from qvec.ranges import RangeMethod
from qvec.training.quantizers import Scale, prepared


class TrainingRanges:
    """Statistics of the embeddings of one length, as moving averages over the batches seen, and the scale they give.

    Each is `momentum` times itself plus the batch's share, started at the first batch (warm start). With
    method minmax a batch is scaled by its own reach, with rolling by `spread` average standard deviations around the
    average mean; frozen, both by the averages, which are what the calibration stores. `threshold` is the share of
    the mean that is subtracted, as in `Calibration.fit`; 0 leaves sign bits where other libraries expect them.
    """

    def __init__(self, method: RangeMethod, threshold: float, metric: Metric) -> None:
        if method.name not in ("rolling", "minmax", "fixed"):
            raise InputError(
                f"range method {method.name!r} needs all embeddings at once; in training use rolling, minmax or fixed"
            )
        self.method = method
        self.threshold = threshold
        self.metric = metric
        self.batches = 0
        self.rows = 0
        self.unit_length = True
        self.averages: dict[str, Tensor] = {}

    def update(self, embeddings: Tensor) -> None:
        """Takes a batch of embeddings (n, d) as the model gives them into the averages."""
        batch = self._statistics(embeddings)
        if not all(bool(value.isfinite().all()) for value in batch.values()):
            return  # one batch that overflowed would stay in the averages
        squared = embeddings.detach().double().square().sum(1)
        self.unit_length &= bool(((squared - 1).abs() <= UNIT_LENGTH_TOLERANCE).all())
        for name, value in batch.items():
            kept = self.averages.get(name, value).to(value.device)
            self.averages[name] = self.method.momentum * kept + (1 - self.method.momentum) * value
        self.batches += 1
        self.rows += len(embeddings)

    def scale(self, embeddings: Tensor, *, frozen: bool) -> Scale:
        """The scale for a batch of embeddings (n, d): its own where nothing else is known yet."""
        own = not self.averages or (self.method.name == "minmax" and not frozen)
        return self._scale(self._statistics(embeddings) if own else self.averages)

    def calibration(self) -> Calibration:
        """The averages as a calibration. It names no model: it lies in the folder of its own."""
        scale = self._scale(self.averages)
        tensors = (*scale[:3], self.averages["mean"], self.averages["std"])
        threshold, radius, deviation, mean, std = (tensor.float().cpu().numpy() for tensor in tensors)
        method = {key: value for key, value in self.method.parameters().items() if key != "batch_size"}
        description: dict[str, Any] = {
            "method": {"threshold": self.threshold, **method},
            "model": None,
            "normalized": self.unit_length,
            "qvec": version("qvec"),
            "sample": {"drawn": "training", "seed": 0, "size": self.rows},
        }
        return Calibration(threshold, radius, deviation, mean, std, self.metric, description)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs: numbers, and tensors by name."""
        counts = {"batches": self.batches, "rows": self.rows, "unit_length": self.unit_length}
        return {**counts, "averages": dict(self.averages)}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up the averages where `state` left them."""
        self.batches, self.rows, self.unit_length = state["batches"], state["rows"], state["unit_length"]
        self.averages = dict(state["averages"])

    def _statistics(self, embeddings: Tensor) -> dict[str, Tensor]:
        unscaled = torch.zeros(embeddings.shape[1], device=embeddings.device)
        rows = prepared(embeddings.detach(), Scale(unscaled, unscaled, unscaled, self.metric)).double()
        mean = rows.mean(0)
        distances = (rows - self.threshold * mean).abs()
        return {
            "mean": mean,
            "std": rows.std(0, correction=0),
            "deviation": distances.mean(0),
            "reach": distances.amax(0),
        }

    def _scale(self, statistics: dict[str, Tensor]) -> Scale:
        """Threshold, radius and deviation; one radius and one deviation for all dimensions where so asked."""
        threshold = self.threshold * statistics["mean"]
        radius, deviation = self._radius(statistics, threshold), statistics["deviation"]
        if not self.method.per_dimension:
            radius, deviation = radius.max().expand_as(radius), deviation.mean().expand_as(deviation)
        return Scale(threshold.float(), radius.float(), deviation.float(), self.metric)

    def _radius(self, statistics: dict[str, Tensor], threshold: Tensor) -> Tensor:
        if self.method.name == "minmax":
            return statistics["reach"]
        if self.method.name == "rolling":
            return self.method.spread * statistics["std"] + (statistics["mean"] - threshold).abs()
        fixed = torch.as_tensor(self.method.value, dtype=torch.float64, device=threshold.device)
        if fixed.ndim and len(fixed) != len(threshold):
            raise InputError(f"a fixed range of {len(fixed)} values does not fit {len(threshold)} dimensions")
        return fixed.expand_as(threshold)


def of_prefix(calibration: Calibration, model_dimensions: int) -> Calibration:
    """A calibration of a Matryoshka prefix, that takes the model's whole vectors too."""
    if calibration.dimensions == model_dimensions:
        return calibration
    return replace(calibration, description={**calibration.description, "cut_from": model_dimensions})
