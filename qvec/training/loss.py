"""Quantization-aware training: a loss on quantized embeddings that wraps any loss of sentence-transformers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from torch import Tensor, nn

from qvec.calibration import Calibration, Metric
from qvec.errors import InputError
from qvec.model_folder import save_calibration
from qvec.ranges import RangeMethod
from qvec.training.quantizers import Scale, check_precision, prepare, quantize_ste
from qvec.training.range_tracker import RangeTracker

Features = dict[str, Any]
"""A tokenized column of texts, or what the model returns for it."""

Schedule = Callable[[str, int], float]
"""Maps a precision and a step (from 0) to the share, 0 to 1, of the precision's weight that applies at that step."""

PUBLISHED_STARTS: Mapping[str, int] = {"float32": 0, "int8": 200, "binary": 1_800}
"""First steps of the staged warm-up with the best published binary result, used with the weights 1, 1 and 0.5."""


def constant() -> Schedule:
    """Train every precision with its full weight from the first step."""
    return lambda _precision, _step: 1.0


def linear(steps: int) -> Schedule:
    """Train float32 with its full weight; raise the weights of the others from 0 at step 0 to full at step `steps`."""
    if steps < 1:
        raise InputError(f"steps is {steps}, expected at least 1")
    return lambda precision, step: 1.0 if precision == "float32" else min(1.0, step / steps)


def staged(starts: Mapping[str, int] = PUBLISHED_STARTS) -> Schedule:
    """Train each precision from its start step; one that `starts` does not name, from the first step.

    Raise InputError for an unknown precision or a negative step.
    """
    for precision, start in starts.items():
        check_precision(precision)
        if start < 0:
            raise InputError(f"the start of {precision} is {start}, expected at least 0")
    return lambda precision, step: float(step >= starts.get(precision, 0))


