"""What a collection in Qdrant stores of its vectors, derived from its few settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from qvec.errors import InputError
from qvec.sources import IdType

Rescore = Literal["float16", "float32", "turbo16", "turbo8", "binary"]
Prefilter = Literal["binary", "binary1.5", "binary2", "turbo1", "turbo1.5", "turbo2", "turbo4"]
QueryEncoding = Literal["scalar8bits", "scalar4bits", "binary"]


@dataclass(frozen=True)
class VectorLayout:
    """The vectors of a collection: what is stored of them, and what the engine keeps in memory to find candidates.

    The stored vector is x - threshold in the precision of `rescore`, so that the engine's own sign bits are the
    calibration's. With `binary` only the signs are stored, as +1 and -1, for models that give no more. The engine
    scores what is stored: unlike Postgres, Qdrant does not divide the score of bits under cosine by the length of the
    vector that they stand for. At threshold 0, which such models have, that length is the same for all rows, so their
    order is the same too.
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
        id_type: IdType = "bigint",
        rescore: Rescore = "float16",
        prefilter: Prefilter | None = None,
        query_encoding: QueryEncoding = "scalar8bits",
    ) -> VectorLayout:
        """Return a layout with the given prefilter, by default the one that measures best for its bytes."""
        if prefilter is None:
            prefilter = "binary" if rescore == "binary" or query_encoding != "scalar8bits" else cls.prefilter
        return cls(dimensions, id_type, rescore, prefilter, query_encoding)

    @property
    def signs_only(self) -> bool:
        """Whether only the signs of a vector are stored."""
        return self.rescore == "binary"

    @property
    def datatype(self) -> str:
        """Qdrant's datatype of the stored vectors."""
        return "float16" if self.signs_only else self.rescore

    @property
    def settings(self) -> dict[str, Any]:
        """The settings it was made with, without dimensions and type of ids."""
        return {"rescore": self.rescore, "prefilter": self.prefilter, "query_encoding": self.query_encoding}


@dataclass(frozen=True)
class Sharding:
    """How a cluster spreads a collection over its nodes; None leaves the choice to the cluster."""

    shards: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    shard_key: str | None = None
    """Rows go to the shard of this key, in a collection with custom sharding."""
    shard_key_field: str | None = None
    """Rows go to the shard that this field of their metadata names, in a collection with custom sharding."""

    def __post_init__(self) -> None:
        if self.shard_key is not None and self.shard_key_field is not None:
            raise InputError(
                f"shard_key is {self.shard_key!r} and shard_key_field {self.shard_key_field!r}; give one of them: the "
                "shard of all rows, or the field that names the shard of each row"
            )

    @property
    def has_keys(self) -> bool:
        """Whether shards have keys (custom sharding)."""
        return self.shard_key is not None or self.shard_key_field is not None
