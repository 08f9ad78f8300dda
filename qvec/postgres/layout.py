"""What a collection's table holds, derived from its few settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qvec.errors import InputError

IdType = Literal["bigint", "text"]
Rescore = Literal["int8", "int4", "float16", "float32"]
Prefilter = Literal["ternary", "binary"]

_PLANES: dict[str, int] = {"int8": 8, "int4": 4}
_FLOAT_TYPES: dict[str, str] = {"float16": "halfvec", "float32": "vector"}


@dataclass(frozen=True)
class Layout:
    """The table of a collection.

    One that rescores by codes stores all their planes, and its prefilter reads them from there. One that rescores by
    floats stores only the prefilter's bits as codes, and the floats beside them.
    """

    dimensions: int
    id_type: IdType = "bigint"
    rescore: Rescore = "int8"
    prefilter: Prefilter = "ternary"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("id_type", self.id_type, get_args(IdType)),
            ("rescore", self.rescore, get_args(Rescore)),
            ("prefilter", self.prefilter, get_args(Prefilter)),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}, expected one of: {', '.join(known)}")

    @property
    def plane_bits(self) -> int:
        """Bits of one plane: dimensions rounded up to whole bytes."""
        return 8 * -(-self.dimensions // 8)

    @property
    def prefilter_bits(self) -> int:
        """Bits that the prefilter compares."""
        return (2 if self.prefilter == "ternary" else 1) * self.plane_bits

    @property
    def planes(self) -> int | None:
        """Planes that rescoring reads; None when it reads floats."""
        return _PLANES.get(self.rescore)

    @property
    def code_bits(self) -> int:
        """Bits of the codes column."""
        return self.plane_bits * self.planes if self.planes else self.prefilter_bits

    @property
    def float_type(self) -> str | None:
        """pgvector's type of the embedding column; None when the collection keeps no floats."""
        return _FLOAT_TYPES.get(self.rescore)