class QuantizationAwareLoss(nn.Module):  # type: ignore[misc]
    """Sums a loss over precisions, each computed on quantized and decoded embeddings.

    `loss` is any loss of sentence-transformers over `model` whose columns are texts: in-batch negatives, triplets,
    scored pairs, the Cached losses with gradient caching, and `MatryoshkaLoss`. Texts are embedded once for all
    precisions, and gradients pass straight through the quantizer. Around a `MatryoshkaLoss`, whole embeddings are
    quantized and then cut. Inside one, each prefix is cut, normalized and quantized with its own ranges, like a
    calibration for fewer dimensions does.

    precisions: of float32, int8, int4, ternary, binary. weights: one for each (default 1). schedule: the share of its
    weight that a precision has at each step (default: all). asymmetric: do not quantize the first column, the query.
    calibration: a fixed `Calibration`, to whose dimensions all embeddings are cut, or the `RangeMethod` (rolling, the
    default, minmax or fixed) by which ranges are tracked during training; `threshold` is the share of the mean that is
    subtracted, 0 for models trained for sign bits.

    A step is a batch, unless a `QuantizationCallback` passes on the trainer's steps. In distributed training each
    process tracks its own batches, and the ranges of the first process are stored.

    The forward pass returns a dict with the weighted loss of each active precision, which the trainer logs separately
    and sums. Inside another loss (MatryoshkaLoss) it returns their sum, and a `QuantizationCallback` logs the parts.
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
        _check_wrapped_loss(model, loss)
        self.model = model
        self.loss = loss
        self.precisions = _checked_precisions(precisions)
        self.weights = _weights_by_precision(self.precisions, weights)
        self.schedule = schedule or constant()
        self.asymmetric = asymmetric
        self.fixed = calibration if isinstance(calibration, Calibration) else None
        self.method = calibration if isinstance(calibration, RangeMethod) else RangeMethod("rolling")
        self.threshold = threshold
        self.metric: Metric = "ip" if model.similarity_fn_name == "dot" else "cosine"
        self.ranges: dict[int, RangeTracker] = {}
        """The tracker of each length of embeddings."""
        self.frozen = False
        self.step: int | None = None
        """The trainer's step; None: count batches."""
        self.dimensions: int = model.get_embedding_dimension()
        self._batches: dict[int, int] = {}
        self._components: dict[str, Tensor] = {}
        self._unlogged: dict[str, Tensor] = {}
        self.tracker(self.dimensions)  # raises for a method that does not work in training
        if not any(self.weights[name] * self.schedule(name, 0) for name in self.precisions):
            raise InputError("no precision has a weight at step 0; let one of them, e.g. float32, start at once")
        cached = _find_cached_loss(loss)
        self.uses_gradient_cache = cached is not None
        if cached is not None:
            self._wrapped_calculation = cached.calculate_loss
            # Looked up at each call, because a MatryoshkaLoss around this loss replaces `calculate_loss` here.
            cached.calculate_loss = lambda *args, **options: self.calculate_loss(*args, **options)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> Tensor | dict[str, Tensor]:
        features = list(sentence_features)
        if "calculate_loss" in vars(self):  # set by a MatryoshkaLoss; it calls the method below for each prefix
            return self.loss(features, labels)
        losses = self._forward_cached(features, labels) if self.uses_gradient_cache else self._forward(features, labels)
        # If another loss has replaced the model's forward, it expects a single tensor.
        if inspect.ismethod(self.model.forward):
            return losses
        self._note(losses)
        return torch.stack(list(losses.values())).sum()

    def calculate_loss(self, reps: list[list[Tensor]], *args: Any, with_backward: bool = False) -> Tensor:
        """Replace the wrapped Cached loss's method of this name: sum its loss over precisions.

        `reps` are embeddings by column and mini-batch. With `with_backward`, leave the gradient in them, as the wrapped
        loss does.
        """
        options = {"with_backward": True} if with_backward else {}
        active, scale = self._begin(reps[0][0].shape[1], [torch.cat(column).detach() for column in reps], with_backward)
        components = {}
        for precision, weight in active.items():
            quantized = [
                [self._quantize(rep, place, scale, precision) for rep in column] for place, column in enumerate(reps)
            ]
            leaves = [[rep.detach().requires_grad_(with_backward) for rep in column] for column in quantized]
            components[precision] = weight * self._wrapped_calculation(leaves, *args, **options).detach()
            if with_backward:
                _pass_gradients(quantized, leaves, weight)
        self._components = components
        if "calculate_loss" in vars(self):
            self._note(components)
        return torch.stack(list(components.values())).sum()

    def pop_unlogged(self) -> dict[str, float]:
        """Return and reset the losses by precision, summed over batches, of which the trainer got only the total."""
        unlogged, self._unlogged = self._unlogged, {}
        return {name: value.item() for name, value in unlogged.items()}

    def freeze(self) -> None:
        """Stop updating the ranges, so that the last steps train with the ranges that are stored."""
        self.frozen = True

    def tracker(self, width: int) -> RangeTracker:
        """Return the range tracker for embeddings of `width` dimensions, a new one on first use."""
        if width not in self.ranges:
            self.ranges[width] = RangeTracker(self.method, self.threshold, self.metric)
        return self.ranges[width]

    def to_calibration(self, dimensions: int | None = None) -> Calibration:
        """Return the calibration with the current ranges; `dimensions` selects a prefix trained by MatryoshkaLoss.

        Raise InputError if no embeddings of this length have been trained on.
        """
        wanted = dimensions or self.dimensions
        if self.fixed is not None and wanted == self.fixed.dimensions:
            return self.fixed
        if wanted not in self.ranges or not self.ranges[wanted].batches:
            raise InputError(f"no embeddings of {wanted} dimensions have been trained on")
        return self.ranges[wanted].calibration(self.dimensions)

    def save_calibrations(self, folder: str | Path) -> None:
        """Write the current calibrations into the model's folder, where `qvec ingest` finds them.

        qvec.safetensors is for whole embeddings, qvec-LENGTH.safetensors for a Matryoshka prefix.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        trained = [width for width, ranges in self.ranges.items() if ranges.batches]
        for width in [self.fixed.dimensions] if self.fixed else trained:
            save_calibration(self.to_calibration(width), Path(folder))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the parameters that sentence-transformers writes on the model card."""
        return {
            "loss": type(self.loss).__name__,
            "precisions": self.precisions,
            "weights": tuple(self.weights.values()),
            "asymmetric": self.asymmetric,
            "ranges": f"calibration {self.fixed.id}" if self.fixed else dict(self.method.parameters()),
        }

    def _forward(self, features: list[Features], labels: Tensor | None) -> dict[str, Tensor]:
        outputs = [dict(self.model(column)) for column in features]  # copies: a model may return its input dict
        embeddings = [output["sentence_embedding"] for output in outputs]
        active, scale = self._begin(embeddings[0].shape[1], embeddings, self.training and torch.is_grad_enabled())
        losses = {}
        for precision, weight in active.items():
            quantized = [
                {**output, "sentence_embedding": self._quantize(rep, place, scale, precision)}
                for place, (output, rep) in enumerate(zip(outputs, embeddings, strict=True))
            ]
            with _serve_outputs(self.model, features, quantized, self.loss):
                losses[precision] = weight * _total(self.loss(features, labels))
        return losses

    def _forward_cached(self, features: list[Features], labels: Tensor | None) -> dict[str, Tensor]:
        # A hook on the total carries the gradient of all precisions, so attach the total to the first one's loss.
        total = self.loss(features, labels)
        first, *others = self._components
        carrier = total - total.detach() + self._components[first]
        return {first: carrier, **{name: self._components[name] for name in others}}

    def _note(self, losses: Mapping[str, Tensor]) -> None:
        trains = self.training and torch.is_grad_enabled()  # the trainer puts only the model in evaluation mode
        for name, value in losses.items() if trains else ():
            self._unlogged[name] = self._unlogged.get(name, 0) + value.detach()

    def _begin(self, width: int, columns: list[Tensor], training: bool) -> tuple[dict[str, float], Scale]:
        """Return the active precisions of a batch with their weights, and its scale; in training, update the ranges."""
        step = self._batches.get(width, 0) if self.step is None else self.step
        tracked = columns[1:] if self.asymmetric and len(columns) > 1 else columns
        scale = self._scale(width, torch.cat(tracked).detach(), training)
        if training:
            self._batches[width] = self._batches.get(width, 0) + 1
        weights = {name: self.weights[name] * self.schedule(name, step) for name in self.precisions}
        return {name: weight for name, weight in weights.items() if weight}, scale

    def _scale(self, width: int, rows: Tensor, training: bool) -> Scale:
        if self.fixed is not None:
            if width < self.fixed.dimensions:
                raise InputError(f"calibration {self.fixed.id} has {self.fixed.dimensions} dimensions, not {width}")
            return Scale.of(self.fixed, rows.device)
        ranges = self.tracker(width)
        if training and not self.frozen:
            ranges.update(rows)
        return Scale.of(ranges.scale(rows, frozen=self.frozen), rows.device)

    def _quantize(self, embeddings: Tensor, place: int, scale: Scale, precision: str) -> Tensor:
        """Return a new tensor for every precision, so that a loss that works in place does not affect the others.

        A calibration for fewer dimensions cuts the embeddings at every precision, float32 and queries included.
        """
        is_query = self.asymmetric and place == 0
        if embeddings.shape[1] > len(scale.threshold):
            embeddings = prepare(embeddings, scale)
        return quantize_ste(embeddings, scale, "float32" if is_query else precision)


