"""Whether a collection's calibration still fits: how vectors differ from those it was fitted to, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.arrays import Vectors
from qvec.calibration import Calibration
from qvec.client import Collection
from qvec.drift import Drift, measure
from qvec.errors import InputError
from qvec.evaluation.intervals import Comparison, compare, interval
from qvec.evaluation.material import Material
from qvec.evaluation.quantized import RESCORES, Quantized
from qvec.evaluation.results import Interval
from qvec.evaluation.rows import Rows, rows_of_collection
from qvec.ingest.load_options import FitOptions
from qvec.ranges import METHODS, RangeMethod

SAMPLE = 10_000
QUERIES = 500
_NO_SPREAD = 1e-6
"""Standard deviation, as a share of the largest, up to which a dimension is constant but for rounding errors."""
FEWEST = 100
"""Rows below which a sampled recall says nothing."""
LIMITS = {"shift": 0.3, "clip": 0.005, "loss": 0.01}
"""What each figure of a DriftReport may be, unless told otherwise.

Parts of one corpus differ by a shift of 0.1, two corpora of one model by 0.6 (MiniLM: the sentences of Python's
documentation, and abstracts on aerodynamics), which costs about a point of recall.
"""


@dataclass(frozen=True, eq=False)
class DriftReport:
    """Vectors against a collection's calibration. None stands for what cannot be known from codes.

    `shift` is the length of the mean's change against that of the standard deviations; `clip` the share of values
    beyond their range, in dimensions that had any spread, less the share that its quantile left there. `recall` is that
    of searches as in the collection, among the sampled vectors themselves, and `loss` how much higher it is with a
    calibration that is fitted to them.
    """

    collection: str
    calibration: str
    compared: str
    statistics: Drift
    changes: NDArray[np.float64]
    """Of each dimension's mean, in the units of the vectors; 0 where there was no spread to compare it with."""
    shift: float
    clip: float | None
    recall: Interval | None
    loss: Comparison | None
    way: str
    """How was searched for the recall."""

    def figures(self) -> dict[str, float | None]:
        """The figures that limits are set to, by their names."""
        return {
            "shift": self.shift,
            "clip": self.clip,
            "loss": None if self.loss is None else self.loss.difference.value,
        }

    def beyond(self, limits: Mapping[str, float]) -> list[str]:
        """The names of the figures that are above their limits."""
        return [name for name, value in self.figures().items() if value is not None and value > limits[name]]

    def as_dict(self) -> dict[str, Any]:
        """What `qvec drift --json` prints, with the figures of every dimension."""
        drift = self.statistics
        return {
            "collection": self.collection,
            "calibration": self.calibration,
            "compared": self.compared,
            "rows": drift.count,
            **self.figures(),
            "recall": None if self.recall is None else self.recall.value,
            "recall_interval": None if self.recall is None else [self.recall.low, self.recall.high],
            "dimensions": {
                "mean_shift": _finite(drift.mean_shift),
                "spread_ratio": _finite(drift.spread_ratio),
                "bit_balance": _finite(drift.bit_balance),
                "clip_rate": _finite(drift.clip_rate),
            },
        }


def drift_of_rows(collection: Collection, seed: int = 0) -> DriftReport:
    """Sampled rows of a collection against its calibration: floats where it keeps them, otherwise decoded codes, whose
    clipping and recall cannot be told."""
    sample = _stored_sample(collection, SAMPLE, seed)
    return _report(collection, f"rows of {collection.name}", sample, _measured(collection, sample), seed)


def drift_of_vectors(collection: Collection, vectors: Vectors, name: str, seed: int = 0) -> DriftReport:
    """Newer vectors (n, D), drawn uniformly from what `name` says, against a collection's calibration."""
    return _report(collection, name, vectors, collection.calibration.drift(vectors), seed)


def statistics_of(collection: Collection, rows: Rows | None, seed: int = 0) -> Drift:
    """A collection's rows against its calibration, sampled from what it was loaded from, or from what it keeps."""
    if rows is not None:
        return collection.calibration.drift(rows.sample(SAMPLE, seed)[1])
    return _measured(collection, _stored_sample(collection, SAMPLE, seed))


