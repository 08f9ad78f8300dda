"""A loss over quantized embeddings: wraps any loss of sentence-transformers."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qvec.calibration import Calibration, Metric
from qvec.errors import InputError
from qvec.model_folder import save_calibration
from qvec.ranges import RangeMethod
from qvec.training.forwards import cached_loss, check_wrapped, embedded_once, pass_on, served
from qvec.training.quantizers import Scale, prepared, quantizable, quantize_ste
from qvec.training.ranges import TrainingRanges, of_prefix
from qvec.training.schedules import Schedule, constant

Features = dict[str, Any]


class QuantizationAwareLoss(nn.Module):  # type: ignore[misc]
    """Sums a loss over precisions, each computed on the embeddings as they come back from their codes.

    `loss` is any loss of sentence-transformers over `model` whose columns are texts: with in-batch negatives, triplets
    or scored pairs, the Cached ones with their gradient caching, and `MatryoshkaLoss`. The texts are embedded once for
    all precisions. Gradients pass straight through the quantizer. Around `MatryoshkaLoss`, whole vectors are quantized
    and then cut; inside it, each prefix is cut, normalized and quantized by ranges of its own, which is what a
    calibration for fewer dimensions does.

    precisions: of float32, int8, int4, ternary, binary. weights: one for each (default 1). schedule: the share of its
    weight that a precision has at a step (default: all of it). asymmetric: leave the first column, the query, as it
    is. calibration: a fixed `Calibration`, to whose dimensions all embeddings are cut, or the `RangeMethod` by which
    ranges are tracked while training (rolling, the default, minmax or fixed); `threshold` is the share of the mean
    subtracted, 0 for models trained for sign bits.

    Steps are batches, unless a `QuantizationCallback` tells the trainer's. In several processes each tracks its own
    batches, and the first one's ranges are stored.

    Returns a dict with one weighted loss for each precision that counts, which the trainer logs one by one and adds
    up; their sum where another loss (MatryoshkaLoss) wraps this one and multiplies what it gives, and a
    `QuantizationCallback` logs the precisions.
    """

    def __init__(
        self,
        model: Any,
        loss: nn.Module,
        precisions: Sequence[str] = ("float32", "int8", "binary"),
        weights: Sequence[float] | Mapping[str, float] | None = None,
        schedule: Schedule | None = None,
        asymmetric: bool = False,
        calibration: Calibration | RangeMethod | None = None,
        threshold: float = 0.0,
    ) -> None:
        super().__init__()
        check_wrapped(model, loss)
        self.model = model
        self.loss = loss
        self.precisions = _checked_precisions(precisions)
        self.weights = _weights(self.precisions, weights)
        self.schedule = schedule or constant()
        self.asymmetric = asymmetric
        self.fixed = calibration if isinstance(calibration, Calibration) else None
        self.method = calibration if isinstance(calibration, RangeMethod) else RangeMethod("rolling")
        self.threshold = threshold
        self.metric = metric_of(model)
        self.ranges: dict[int, TrainingRanges] = {}
        self.frozen = False
        self.step: int | None = None
        self.dimensions: int = model.get_embedding_dimension()
        self._batches: dict[int, int] = {}
        self._components: dict[str, Tensor] = {}
        self._noted: dict[str, Tensor] = {}
        self._tracker(self.dimensions)  # refuses a method that is not for training
        if not any(self.weights[name] * self.schedule(name, 0) for name in self.precisions):
            raise InputError("no precision counts at step 0; let one of them, e.g. float32, start at once")
        cached = cached_loss(loss)
        self.uses_gradient_cache = cached is not None
        if cached is not None:
            self._wrapped_calculation = cached.calculate_loss
            # Looked up at each call: a MatryoshkaLoss around this loss replaces `calculate_loss` here.
            cached.calculate_loss = lambda *args, **options: self.calculate_loss(*args, **options)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> Tensor | dict[str, Tensor]:
        features = list(sentence_features)
        if "calculate_loss" in vars(self):  # MatryoshkaLoss's, which calls the one here for each prefix
            return self.loss(features, labels)
        losses = self._forward_cached(features, labels) if self.uses_gradient_cache else self._forward(features, labels)
        # A forward that is no method of the model's is another loss's, which expects one tensor.
        if inspect.ismethod(self.model.forward):
            return losses
        self._note(losses)
        return torch.stack(list(losses.values())).sum()

    def calculate_loss(self, reps: list[list[Tensor]], *args: Any, with_backward: bool = False) -> Tensor:
        """What the wrapped Cached loss calls instead of its own: sums its loss over precisions.

        `reps` are embeddings by column and mini-batch. With `with_backward` the gradient is left in them, as the
        wrapped loss does.
        """
        options = {"with_backward": True} if with_backward else {}
        active, scale = self._begin(reps[0][0].shape[1], [torch.cat(column).detach() for column in reps], with_backward)
        components = {}
        for precision, weight in active.items():
            quantized = [
                [self._quantized(rep, place, scale, precision) for rep in column] for place, column in enumerate(reps)
            ]
            leaves = [[rep.detach().requires_grad_(with_backward) for rep in column] for column in quantized]
            components[precision] = weight * self._wrapped_calculation(leaves, *args, **options).detach()
            if with_backward:
                pass_on(quantized, leaves, weight)
        self._components = components
        if "calculate_loss" in vars(self):
            self._note(components)
        return torch.stack(list(components.values())).sum()

    def take_noted(self) -> dict[str, float]:
        """The losses of each precision, summed since this was last asked, where only their sum went to the trainer."""
        noted, self._noted = self._noted, {}
        return {name: value.item() for name, value in noted.items()}

    def freeze(self) -> None:
        """Holds the ranges as they are for the rest of the training: what is trained last is what is stored."""
        self.frozen = True

    def to_calibration(self, dimensions: int | None = None) -> Calibration:
        """The calibration of the ranges as they stand; `dimensions` for a prefix that MatryoshkaLoss trained.

        Raises InputError when none of that length has been trained on.
        """
        wanted = dimensions or self.dimensions
        if self.fixed is not None and wanted == self.fixed.dimensions:
            return self.fixed
        if wanted not in self.ranges or not self.ranges[wanted].batches:
            raise InputError(f"no embeddings of {wanted} dimensions have been trained on")
        return of_prefix(self.ranges[wanted].calibration(), self.dimensions)

    def save_calibrations(self, folder: str | Path) -> None:
        """Writes the calibrations as they stand into the folder that the model is saved in, for `qvec ingest` to find.

        That of whole embeddings is qvec.safetensors, that of a Matryoshka prefix qvec-LENGTH.safetensors.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        trained = [width for width, ranges in self.ranges.items() if ranges.batches]
        for width in [self.fixed.dimensions] if self.fixed else trained:
            save_calibration(self.to_calibration(width), Path(folder))

    def get_config_dict(self) -> dict[str, Any]:
        """What a model card says of the loss."""
        return {
            "loss": type(self.loss).__name__,
            "precisions": self.precisions,
            "weights": tuple(self.weights.values()),
            "asymmetric": self.asymmetric,
            "ranges": f"calibration {self.fixed.id}" if self.fixed else dict(self.method.parameters()),
        }

    def _forward(self, features: list[Features], labels: Tensor | None) -> dict[str, Tensor]:
        outputs = embedded_once(self.model, features)
        embeddings = [output["sentence_embedding"] for output in outputs]
        active, scale = self._begin(embeddings[0].shape[1], embeddings, self.training and torch.is_grad_enabled())
        losses = {}
        for precision, weight in active.items():
            quantized = [
                {**output, "sentence_embedding": self._quantized(rep, place, scale, precision)}
                for place, (output, rep) in enumerate(zip(outputs, embeddings, strict=True))
            ]
            with served(self.model, features, quantized, self.loss):
                losses[precision] = weight * _summed(self.loss(features, labels))
        return losses

    def _forward_cached(self, features: list[Features], labels: Tensor | None) -> dict[str, Tensor]:
        """The total has a hook that carries the gradient of all precisions; the first one's loss takes it along."""
        total = self.loss(features, labels)
        first, *others = self._components
        carrier = total - total.detach() + self._components[first]
        return {first: carrier, **{name: self._components[name] for name in others}}

    def _note(self, losses: Mapping[str, Tensor]) -> None:
        trains = self.training and torch.is_grad_enabled()  # the trainer sets the model to evaluate, not its losses
        for name, value in losses.items() if trains else ():
            self._noted[name] = self._noted.get(name, 0) + value.detach()

    def _begin(self, width: int, columns: list[Tensor], training: bool) -> tuple[dict[str, float], Scale]:
        """The precisions that count for a batch with their weights, and the scale; in training the ranges move on."""
        step = self._batches.get(width, 0) if self.step is None else self.step
        tracked = columns[1:] if self.asymmetric and len(columns) > 1 else columns
        scale = self._scale(width, torch.cat(tracked).detach(), training)
        if training:
            self._batches[width] = self._batches.get(width, 0) + 1
        shares = {name: self.weights[name] * self.schedule(name, step) for name in self.precisions}
        return {name: share for name, share in shares.items() if share}, scale

    def _scale(self, width: int, rows: Tensor, training: bool) -> Scale:
        if self.fixed is not None:
            if width < self.fixed.dimensions:
                raise InputError(f"calibration {self.fixed.id} has {self.fixed.dimensions} dimensions, not {width}")
            return Scale.of(self.fixed, rows.device)
        ranges = self._tracker(width)
        if training and not self.frozen:
            ranges.update(rows)
        return Scale.of(ranges.scale(rows, frozen=self.frozen), rows.device)

    def _tracker(self, width: int) -> TrainingRanges:
        if width not in self.ranges:
            self.ranges[width] = TrainingRanges(self.method, self.threshold, self.metric)
        return self.ranges[width]

    def _quantized(self, embeddings: Tensor, place: int, scale: Scale, precision: str) -> Tensor:
        """A copy of its own for every precision: no loss that changes what it is given reaches another's.

        By a calibration for fewer dimensions every precision is cut, float32 and queries too.
        """
        query = self.asymmetric and place == 0
        if embeddings.shape[1] > len(scale.threshold):
            embeddings = prepared(embeddings, scale)
        return quantize_ste(embeddings, scale, "float32" if query else precision)


