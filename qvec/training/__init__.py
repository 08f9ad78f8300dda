"""Models trained for their codes: quantization-aware training with sentence-transformers.

Needs torch and sentence-transformers (the extra `models`); they are imported when a name is first asked for.
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
    from qvec.training.loss import QuantizationAwareLoss
    from qvec.training.options import TrainOptions
    from qvec.training.quantizers import Scale, dequantize_embeddings, quantize_embeddings, quantize_ste
    from qvec.training.run import train
    from qvec.training.schedules import constant, linear, staged

_HOMES = {
    "callback": ("QuantizationCallback",),
    "evaluators": (
        "QuantizedInformationRetrievalEvaluator",
        "QuantizedNanoBEIREvaluator",
        "QuantizedSimilarityEvaluator",
        "QuantizedTripletEvaluator",
    ),
    "loss": ("QuantizationAwareLoss",),
    "quantizers": ("Scale", "dequantize_embeddings", "quantize_embeddings", "quantize_ste"),
    "schedules": ("constant", "linear", "staged"),
    "options": ("TrainOptions",),
    "run": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

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
    """Imports a public name when it is first asked for. MissingExtraError where torch or another package is missing."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qvec.training' has no attribute {name!r}")
    try:
        return getattr(import_module(f"qvec.training.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "sentence_transformers", "transformers", "datasets", "accelerate"):
            raise
        raise MissingExtraError(error.name.replace("_", "-"), "models") from error


def __dir__() -> list[str]:
    return sorted(__all__)