def _stored_sample(collection: Collection, size: int, seed: int) -> NDArray[np.float32]:
    _, vectors = rows_of_collection(collection).sample(size, seed)
    if not len(vectors):
        raise InputError(f"collection {collection.name!r} has no rows")
    return vectors


def _measured(collection: Collection, vectors: NDArray[np.float32]) -> Drift:
    """Statistics of vectors as the collection keeps them, never to be normalized again."""
    calibration = collection.calibration
    found = measure(
        vectors,
        threshold=calibration.threshold,
        radius=calibration.radius,
        mean=calibration.mean,
        std=calibration.std,
    )
    return found if collection.keeps_floats else replace(found, clip_rate=np.full_like(found.clip_rate, np.nan))


def _report(collection: Collection, compared: str, vectors: Vectors, statistics: Drift, seed: int) -> DriftReport:
    calibration = collection.calibration
    spreading = calibration.std > _NO_SPREAD * calibration.std.max()
    clip = float(statistics.clip_rate[spreading].mean()) if spreading.any() else 0.0
    clip = max(clip - _clipped_on_purpose(calibration), 0.0)
    has_floats = not np.isnan(statistics.clip_rate).any()
    changes = _changes(statistics, calibration)
    spread = float(np.linalg.norm(calibration.std.astype(np.float64)))
    way = way_of(collection)
    recall, loss = _recalls(calibration, vectors, way, seed) if has_floats and len(vectors) >= FEWEST else (None, None)
    return DriftReport(
        collection=collection.name,
        calibration=calibration.id,
        compared=compared,
        statistics=statistics,
        changes=changes,
        shift=float(np.linalg.norm(changes)) / spread if spread else 0.0,
        clip=clip if has_floats else None,
        recall=recall,
        loss=loss,
        way="{1} after {0}, {2:g} candidates a hit".format(*way),
    )


def _changes(statistics: Drift, calibration: Calibration) -> NDArray[np.float64]:
    """Where a dimension had no spread, a rounding error is an infinite shift, and counts for nothing."""
    shifts = np.where(np.isfinite(statistics.mean_shift), statistics.mean_shift, 0)
    return np.asarray(shifts * calibration.std.astype(np.float64), np.float64)


def way_of(collection: Collection) -> tuple[str, str, float]:
    """How the collection is searched, or what is nearest to it of the ways that can be searched without an engine."""
    settings = collection.settings
    prefilter = settings["prefilter"] if settings["prefilter"] in RESCORES else "ternary"
    rescore = settings["rescore"] if settings["rescore"] in RESCORES[prefilter] else "float16"
    return prefilter, rescore, collection.oversampling


def _recalls(
    calibration: Calibration, vectors: Vectors, way: tuple[str, str, float], seed: int, k: int = 10
) -> tuple[Interval, Comparison]:
    """Recall among the vectors, some of them held out as queries; and what a calibration of their own would add."""
    order = np.random.default_rng(seed).permutation(len(vectors))
    held = min(QUERIES, len(vectors) // 5)
    material = Material(_rows(vectors, order[held:]), _rows(vectors, order[:held]), held_out=True, unusable=0)
    truth = material.truth(calibration.metric, k)
    found = Quantized(material, calibration).one_way(*way, truth).recalls
    anew = Quantized(material, _anew(calibration, material)).one_way(*way, truth).recalls
    return interval(found), compare(anew, found)


def _clipped_on_purpose(calibration: Calibration) -> float:
    """The share of values that the calibration's own ranges left out."""
    method = calibration.description.get("method", {})
    return 1 - float(method["quantile"]) if method.get("name") == "quantile" else 0.0


def _rows(vectors: Vectors, of: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors[of], np.float32)


def _anew(calibration: Calibration, material: Material) -> Calibration:
    """A calibration of the sampled vectors by the method of the old one."""
    method = dict(calibration.description.get("method", {}))
    share = method.pop("threshold", FitOptions().threshold)
    if method.get("name") == "fixed":
        ranges = RangeMethod("fixed", value=calibration.radius)
    else:
        ranges = RangeMethod(**method) if method.get("name") in METHODS else RangeMethod()
    return Calibration.fit(
        material.documents,
        metric=calibration.metric,
        threshold=share,
        ranges=ranges,
        dimensions=calibration.dimensions,
    )


def _finite(values: NDArray[np.float32]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
