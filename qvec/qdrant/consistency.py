"""How many replicas a read compares, and which node orders writes: the options of a cluster's URL."""

from __future__ import annotations

from dataclasses import dataclass

from qdrant_client import grpc

from qvec.errors import InputError

READ_OPTION, WRITE_OPTION = "read_consistency", "write_ordering"
_READ_TYPES = {
    "majority": grpc.ReadConsistencyType.Majority,
    "quorum": grpc.ReadConsistencyType.Quorum,
    "all": grpc.ReadConsistencyType.All,
}
_WRITE_TYPES = {
    "weak": grpc.WriteOrderingType.Weak,
    "medium": grpc.WriteOrderingType.Medium,
    "strong": grpc.WriteOrderingType.Strong,
}
_MAX_REPLICAS = 2**31 - 1


@dataclass(frozen=True)
class Consistency:
    """What every read and write of points asks for; None leaves it to the server: one replica, weak ordering."""

    read: str | None = None
    """majority, quorum, all, or a number of replicas."""
    write: str | None = None
    """weak, medium or strong."""

    def __post_init__(self) -> None:
        """Raise InputError for other values."""
        if self.read is not None and self.read not in _READ_TYPES and not self._replicas:
            raise InputError(
                f"{READ_OPTION} is {self.read!r}, expected majority, quorum, all, or a number of replicas from 1 on"
            )
        if self.write is not None and self.write not in _WRITE_TYPES:
            raise InputError(f"{WRITE_OPTION} is {self.write!r}, expected weak, medium or strong")

    @property
    def _replicas(self) -> int | None:
        """The number of replicas to read; None where that is not a number from 1 on."""
        read = self.read or ""
        is_number = read.isascii() and read.isdecimal() and len(read) <= len(str(_MAX_REPLICAS))
        return int(read) if is_number and 1 <= int(read) <= _MAX_REPLICAS else None

    @property
    def of_reads(self) -> grpc.ReadConsistency | None:
        if self.read is None:
            return None
        if self._replicas is not None:
            return grpc.ReadConsistency(factor=self._replicas)
        return grpc.ReadConsistency(type=_READ_TYPES[self.read])

    @property
    def of_writes(self) -> grpc.WriteOrdering | None:
        return None if self.write is None else grpc.WriteOrdering(type=_WRITE_TYPES[self.write])
