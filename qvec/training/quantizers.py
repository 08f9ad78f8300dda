"""qvec's quantizers in torch: the same codes, bit for bit, as `qvec.quantize` and `qvec.ternary` in numpy.

Every step is one float32 operation, as there, so the result does not depend on how a device fuses operations or orders
sums. Tests verify this on the CPU, and on CUDA where a device is available.
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
_MIN_RADIUS = 2.0**-120
"""As in the native quantizer: below it 128 / radius could overflow."""


class Scale(NamedTuple):
    """The parameters of quantization as in a `Calibration`: float32 tensors of shape (d,), and the metric."""

    threshold: Tensor
    radius: Tensor
    deviation: Tensor
    metric: Metric = "cosine"

    @classmethod
    def of(cls, calibration: Calibration | Scale, device: Any = None) -> Scale:
        """Return the scale of a calibration, or a scale itself, on a device."""
        if isinstance(calibration, Scale):
            arrays: tuple[Any, ...] = calibration[:3]
        else:
            arrays = calibration.threshold.copy(), calibration.radius.copy(), calibration.deviation.copy()
        threshold, radius, deviation = (torch.as_tensor(array, dtype=torch.float32, device=device) for array in arrays)
        return cls(threshold, radius, deviation, calibration.metric)


def quantize_embeddings(embeddings: Tensor, calibration: Calibration | Scale, precision: str = "int8") -> Tensor:
    """Quantize embeddings (n, D) to the codes that qvec stores: uint8 (n, bytes), equal to `qvec.quantize`'s.

    int8, int4 and binary are 8, 4 and 1 planes of ceil(d / 8) bytes; ternary is the two planes of `qvec.ternary`.
    Raise InputError for float32, which has no codes, for embeddings with fewer dimensions than the calibration, and
    for NaN or infinity.
    """
    scale = Scale.of(calibration, embeddings.device)
    if not embeddings.isfinite().all():
        raise InputError("embeddings hold NaN or infinity")
    codes = _quantize(prepare(embeddings, scale), scale)
    if precision == "ternary":
        bits = [codes >= 144, codes >= 112]
    else:
        bits = [(codes >> (7 - plane)) & 1 for plane in range(_planes(precision))]
    return torch.cat([_pack(bit.to(torch.uint8)) for bit in bits], dim=1)


def dequantize_embeddings(codes: Tensor, calibration: Calibration | Scale, precision: str = "int8") -> Tensor:
    """Decode codes to embeddings, float32 (n, d), equal to `qvec.dequantize`'s.

    Ternary codes, which qvec itself only compares by Hamming distance, decode to threshold + level * radius / 4, level
    -1, 0 or 1: a uniform quantizer with their borders, threshold - radius / 8 and threshold + radius / 8.
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
    # Of ternary codes the two bits are [code >= 144] and [code >= 112], so any code with those bits decodes the same.
    weights = (144 - 112, 112) if precision == "ternary" else [128 >> plane for plane in range(count)]
    planes = (unpack_bits(part)[:, :dimensions] for part in codes.split(width, dim=1))
    restored = sum(weight * plane for weight, plane in zip(weights, planes, strict=True))
    return _decode(restored, scale, precision)


def quantize_ste(embeddings: Tensor, calibration: Calibration | Scale, precision: str = "int8") -> Tensor:
    """Quantize and decode embeddings, float32 (n, d), with a straight-through gradient.

    The value equals `dequantize_embeddings(quantize_embeddings(...))`. The gradient is that of the embeddings after
    they are cut to the calibration's dimensions and, under cosine, normalized (straight-through estimator, Bengio,
    Léonard and Courville 2013). For float32, return a copy of the embeddings unchanged.
    """
    if precision == "float32":
        return embeddings.clone()
    scale = Scale.of(calibration, embeddings.device)
    quantized: Tensor = _StraightThrough.apply(prepare(embeddings, scale), scale, precision)
    return quantized


