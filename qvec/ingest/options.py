"""What a user decides about a load, and what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qvec.calibration import SAMPLE_SIZE, Calibration, Metric
from qvec.embedding import EmbeddingOptions
from qvec.ranges import RangeMethod
from qvec.store.requests import OnDuplicate

if TYPE_CHECKING:
    from qvec.metadata_index import MetadataIndex

OnError = Literal["stop", "skip"]
"""What happens at a row that cannot be used."""


def default_ranges(rescore: str | None) -> RangeMethod:
    """The ranges that serve a precision best.

    The 16 levels of int4 are better spent on the 99% of values that lie nearest: recall@10 of MiniLM's int4 is 96.3
    with the quantile 0.99 and 94.6 with 0.9999, and that of int8 97.9 and 99.4 (Cranfield; other texts alike).
    """
    return RangeMethod(quantile=0.99) if rescore == "int4" else RangeMethod()


@dataclass(frozen=True)
class FitOptions:
    """How a calibration is fitted when none is given; as in `Calibration.fit`."""

    metric: Metric = "cosine"
    threshold: float = 0.5
    ranges: RangeMethod = field(default_factory=RangeMethod)
    dimensions: int | None = None
    sample_size: int = SAMPLE_SIZE
    seed: int = 0


@dataclass(frozen=True)
class IngestOptions:
    """One load. None leaves a choice to the collection where it exists, otherwise to the default."""

    collection: str
    calibration: Calibration | None = None
    fit: FitOptions | None = None
    """How a calibration is fitted; None: by the ranges that serve `rescore` best."""
    model: str | EmbeddingOptions | None = None
    """What embeds texts, and later questions; by its name alone where that says all."""
    rescore: str | None = None
    prefilter: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of a new collection, by their names in its database's `create_collection`."""
    index_metadata: tuple[MetadataIndex, ...] = ()
    index_texts: str | None = None
    """The language in which the documents' words are indexed; None: they are not."""
    on_duplicate: OnDuplicate = "replace"
    on_error: OnError = "stop"
    rejects: Path | None = None
    id_start: int | Literal["auto"] | None = None
    restart: bool = False
    index: bool = True
    workers: int = 2
    batch_rows: int | None = None

    @property
    def wanted_fit(self) -> FitOptions:
        """How a calibration is fitted, as was asked for or by default."""
        return self.fit or FitOptions(ranges=default_ranges(self.given_settings().get("rescore")))

    def given_settings(self) -> dict[str, Any]:
        """The settings that were asked for."""
        asked = {"rescore": self.rescore, "prefilter": self.prefilter, **self.settings}
        return {name: value for name, value in asked.items() if value is not None}


class Reporter:
    """Hears of the progress of a load; this one keeps it to itself. Called from several threads."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage begins: sampling, embedding, loading or index."""

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        """How much of a stage is done, in rows or, for the index, in its own units."""

    def finish(self, name: str) -> None:
        """A stage has ended."""

    def say(self, message: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True)
class Summary:
    """What a load did. `bytes_per_vector` is apart for table, index and memory; `rows` counts this run's rows."""

    collection: str
    rows: int
    seconds: float
    rows_per_second: float
    bytes_per_vector: dict[str, float | None]
    calibration: str
    rejected: int
    resumed_at: int
    total_rows: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Stop(threading.Event):
    """Set to end a load after the batch in hand."""
