"""What embeddings that arrive quantized ask of a new collection, so that it keeps what they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from qvec.arrays import Vectors
from qvec.calibration import Calibration
from qvec.codecs import Codec
from qvec.errors import CalibrationError
from qvec.ingest.options import FitOptions
from qvec.ranges import RangeMethod


def fit_for(codec: Codec, fit: FitOptions) -> FitOptions:
    """The fit, its defaults those that suit the codec.

    Bits have been decided at zero. Integers get ranges that clip none of them: unless they span more than 8 bits, the
    steps are no wider than the integers' own, and different integers of a row have different codes.
    """
    default = FitOptions()
    if codec.bits and fit.threshold == default.threshold:
        return replace(fit, threshold=0.0)
    if codec.quantized and not codec.bits and fit.ranges == default.ranges:
        return replace(fit, ranges=RangeMethod("minmax"))
    return fit


def settings_for(codec: Codec) -> dict[str, Any]:
    """Settings of a new collection, where none are asked for: of bits there is nothing to keep but the bits."""
    return {"rescore": "binary"} if codec.bits else {}


def look_quantized(vectors: Vectors) -> bool:
    """Whether all values of some floats (n, d) are such as int8 or uint8 hold, as no model gives them."""
    if not vectors.size:
        return False
    low, high = vectors.min(), vectors.max()
    of_8_bits = -128 <= low <= high <= 127 or 0 <= low <= high <= 255
    return of_8_bits and bool((vectors == np.rint(vectors)).all())


def check_threshold(calibration: Calibration, codec: Codec, name: str) -> None:
    """Refuses bits where they would be compared with a threshold other than their own."""
    if codec.bits and calibration.threshold.any():
        raise CalibrationError(
            f"{name} holds bits ({codec.name}), which were decided at 0, but calibration {calibration.id} has another "
            "threshold; load into a new collection, without a calibration or with one fitted with --threshold zero"
        )
