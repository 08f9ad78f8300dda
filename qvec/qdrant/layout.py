"""What a collection in Qdrant holds, derived from its few settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qvec.errors import InputError

IdType = Literal["bigint", "text"]
Rescore = Literal["float16", "float32", "turbo16", "turbo8", "binary"]
Prefilter = Literal["binary", "binary1.5", "binary2", "turbo1", "turbo1.5", "turbo2", "turbo4"]
QueryEncoding = Literal["scalar8bits", "scalar4bits", "binary"]


@dataclass(frozen=True)
class Layout:
    """The vectors of a collection: what is stored of them, and what the engine keeps in memory to find candidates.

    The stored vector is x - threshold in the precision of `rescore`, so that the engine's own sign bits are the
    calibration's. With `binary` it is the signs alone, as +1 and -1, for models that give no more. The engine scores
    what is stored: where Postgres divides the score of bits under cosine by the length of what they stand for, Qdrant
    does not. At threshold 0, as of such models, that length is the same for all rows, and so their order is too.
    """

    dimensions: int
    id_type: IdType = "bigint"
    rescore: Rescore = "float16"
    prefilter: Prefilter = "turbo1"
    query_encoding: QueryEncoding = "scalar8bits"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("id_type", self.id_type, get_args(IdType)),
            ("rescore", self.rescore, get_args(Rescore)),
            ("prefilter", self.prefilter, get_args(Prefilter)),
            ("query_encoding", self.query_encoding, get_args(QueryEncoding)),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}, expected one of: {', '.join(known)}")
        if self.signs_only and self.prefilter != "binary":
            raise InputError(f"prefilter is {self.prefilter!r}, but rescore 'binary' keeps one bit: expected 'binary'")
        if not self.prefilter.startswith("binary") and self.query_encoding != "scalar8bits":
            raise InputError(f"query_encoding {self.query_encoding!r} is of binary prefilters, not {self.prefilter!r}")

    @classmethod
    def of(
        cls,
        dimensions: int,
        id_type: IdType,
        rescore: Rescore,
        prefilter: Prefilter | None,
        query_encoding: QueryEncoding,
    ) -> Layout:
        """A layout with the prefilter that measures best for its bytes, unless one is named."""
        if prefilter is None:
            prefilter = "binary" if rescore == "binary" or query_encoding != "scalar8bits" else cls.prefilter
        return cls(dimensions, id_type, rescore, prefilter, query_encoding)

    @property
    def signs_only(self) -> bool:
        """Whether nothing is kept of a vector but its signs."""
        return self.rescore == "binary"


@dataclass(frozen=True)
class Sharding:
    """How a cluster spreads a collection over its nodes; None leaves a choice to the cluster."""

    shards: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    shard_key: str | None = None
    """Rows go to the shard of this key, in a collection with custom sharding."""