@contextmanager
def _serve_outputs(model: Any, features: list[Features], outputs: list[Features], loss: nn.Module) -> Iterator[None]:
    """Within this context, let the model return for each column of `features` its entry of `outputs`.

    Columns are recognized by identity, so losses must not merge them (which only saves time when embedding).
    """
    by_column = {id(column): output for column, output in zip(features, outputs, strict=True)}

    def serve(column: Features, **_options: Any) -> Features:
        if id(column) not in by_column:
            raise InputError(
                f"{type(loss).__name__} embeds inputs that it makes itself, so their embeddings cannot be quantized; "
                "wrap a loss that embeds its columns unchanged"
            )
        return dict(by_column[id(column)])

    own_forward = vars(model).get("forward")
    model.forward = serve
    try:
        with column_merging_disabled():
            yield
    finally:
        if own_forward is None:
            del model.forward
        else:
            model.forward = own_forward


def _find_cached_loss(loss: nn.Module) -> Any:
    """Return the loss with gradient caching: `loss` or the one inside its wrappers; None if there is none."""
    inner: Any = loss
    # MatryoshkaLoss also has `uses_gradient_cache`, but the loss inside it does the calculation.
    while isinstance(getattr(inner, "loss", None), nn.Module) and not (
        hasattr(inner, "calculate_loss") and hasattr(inner, "embed_minibatch_iter")
    ):
        inner = inner.loss
    return inner if getattr(inner, "uses_gradient_cache", False) else None


def _check_wrapped_loss(model: Any, loss: nn.Module) -> None:
    modules = list(loss.modules())
    if not any(module is model for module in modules):
        raise InputError(f"{type(loss).__name__} is not a loss over the given model; construct it with that model")
    if any(type(module).__name__ in ("AdaptiveLayerLoss", "Matryoshka2dLoss") for module in modules):
        raise InputError("AdaptiveLayerLoss embeds layer by layer; put it around QuantizationAwareLoss instead")


def _pass_gradients(quantized: list[list[Tensor]], leaves: list[list[Tensor]], weight: float) -> None:
    for column, copies in zip(quantized, leaves, strict=True):
        for rep, leaf in zip(column, copies, strict=True):
            if leaf.grad is not None:
                rep.backward(weight * leaf.grad)


def _total(loss: Tensor | dict[str, Tensor]) -> Tensor:
    return torch.stack(list(loss.values())).sum() if isinstance(loss, dict) else loss


def _checked_precisions(precisions: Sequence[str]) -> tuple[str, ...]:
    if isinstance(precisions, str) or not precisions or len(set(precisions)) != len(precisions):
        raise InputError(
            f"precisions are {precisions!r}, expected a tuple without repetitions, e.g. ('float32', 'int8')"
        )
    for precision in precisions:
        check_precision(precision)
    return tuple(precisions)


def _weights_by_precision(
    precisions: tuple[str, ...], weights: Sequence[float] | Mapping[str, float] | None
) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(precisions, 1.0)
    by_name = dict(weights) if isinstance(weights, Mapping) else dict(zip(precisions, weights, strict=False))
    if set(by_name) != set(precisions) or len(weights) != len(precisions):
        raise InputError(f"weights are {weights!r}, expected one for each of {', '.join(precisions)}")
    if any(not 0 <= weight < float("inf") for weight in by_name.values()):
        raise InputError(f"weights are {weights!r}, expected finite numbers of at least 0")
    return {name: float(by_name[name]) for name in precisions}