def metric_of(model: Any) -> Metric:
    """The metric of a calibration for a model: ip for one that compares by dot product, cosine for any other."""
    return "ip" if model.similarity_fn_name == "dot" else "cosine"


def _summed(loss: Tensor | dict[str, Tensor]) -> Tensor:
    """One number where a loss gives its parts, as the trainer adds them up."""
    return torch.stack(list(loss.values())).sum() if isinstance(loss, dict) else loss


def _checked_precisions(precisions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(precisions, str) or not precisions or len(set(precisions)) != len(precisions):
        raise InputError(f"precisions are {precisions!r}, expected different ones in a tuple, e.g. ('float32', 'int8')")
    for precision in precisions:
        quantizable(precision)
    return tuple(precisions)


def _weights(precisions: tuple[str, ...], weights: Sequence[float] | Mapping[str, float] | None) -> dict[str, float]:
    """A weight for each precision, by name."""
    if weights is None:
        return dict.fromkeys(precisions, 1.0)
    by_name = dict(weights) if isinstance(weights, Mapping) else dict(zip(precisions, weights, strict=False))
    if set(by_name) != set(precisions) or len(weights) != len(precisions):
        raise InputError(f"weights are {weights!r}, expected one for each of {', '.join(precisions)}")
    if any(not 0 <= weight < float("inf") for weight in by_name.values()):
        raise InputError(f"weights are {weights!r}, expected finite numbers of at least 0")
    return {name: float(by_name[name]) for name in precisions}
