"""What the methods of a collection return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[int, int | None], None]
"""Called with the amount done and the total, None where the total is unknown."""
IndexState = Literal["built", "building", "none"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found. `score` estimates the true metric (cosine similarity or inner product), so it compares across
    queries. `document` and `metadata` are None where the row has none, or where the search did not ask for them."""

    id: int | str
    score: float
    document: str | None = None
    metadata: Any = None


@dataclass(frozen=True)
class Info:
    """The settings of a collection and its size. Sizes in bytes are None where the store does not report them."""

    name: str
    rows: int
    dimensions: int
    metric: str
    id_type: str
    rescore: str
    prefilter: str
    oversampling: float
    model: str | None
    calibration: str
    index: IndexState
    table_bytes: int | None
    """On disk: rows with their keys, vectors and texts."""
    index_bytes: int | None
    """On disk: the data that the prefilter reads beside the rows."""
    ram_bytes: int | None
    """Held in memory at all times."""
    embedding: Mapping[str, Any] | None = None
    """How texts were embedded beyond the model's name: server, task, prefixes."""
    part_bytes: Mapping[str, int] | None = None
    """On disk in Postgres, by part: heap, toast, primary_key, other_indexes, prefilter_index. Their sum is table_bytes
    and index_bytes."""

    def bytes_per_vector(self) -> dict[str, float | None]:
        """Return bytes per row of table, index and memory."""
        parts = {"table": self.table_bytes, "index": self.index_bytes, "ram": self.ram_bytes}
        return {name: None if size is None else self._a_row(size) for name, size in parts.items()}

    def part_bytes_per_vector(self) -> dict[str, float] | None:
        """Return bytes per row of each part, where the store reports parts."""
        if self.part_bytes is None:
            return None
        return {name: self._a_row(size) for name, size in self.part_bytes.items()}

    def _a_row(self, size: int) -> float:
        return round(size / max(self.rows, 1), 1)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "bytes_per_vector": self.bytes_per_vector(),
            "part_bytes_per_vector": self.part_bytes_per_vector(),
        }


@dataclass(frozen=True)
class Explanation:
    """How a search was done: the statement or request, the database's plan if it has one, and the time of each step.

    `candidates` is None where all rows were ranked.
    """

    statement: str
    plan: tuple[str, ...]
    candidates: int | None
    milliseconds: dict[str, float]
    hits: list[Hit]


@dataclass(frozen=True)
class Recall:
    """The share of the k nearest rows that searches of a collection find, and how it was measured.

    The nearest rows are those of an exact search of the same collection, by the same scores over all rows. So it shows
    what the index and the prefilter lose, and not what quantizing loses. `low` and `high` bound the mean over queries
    with 95% confidence.
    """

    collection: str
    recall: float
    low: float
    high: float
    k: int
    queries: int
    rows_as_queries: bool
    """Whether the queries are rows of the collection, each left out of its own hits."""
    oversampling: float
    """Candidates for each hit."""
    rows_scanned: int
    """Rows that the exact search compared with each query."""
    truth: str
    """What recall is measured against."""
    p50_ms: float
    """Median milliseconds of a search that is not exact."""

    def __str__(self) -> str:
        kind = "rows as queries" if self.rows_as_queries else "queries"
        return (
            f"recall@{self.k} {100 * self.recall:.1f}% ({100 * self.low:.1f}–{100 * self.high:.1f}), "
            f"{self.queries:,} {kind}, {self.oversampling:g} candidates a hit, {self.p50_ms:.1f} ms a search"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what `qvec recall --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class StoredRows:
    """Rows as they are stored: ids (int64 or large_string), vectors float32 (n, d) in the collection's form, documents
    and metadata (JSON) as large_string."""

    ids: Any
    vectors: NDArray[np.float32]
    documents: Any
    metadata: Any
