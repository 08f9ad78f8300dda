"""qvec's quantizers in torch: the same codes, bit for bit, as `qvec.quantize` and `qvec.ternary` give in numpy.

Every step is one float32 operation, as there, so nothing depends on how a device fuses or orders sums. Tests
hold it to that on a CPU, and on CUDA where there is a device.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qvec.calibration import UNIT_LENGTH_TOLERANCE, Calibration, Metric
from qvec.codes import PLANES
from qvec.errors import InputError

PRECISIONS = ("float32", "int8", "int4", "ternary", "binary")
_TERNARY_PLANES = 4
# As in the native quantizer: below it the quotient 128 / radius could overflow.
_LEAST_RADIUS = 2.0**-120


class Scale(NamedTuple):
    """What quantizes: float32 tensors of shape (d,), as in a `Calibration`, and the metric that it is for."""

    threshold: Tensor
    radius: Tensor
    deviation: Tensor
    metric: Metric = "cosine"

    @classmethod
    def of(cls, calibration: Calibration | Scale, device: Any = None) -> Scale:
        """The scale of a calibration, or the scale itself, on a device."""
        if isinstance(calibration, Scale):
            arrays: tuple[Any, ...] = calibration[:3]
        else:
            arrays = calibration.threshold.copy(), calibration.radius.copy(), calibration.deviation.copy()
        threshold, radius, deviation = (torch.as_tensor(array, dtype=torch.float32, device=device) for array in arrays)
        return cls(threshold, radius, deviation, calibration.metric)


def quantize_embeddings(embeddings: Tensor, calibration: Calibration | Scale, precision: str = "int8") -> Tensor:
    """The codes that qvec stores of embeddings (n, D): uint8 (n, bytes), equal to `qvec.quantize`'s.

    int8, int4 and binary are 8, 4 and 1 planes of ceil(d / 8) bytes; ternary is the two planes of `qvec.ternary`.
    Raises InputError for float32, which has no codes, for embeddings of fewer dimensions than the calibration, and for
    ones that hold NaN or an infinity.
    """
    scale = Scale.of(calibration, embeddings.device)
    if not embeddings.isfinite().all():
        raise InputError("embeddings hold NaN or infinity")
    codes = _codes(prepared(embeddings, scale), scale)
    if precision == "ternary":
        bits = [codes >= 144, codes >= 112]
    else:
        bits = [(codes >> (7 - plane)) & 1 for plane in range(_planes(precision))]
    return torch.cat([_packed(bit.to(torch.uint8)) for bit in bits], dim=1)


def dequantize_embeddings(codes: Tensor, calibration: Calibration | Scale, precision: str = "int8") -> Tensor:
    """The embeddings that codes stand for, float32 (n, d): equal to `qvec.dequantize`'s.

    Ternary, which qvec only compares by Hamming distance, stands for threshold + level * radius / 4: the levels of a
    uniform quantizer whose borders are its own, threshold - radius / 8 and threshold + radius / 8.
    """
    scale = Scale.of(calibration, codes.device)
    dimensions = len(scale.threshold)
    count = 2 if precision == "ternary" else _planes(precision)
    width = -(-dimensions // 8)
    if codes.dtype != torch.uint8 or codes.ndim != 2 or codes.shape[1] != count * width:
        raise InputError(
            f"codes: {codes.dtype} of shape {tuple(codes.shape)} found, uint8 of shape (n, {count * width}) wanted for "
            f"{precision} of {dimensions} dimensions"
        )
    planes = [_unpacked(part, dimensions) for part in codes.split(width, dim=1)]
    if precision == "ternary":
        return scale.threshold + (planes[0].float() + planes[1].float() - 1) * (scale.radius * 0.25)
    whole = torch.zeros_like(planes[0])
    for plane, bits in enumerate(planes):
        whole |= bits << (7 - plane)
    return _decoded(whole, scale, precision)


def quantize_ste(embeddings: Tensor, calibration: Calibration | Scale, precision: str = "int8") -> Tensor:
    """Embeddings as they come back from their codes, float32 (n, d), with the gradient passed straight through.

    The value is exactly `dequantize_embeddings(quantize_embeddings(...))`. The gradient is that of the embeddings as
    they are compared: cut to the calibration's dimensions and, under cosine, normalized (straight-through estimator,
    Bengio, Léonard and Courville 2013). float32 gives a copy of the embeddings as they came.
    """
    if precision == "float32":
        return embeddings.clone()
    scale = Scale.of(calibration, embeddings.device)
    quantized: Tensor = _StraightThrough.apply(prepared(embeddings, scale), scale, precision)
    return quantized


def prepared(embeddings: Tensor, scale: Scale) -> Tensor:
    """Embeddings as they are compared: float32, cut to the scale's dimensions, at unit length under cosine."""
    dimensions = len(scale.threshold)
    if embeddings.ndim != 2 or embeddings.shape[1] < dimensions:
        raise InputError(f"embeddings: shape {tuple(embeddings.shape)} found, (n, {dimensions} or more) wanted")
    rows = embeddings[:, :dimensions].to(torch.float32)
    return unit_rows(rows) if scale.metric == "cosine" else rows


