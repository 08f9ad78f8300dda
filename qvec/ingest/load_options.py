"""The options of a load, and what it reports."""

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
"""What to do at a row that cannot be used."""


def default_ranges(rescore: str | None) -> RangeMethod:
    """Return the best range method for a precision.

    int4 spends its 16 levels better on the nearest 99% of values: recall@10 of MiniLM's int4 is 96.3 with quantile 0.99
    and 94.6 with 0.9999; that of int8 is 97.9 and 99.4 (Cranfield; other texts are alike).
    """
    return RangeMethod(quantile=0.99) if rescore == "int4" else RangeMethod()


@dataclass(frozen=True)
class FitOptions:
    """How to fit a calibration when none is given; see `Calibration.fit`."""

    metric: Metric = "cosine"
    threshold: float = 0.5
    ranges: RangeMethod = field(default_factory=RangeMethod)
    dimensions: int | None = None
    sample_size: int = SAMPLE_SIZE
    seed: int = 0


@dataclass(frozen=True)
class LoadOptions:
    """One load. None leaves a choice to an existing collection, otherwise to the default."""

    collection: str
    calibration: Calibration | None = None
    fit: FitOptions | None = None
    """How to fit a calibration; None: by the ranges that are best for `rescore`."""
    model: str | EmbeddingOptions | None = None
    """The model that embeds texts and later questions, or its name."""
    rescore: str | None = None
    prefilter: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of a new collection, by their names in `create_collection`."""
    index_metadata: tuple[MetadataIndex, ...] = ()
    index_texts: str | None = None
    """The language in which to index the documents' words; None: do not index them."""
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
        """The fit that was asked for, or the default one."""
        return self.fit or FitOptions(ranges=default_ranges(self.given_settings().get("rescore")))

    def given_settings(self) -> dict[str, Any]:
        """Return the settings that were asked for."""
        given = {"rescore": self.rescore, "prefilter": self.prefilter, **self.settings}
        return {name: value for name, value in given.items() if value is not None}


class Reporter:
    """Receives the progress of a load, from several threads; this one ignores it."""

    def stage(self, name: str, total: int | None) -> None:
        """Start a stage: sampling, embedding, loading or index."""

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        """Report how much of a stage is done, in rows or, for the index, in its own units."""

    def finish(self, name: str) -> None:
        """End a stage."""

    def say(self, message: str) -> None:
        """Tell the user something."""


@dataclass(frozen=True)
class Summary:
    """The result of a load. `bytes_per_vector` is given for table, index and memory; `rows` counts this run's rows."""

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
    """An event that ends a load after the current batch."""
