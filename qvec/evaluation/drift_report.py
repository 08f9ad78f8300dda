"""Drift of a collection: whether its calibration still fits its rows or newer vectors, and the recall at stake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec import _native
from qvec.arrays import Vectors
from qvec.calibration import Calibration
from qvec.client import Collection
from qvec.drift_statistics import Drift, measure
from qvec.errors import InputError
from qvec.evaluation.dataset import Rows, rows_of_collection
from qvec.evaluation.metrics import Interval, PairedComparison, compare, confidence_interval
from qvec.evaluation.sample import Sample
from qvec.evaluation.scan import RESCORES, QuantizedSample
from qvec.ingest.load_options import FitOptions, Reporter
from qvec.ranges import METHODS, RangeMethod
from qvec.sources import Source

_Steps = tuple[str, str, float]
SAMPLE_ROWS = 10_000
SAMPLE_QUERIES = 500
MIN_ROWS = 100
"""Rows needed to measure a recall among them."""
LIMITS = {"shift": 0.3, "clip": 0.005, "loss": 0.01}
"""Default limits of the figures of a `DriftReport`.

Parts of one corpus differ by a shift of 0.1. Two corpora embedded by one model (MiniLM: the sentences of Python's
documentation, and abstracts on aerodynamics) differ by 0.6, which costs about a point of recall.
"""
_NO_SPREAD = 1e-6
"""Share of the largest standard deviation up to which a dimension counts as constant, rounding errors aside."""


@dataclass(frozen=True, eq=False)
class DriftReport:
    """Vectors compared with a collection's calibration. Figures that codes cannot tell are None."""

    collection: str
    calibration: str
    compared: str
    """What was compared: a source, or the rows of the collection."""
    statistics: Drift
    changes: NDArray[np.float64]
    """Change of each dimension's mean (d,) in units of the vectors; 0 for a dimension without spread."""
    shift: float
    """Length of `changes` divided by the length of the standard deviations."""
    clip: float | None
    """Share of values beyond their range in dimensions with a spread, above the share that its quantile clips."""
    recall: Interval | None
    """Recall@10 among the vectors, searched as in the collection."""
    loss: PairedComparison | None
    """What a calibration fitted to the vectors would add to `recall`."""
    searched: str
    """How the vectors were searched."""

    def figures(self) -> dict[str, float | None]:
        """Return the figures that have limits, by name."""
        return {
            "shift": self.shift,
            "clip": self.clip,
            "loss": None if self.loss is None else self.loss.difference.value,
        }

    def beyond(self, limits: Mapping[str, float]) -> list[str]:
        """Return the names of the figures above their limits."""
        return [name for name, value in self.figures().items() if value is not None and value > limits[name]]

    def as_dict(self) -> dict[str, Any]:
        """Return what `qvec drift --json` prints, with the figures of every dimension."""
        names = ("mean_shift", "spread_ratio", "bit_balance", "clip_rate")
        return {
            "collection": self.collection,
            "calibration": self.calibration,
            "compared": self.compared,
            "rows": self.statistics.count,
            **self.figures(),
            "recall": None if self.recall is None else self.recall.value,
            "recall_interval": None if self.recall is None else [self.recall.low, self.recall.high],
            "dimensions": {name: _finite(getattr(self.statistics, name)) for name in names},
        }


def drift_of_rows(collection: Collection, seed: int = 0) -> DriftReport:
    """Compare sampled rows of a collection with its calibration.

    Without floats the rows are decoded codes, of which neither clipping nor recall can be measured.
    """
    vectors = _stored_sample(collection, seed)
    return _report(collection, f"rows of {collection.name}", vectors, _stored_statistics(collection, vectors), seed)


def drift_of_vectors(collection: Collection, vectors: Vectors, name: str, seed: int = 0) -> DriftReport:
    """Compare newer vectors (n, D), a uniform sample of the source `name`, with a collection's calibration."""
    return _report(collection, name, vectors, collection.calibration.drift(vectors), seed)


def drift_of_source(collection: Collection, source: Source, seed: int, reporter: Reporter) -> DriftReport:
    """Compare vectors drawn uniformly from a source with a collection's calibration; unusable rows are left out.

    Raise InputError if the source has no vectors, vectors of other dimensions, or no usable rows.
    """
    calibration = collection.calibration
    reporter.stage("sampling", source.rows)
    sample = source.sample(SAMPLE_ROWS, seed, lambda done: reporter.advance("sampling", done))
    reporter.finish("sampling")
    if sample is None:
        raise InputError(f"{source.name} has no vectors; embed its texts first, or name their column: --vector-column")
    if sample.shape[1] not in calibration.accepted_dimensions:
        wanted = " or ".join(map(str, calibration.accepted_dimensions))
        raise InputError(
            f"{source.name} has {sample.shape[1]} dimensions, but collection {collection.name!r} takes {wanted}"
        )
    bad = [row for row, _ in _native.bad_rows(sample, calibration.dimensions, calibration.metric == "cosine")]
    if len(bad) == len(sample):
        raise InputError(f"{source.name} has no usable rows")
    return drift_of_vectors(collection, np.delete(sample, bad, axis=0) if bad else sample, source.name, seed)