def unit_rows(rows: Tensor) -> Tensor:
    """Rows divided by their norm, where that is not 1 already."""
    squared = _squared_norms(rows.double()).unsqueeze(1)
    divisor = torch.where(squared > 0, squared, 1.0).sqrt()  # a row of zeros stays one, and its gradient finite
    unit = (rows.double() / divisor).to(torch.float32)
    return torch.where((squared - 1).abs() <= UNIT_LENGTH_TOLERANCE, rows, unit)


def quantizable(precision: str) -> bool:
    """Whether a precision has codes. Raises InputError for one that is unknown."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; known: {', '.join(PRECISIONS)}")
    return precision != "float32"


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc]
    """A function, as x + (quantized - x).detach() would round the value away from the quantized one."""

    @staticmethod
    def forward(_context: Any, rows: Tensor, scale: Scale, precision: str) -> Tensor:
        decoded = _decoded(_codes(rows, scale), scale, precision)
        return torch.where(rows.isfinite(), decoded, rows)  # a training that diverges shows it

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def _codes(rows: Tensor, scale: Scale) -> Tensor:
    """One byte a dimension: clamp(127 + ceil((x - threshold) * (128 / radius)), 0, 255), above 127 if x > threshold."""
    steps = torch.ceil((rows - scale.threshold) * (128 / scale.radius.clamp_min(_LEAST_RADIUS)))
    clamped = 127 + steps.clamp(-127, 128)
    return torch.where(rows > scale.threshold, clamped.clamp_min(128), clamped).to(torch.uint8)


def _decoded(codes: Tensor, scale: Scale, precision: str) -> Tensor:
    if precision == "ternary":
        level = (codes >= 144).float() + (codes >= 112).float() - 1
        return scale.threshold + level * (scale.radius * 0.25)
    if precision == "binary":
        return torch.where(codes >= 128, scale.threshold + scale.deviation, scale.threshold - scale.deviation)
    planes = _planes(precision)
    level = (codes >> (8 - planes)).float() + (0.5 - 2 ** (planes - 1))
    return scale.threshold + level * (scale.radius / 2 ** (planes - 1))


def _planes(precision: str) -> int:
    if not quantizable(precision):
        raise InputError("precision is float32, which has no codes; one of int8, int4, ternary, binary is wanted")
    return PLANES.get(precision, _TERNARY_PLANES)


def _squared_norms(rows: Tensor) -> Tensor:
    """Sums of squares (n,) in eight lanes, lane l taking dimensions l, l + 8, ...; then the lanes in order.

    The native quantizer adds in this order, and a float64 sum depends on it.
    """
    squares = torch.nn.functional.pad(rows * rows, (0, -rows.shape[1] % 8))
    lanes = torch.zeros_like(squares[:, :8])
    for group in squares.split(8, dim=1):
        lanes = lanes + group
    total = torch.zeros_like(lanes[:, 0])
    for lane in lanes.unbind(1):
        total = total + lane
    return total


def _packed(bits: Tensor) -> Tensor:
    """Bits (n, d) as bytes (n, ceil(d / 8)), most significant bit first, padded with zeros."""
    groups = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
    return (groups * places).sum(dim=2, dtype=torch.uint8)


def _unpacked(packed: Tensor, dimensions: int) -> Tensor:
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    bits = (packed.unsqueeze(2) >> shifts) & 1
    return bits.reshape(len(packed), packed.shape[1] * 8)[:, :dimensions]
