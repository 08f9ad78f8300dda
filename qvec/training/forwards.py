"""One forward pass for many losses: what a model gave for its inputs is served again, quantized each time anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from torch import Tensor, nn

from qvec.errors import InputError

Features = dict[str, Any]


def embedded_once(model: Any, features: list[Features]) -> list[Features]:
    """What the model gives for each column, in dicts of their own: a model may answer with the dict it was given."""
    return [dict(model(column)) for column in features]


@contextmanager
def served(model: Any, features: list[Features], outputs: list[Features], loss: nn.Module) -> Iterator[None]:
    """While this lasts, the model answers each column of `features` with its entry of `outputs`.

    Columns are known by identity, so losses may not merge them; embedding is done, so nothing is lost by it.
    """
    by_column = {id(column): output for column, output in zip(features, outputs, strict=True)}

    def serve(column: Features, **_options: Any) -> Features:
        if id(column) not in by_column:
            raise InputError(
                f"{type(loss).__name__} embeds inputs of its own making, so its embeddings cannot be quantized; "
                "wrap a loss that embeds its columns as they are"
            )
        return dict(by_column[id(column)])

    own = vars(model).get("forward")
    model.forward = serve
    try:
        with column_merging_disabled():
            yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


def cached_loss(loss: nn.Module) -> Any:
    """The loss with gradient caching in `loss` or under its wrappers; None where there is none."""
    inner: Any = loss
    while isinstance(getattr(inner, "loss", None), nn.Module) and not _calculates(inner):
        inner = inner.loss
    return inner if getattr(inner, "uses_gradient_cache", False) else None


def check_wrapped(model: Any, loss: nn.Module) -> None:
    """Raises InputError for a loss that is not over the model, or that embeds by layers."""
    modules = list(loss.modules())
    if not any(module is model for module in modules):
        raise InputError(f"{type(loss).__name__} is not a loss over the model given, so there is nothing to quantize")
    if any(type(module).__name__ in ("AdaptiveLayerLoss", "Matryoshka2dLoss") for module in modules):
        raise InputError("AdaptiveLayerLoss embeds by layers inside; put it around QuantizationAwareLoss instead")


def pass_on(quantized: list[list[Tensor]], leaves: list[list[Tensor]], weight: float) -> None:
    """Takes the gradients of leaves that a loss was computed on, by weight, back to what was quantized."""
    for column, copies in zip(quantized, leaves, strict=True):
        for rep, leaf in zip(column, copies, strict=True):
            if leaf.grad is not None:
                rep.backward(weight * leaf.grad)


def _calculates(loss: Any) -> bool:
    """MatryoshkaLoss too says that it uses a gradient cache, but the calculation is its wrapped loss's."""
    return hasattr(loss, "calculate_loss") and hasattr(loss, "embed_minibatch_iter")