def prepare(embeddings: Tensor, scale: Scale) -> Tensor:
    """Convert embeddings (n, D) to float32, cut them to the scale's dimensions and, under cosine, normalize them."""
    dimensions = len(scale.threshold)
    if embeddings.ndim != 2 or embeddings.shape[1] < dimensions:
        raise InputError(f"embeddings: shape {tuple(embeddings.shape)} found, (n, {dimensions} or more) wanted")
    rows = embeddings[:, :dimensions].to(torch.float32)
    return unit_rows(rows) if scale.metric == "cosine" else rows


def unit_rows(rows: Tensor) -> Tensor:
    """Divide rows (n, d) by their norm, except those that have unit length already."""
    squared = _squared_norms(rows.double()).unsqueeze(1)
    divisor = torch.where(squared > 0, squared, 1.0).sqrt()  # a row of zeros stays zero, with a finite gradient
    unit = (rows.double() / divisor).to(torch.float32)
    return torch.where((squared - 1).abs() <= UNIT_LENGTH_TOLERANCE, rows, unit)


def check_precision(precision: str) -> None:
    """Raise InputError unless `precision` is one of PRECISIONS."""
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is unknown; known: {', '.join(PRECISIONS)}")


class _StraightThrough(torch.autograd.Function):  # type: ignore[misc]
    """Straight-through estimator. x + (quantized - x).detach() would round away from the quantized value."""

    @staticmethod
    def forward(_context: Any, rows: Tensor, scale: Scale, precision: str) -> Tensor:
        decoded = _decode(_quantize(rows, scale), scale, precision)
        return torch.where(rows.isfinite(), decoded, rows)  # keep NaN, so that a diverging training shows

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient, None, None


def _quantize(rows: Tensor, scale: Scale) -> Tensor:
    """One byte per dimension: clamp(127 + ceil((x - threshold) * (128 / radius)), 0, 255), > 127 if x > threshold."""
    steps = torch.ceil((rows - scale.threshold) * (128 / scale.radius.clamp_min(_MIN_RADIUS)))
    clamped = 127 + steps.clamp(-127, 128)
    return torch.where(rows > scale.threshold, clamped.clamp_min(128), clamped).to(torch.uint8)


def _decode(codes: Tensor, scale: Scale, precision: str) -> Tensor:
    if precision == "ternary":
        level = (codes >= 144).float() + (codes >= 112).float() - 1
        return scale.threshold + level * (scale.radius * 0.25)
    if precision == "binary":
        return torch.where(codes >= 128, scale.threshold + scale.deviation, scale.threshold - scale.deviation)
    planes = _planes(precision)
    level = (codes >> (8 - planes)).float() + (0.5 - 2 ** (planes - 1))
    return scale.threshold + level * (scale.radius / 2 ** (planes - 1))


def _planes(precision: str) -> int:
    check_precision(precision)
    if precision == "float32":
        raise InputError("precision is float32, which has no codes; expected one of int8, int4, ternary, binary")
    return PLANES.get(precision, _TERNARY_PLANES)


def _squared_norms(rows: Tensor) -> Tensor:
    """Sum squares (n,) in eight lanes, lane l over dimensions l, l + 8, ...; then add the lanes in order.

    This is the order of the native quantizer, on which a float64 sum depends.
    """
    squares = torch.nn.functional.pad(rows * rows, (0, -rows.shape[1] % 8))
    lanes = torch.zeros_like(squares[:, :8])
    for group in squares.split(8, dim=1):
        lanes = lanes + group
    total = torch.zeros_like(lanes[:, 0])
    for lane in lanes.unbind(1):
        total = total + lane
    return total


def _pack(bits: Tensor) -> Tensor:
    """Pack bits (n, d) into bytes (n, ceil(d / 8)), most significant bit first, padded with zeros."""
    groups = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
    return (groups * places).sum(dim=2, dtype=torch.uint8)


def unpack_bits(packed: Tensor) -> Tensor:
    """Unpack bytes (n, b) into zeros and ones, uint8 (n, 8 * b)."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return ((packed.unsqueeze(2) >> shifts) & 1).flatten(1)