def collection_statistics(collection: Collection, rows: Rows | None, seed: int = 0) -> Drift:
    """Return the statistics of a sample of `rows`, the source of a collection, or else of what it keeps."""
    if rows is not None:
        return collection.calibration.drift(rows.sample(SAMPLE_ROWS, seed)[1])
    return _stored_statistics(collection, _stored_sample(collection, seed))


def sampled_steps(collection: Collection) -> _Steps:
    """Return prefilter, rescoring precision and oversampling of a collection, or the nearest that a sample can have."""
    settings = collection.settings
    prefilter = settings["prefilter"] if settings["prefilter"] in RESCORES else "ternary"
    rescore = settings["rescore"] if settings["rescore"] in RESCORES[prefilter] else "float16"
    return prefilter, rescore, collection.oversampling


def _stored_sample(collection: Collection, seed: int) -> NDArray[np.float32]:
    _, vectors = rows_of_collection(collection).sample(SAMPLE_ROWS, seed)
    if not len(vectors):
        raise InputError(f"collection {collection.name!r} has no rows")
    return vectors


def _stored_statistics(collection: Collection, vectors: NDArray[np.float32]) -> Drift:
    """Statistics of vectors as the collection keeps them: prepared already, so not to be normalized again."""
    calibration = collection.calibration
    arrays = {name: getattr(calibration, name) for name in ("threshold", "radius", "mean", "std")}
    found = measure(vectors, **arrays)
    return found if collection.keeps_floats else replace(found, clip_rate=np.full_like(found.clip_rate, np.nan))


def _report(collection: Collection, compared: str, vectors: Vectors, statistics: Drift, seed: int) -> DriftReport:
    calibration = collection.calibration
    std = calibration.std.astype(np.float64)
    # In a dimension without spread, a rounding error is an infinite shift.
    changes = np.where(np.isfinite(statistics.mean_shift), statistics.mean_shift, 0) * std
    spread = float(np.linalg.norm(std))
    has_floats = not np.isnan(statistics.clip_rate).any()
    steps = sampled_steps(collection)
    recall = loss = None
    if has_floats and len(vectors) >= MIN_ROWS:
        recall, loss = _recall_and_loss(calibration, vectors, steps, seed)
    return DriftReport(
        collection=collection.name,
        calibration=calibration.id,
        compared=compared,
        statistics=statistics,
        changes=changes,
        shift=float(np.linalg.norm(changes)) / spread if spread else 0.0,
        clip=_clip(statistics, calibration) if has_floats else None,
        recall=recall,
        loss=loss,
        searched="{1} after {0}, {2:g} candidates per hit".format(*steps),
    )


def _clip(statistics: Drift, calibration: Calibration) -> float:
    spreading = calibration.std > _NO_SPREAD * calibration.std.max()
    clip = float(statistics.clip_rate[spreading].mean()) if spreading.any() else 0.0
    method = calibration.description.get("method", {})
    intended = 1 - float(method["quantile"]) if method.get("name") == "quantile" else 0.0
    return max(clip - intended, 0.0)


def _recall_and_loss(
    calibration: Calibration, vectors: Vectors, steps: _Steps, seed: int, k: int = 10
) -> tuple[Interval, PairedComparison]:
    sample = Sample.split(vectors, SAMPLE_QUERIES, seed)
    truth = sample.ground_truth(calibration.metric, k)
    old = QuantizedSample(sample, calibration).measure(*steps, truth).recalls
    new = QuantizedSample(sample, _refitted(calibration, sample)).measure(*steps, truth).recalls
    return confidence_interval(old), compare(new, old)


def _refitted(calibration: Calibration, sample: Sample) -> Calibration:
    """A calibration fitted to a sample by the method of the old one."""
    method = dict(calibration.description.get("method", {}))
    threshold = method.pop("threshold", FitOptions().threshold)
    if method.get("name") == "fixed":
        ranges = RangeMethod("fixed", value=calibration.radius)
    else:
        ranges = RangeMethod(**method) if method.get("name") in METHODS else RangeMethod()
    return Calibration.fit(
        sample.rows,
        metric=calibration.metric,
        threshold=threshold,
        ranges=ranges,
        dimensions=calibration.dimensions,
    )


def _finite(values: NDArray[np.float32]) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]
