"""Ranges of embeddings tracked during training, as moving averages over batches."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from qvec.calibration import UNIT_LENGTH_TOLERANCE, Calibration, Metric
from qvec.errors import InputError
from qvec.ranges import RangeMethod
from qvec.training.quantizers import Scale, prepare


class RangeTracker:
    """Tracks statistics of embeddings of one length, and gives the scale to quantize them with.

    Each statistic is an exponential moving average over batches, started at the first batch (warm start). Method
    rolling scales a batch by `spread` average standard deviations around the average mean; minmax scales a batch by its
    own maxima, except when ranges are frozen. A calibration stores the averages. `threshold` is the share of the mean
    that is subtracted, as in `Calibration.fit`; 0 keeps the sign bits that other libraries compute.
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
        """Add a batch of embeddings (n, d), as the model returns them, to the averages."""
        batch = self._statistics(embeddings)
        if not all(bool(value.isfinite().all()) for value in batch.values()):
            return  # a batch that overflowed would never leave the averages
        squared = embeddings.detach().double().square().sum(1)
        self.unit_length &= bool(((squared - 1).abs() <= UNIT_LENGTH_TOLERANCE).all())
        for name, value in batch.items():
            previous = self.averages.get(name, value).to(value.device)
            self.averages[name] = self.method.momentum * previous + (1 - self.method.momentum) * value
        self.batches += 1
        self.rows += len(embeddings)

    def scale(self, embeddings: Tensor, *, frozen: bool) -> Scale:
        """Return the scale for a batch of embeddings (n, d); the batch's own before the first `update`."""
        from_batch = not self.averages or (self.method.name == "minmax" and not frozen)
        return self._scale(self._statistics(embeddings) if from_batch else self.averages)

    def calibration(self, model_dimensions: int) -> Calibration:
        """Return the averages as a calibration. It names no model, as it is stored in the model's own folder.

        If `model_dimensions` is larger than the tracked length, the calibration is for a Matryoshka prefix and accepts
        whole vectors too.
        """
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
        if len(threshold) != model_dimensions:
            description["cut_from"] = model_dimensions
        return Calibration(threshold, radius, deviation, mean, std, self.metric, description)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        counts = {"batches": self.batches, "rows": self.rows, "unit_length": self.unit_length}
        return {**counts, "averages": dict(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.batches, self.rows, self.unit_length = state["batches"], state["rows"], state["unit_length"]
        self.averages = dict(state["averages"])

    def _statistics(self, embeddings: Tensor) -> dict[str, Tensor]:
        zeros = torch.zeros(embeddings.shape[1], device=embeddings.device)
        rows = prepare(embeddings.detach(), Scale(zeros, zeros, zeros, self.metric)).double()
        mean = rows.mean(0)
        distances = (rows - self.threshold * mean).abs()
        return {
            "mean": mean,
            "std": rows.std(0, correction=0),
            "deviation": distances.mean(0),
            "reach": distances.amax(0),
        }

    def _scale(self, statistics: dict[str, Tensor]) -> Scale:
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
