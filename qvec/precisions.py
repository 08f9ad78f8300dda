"""Precisions: the bits per dimension of every prefilter and rescoring precision, and the bytes of a vector."""

from __future__ import annotations

from qvec.codes import PLANES
from qvec.prefilter_levels import LEVELS

PREFILTER_BITS: dict[str, float] = {
    **{name: levels - 1 for name, levels in LEVELS.items()},
    "binary1.5": 1.5,
    "binary2": 2,
    "turbo1": 1,
    "turbo1.5": 1.5,
    "turbo2": 2,
    "turbo4": 4,
}
"""Bits per dimension that a prefilter compares; learned bits are counted by their calibration."""
RESCORE_BITS: dict[str, int] = {**PLANES, "float16": 16, "float32": 32, "turbo16": 16, "turbo8": 8}
"""Bits per dimension that rescoring reads."""


def code_table_bytes(dimensions: int, prefilter: str, rescore: str, learned_bits: int = 0) -> int:
    """Return the bytes of vector data in a table of codes (Postgres) and its index.

    The table holds the codes or floats of `rescore`; the bits of `prefilter` are in the index and, unless they are a
    prefix of the codes, in the table as well. Any other name, such as "none", stands for no such step.
    """
    width = -(-dimensions // 8)
    bits = learned_bits // 8 if prefilter == "learned" else int(PREFILTER_BITS.get(prefilter, 0)) * width
    if rescore in PLANES:
        return PLANES[rescore] * width + (2 * bits if prefilter == "learned" else bits)
    floats = RESCORE_BITS.get(rescore, 0) // 8 * dimensions
    return floats + (2 * bits if floats else bits)


def engine_bytes(dimensions: int, prefilter: str, rescore: str) -> float:
    """Return the bytes of vector data that an engine with its own quantization (Qdrant) stores and keeps in memory.

    It stores signs (`rescore` "binary") as float16. Any other name, such as "none", stands for no such step.
    """
    stored = 16 if rescore == "binary" else RESCORE_BITS.get(rescore, 0)
    return dimensions * (stored + PREFILTER_BITS.get(prefilter, 0)) / 8
