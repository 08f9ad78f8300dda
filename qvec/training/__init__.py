"""Quantization-aware training of sentence-transformers models, and learned prefilter bits.

The names exported here need torch and sentence-transformers (the extra `models`), which are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qvec.errors import MissingExtraError

if TYPE_CHECKING:
    from qvec.training.callback import QuantizationCallback
    from qvec.training.evaluators import (
        QuantizedInformationRetrievalEvaluator,
        QuantizedNanoBEIREvaluator,
        QuantizedSimilarityEvaluator,
        QuantizedTripletEvaluator,
    )
    from qvec.training.loss import QuantizationAwareLoss, constant, linear, staged
    from qvec.training.quantizers import Scale, dequantize_embeddings, quantize_embeddings, quantize_ste
    from qvec.training.run import train
    from qvec.training.train_options import TrainOptions

_EXPORTS = {
    "callback": ("QuantizationCallback",),
    "evaluators": (
        "QuantizedInformationRetrievalEvaluator",
        "QuantizedNanoBEIREvaluator",
        "QuantizedSimilarityEvaluator",
        "QuantizedTripletEvaluator",
    ),
    "loss": ("QuantizationAwareLoss", "constant", "linear", "staged"),
    "train_options": ("TrainOptions",),
    "quantizers": ("Scale", "dequantize_embeddings", "quantize_embeddings", "quantize_ste"),
    "run": ("train",),
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "QuantizationAwareLoss",
    "QuantizationCallback",
    "QuantizedInformationRetrievalEvaluator",
    "QuantizedNanoBEIREvaluator",
    "QuantizedSimilarityEvaluator",
    "QuantizedTripletEvaluator",
    "Scale",
    "TrainOptions",
    "constant",
    "dequantize_embeddings",
    "linear",
    "quantize_embeddings",
    "quantize_ste",
    "staged",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use. Raise MissingExtraError if torch or another package is not installed."""
    if name not in _MODULES:
        raise AttributeError(f"module 'qvec.training' has no attribute {name!r}")
    try:
        return getattr(import_module(f"qvec.training.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "sentence_transformers", "transformers", "datasets", "accelerate"):
            raise
        raise MissingExtraError(error.name.replace("_", "-"), "models") from error


def __dir__() -> list[str]:
    return sorted(__all__)
