"""The table of a collection, derived from its few settings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from psycopg.sql import SQL, Composed, Identifier, Literal

from qvec.codes import PLANES
from qvec.errors import InputError
from qvec.postgres.options import IdType, Prefilter, Rescore
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS, level_planes

if TYPE_CHECKING:
    from typing_extensions import LiteralString

_FLOAT_TYPES: dict[str, str] = {"float16": "halfvec", "float32": "vector"}


def default_prefilter(rescore: Rescore, learned_bits: int | None) -> Prefilter:
    """Return the best prefilter for a precision and a calibration: "binary" where no other is possible.

    A collection that keeps fewer planes than levels are read from has the binary prefilter only.
    """
    if PLANES.get(rescore, 8) < level_planes(LEVELS[DEFAULT_PREFILTER]):
        return "binary"
    return "learned" if learned_bits else DEFAULT_PREFILTER


@dataclass(frozen=True)
class TableLayout:
    """The columns of a collection's table.

    A collection that rescores by codes stores all their planes, and its prefilter reads them from there; learned bits
    have a separate column. One that rescores by floats stores the floats, and only the prefilter's bits as codes.
    """

    dimensions: int
    id_type: IdType = "bigint"
    rescore: Rescore = "int8"
    prefilter: Prefilter = DEFAULT_PREFILTER
    learned_bits: int | None = None
    """The number that the calibration has."""

    @classmethod
    def of(
        cls,
        dimensions: int,
        id_type: IdType,
        rescore: Rescore,
        prefilter: Prefilter | None,
        learned_bits: int | None = None,
    ) -> TableLayout:
        """Return a layout; without `prefilter` with the one that is best for the precision and calibration."""
        return cls(dimensions, id_type, rescore, prefilter or default_prefilter(rescore, learned_bits), learned_bits)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("id_type", self.id_type, get_args(IdType)),
            ("rescore", self.rescore, get_args(Rescore)),
            ("prefilter", self.prefilter, get_args(Prefilter)),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}, expected one of: {', '.join(known)}")
        if self.prefilter != "binary" and default_prefilter(self.rescore, self.learned_bits) == "binary":
            kept = "one bit" if self.planes == 1 else f"{self.planes} bits"
            raise InputError(
                f"prefilter is {self.prefilter!r}, but rescore {self.rescore!r} keeps {kept}: expected 'binary'"
            )
        if self.prefilter == "learned" and not self.learned_bits:
            raise InputError(
                f"prefilter is 'learned', but the calibration has no learned bits: expected another, such as "
                f"{DEFAULT_PREFILTER!r}, or a calibration that qvec adapt made"
            )

    @property
    def plane_bits(self) -> int:
        """Bits of one plane: dimensions rounded up to whole bytes."""
        return 8 * -(-self.dimensions // 8)

    @property
    def prefilter_bits(self) -> int:
        """Bits of a row that the prefilter compares."""
        if self.prefilter == "learned":
            return self.learned_bits or 0
        assert self.levels
        return (self.levels - 1) * self.plane_bits

    @property
    def levels(self) -> int | None:
        """Levels of a dimension that the prefilter tells apart; None for learned bits."""
        return LEVELS.get(self.prefilter)

    @property
    def has_learned_column(self) -> bool:
        """Whether learned bits have a column beside the codes."""
        return self.prefilter == "learned" and self.planes is not None

    @property
    def planes(self) -> int | None:
        """Planes that rescoring reads; None where it reads floats."""
        return PLANES.get(self.rescore)

    @property
    def code_bits(self) -> int:
        """Bits of the codes column."""
        return self.plane_bits * self.planes if self.planes else self.prefilter_bits

    @property
    def code_bytes(self) -> int:
        """Approximate bytes of a row without floats and texts."""
        return 64 + (self.code_bits + (self.prefilter_bits if self.has_learned_column else 0)) // 8

    @property
    def float_bytes(self) -> int:
        """Bytes of a row's floats."""
        return {"halfvec": 2, "vector": 4, None: 0}[self.float_type] * self.dimensions

    @property
    def float_type(self) -> str | None:
        """pgvector's type of the embedding column; None where the collection keeps no floats."""
        return _FLOAT_TYPES.get(self.rescore)


@dataclass(frozen=True)
class PgVector:
    """The schema and the version of pgvector in a database."""

    schema: str
    version: tuple[int, ...]

    @property
    def iterative_scan(self) -> bool:
        """Whether HNSW scans can continue past ef_search."""
        return self.version >= (0, 8, 0)


@dataclass(frozen=True)
class Table:
    """A collection's table."""

    schema: str
    name: str
    layout: TableLayout
    vector: PgVector

    @property
    def identifier(self) -> Identifier:
        return Identifier(self.schema, self.name)

    @property
    def index(self) -> str:
        """Name of the prefilter's index, at most 63 bytes: a long table name is cut and gets a hash."""
        name = self.name.encode()
        if len(name) > 54:
            name = name[:45] + b"_" + hashlib.sha256(name).hexdigest()[:8].encode()
        return name.decode(errors="ignore") + "_qvec_idx"

    @property
    def columns(self) -> tuple[str, ...]:
        learned = ("learned",) if self.layout.has_learned_column else ()
        floats = ("embedding",) if self.layout.float_type else ()
        return ("id", "codes", *learned, *floats, "document", "metadata")

    def vector_type(self, name: str) -> Composed:
        """Return pgvector's type `name` with the collection's dimensions."""
        return SQL("{}({})").format(Identifier(self.vector.schema, name), Literal(self.layout.dimensions))

    def operator(self, symbol: LiteralString) -> Composed:
        """Return pgvector's operator, qualified by its schema."""
        return SQL("OPERATOR({}.{})").format(Identifier(self.vector.schema), SQL(symbol))
