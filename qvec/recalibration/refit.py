"""Fitting the calibration that replaces another one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvec.calibration import SAMPLE_SIZE, Calibration
from qvec.client import Collection
from qvec.embedding.embedding_options import stored_embedding
from qvec.errors import CalibrationError
from qvec.ingest.fit import fit_source, load_embedder_for
from qvec.ingest.load_options import FitOptions, Reporter
from qvec.ranges import METHODS, RangeMethod
from qvec.sources import Source


@dataclass(frozen=True)
class Refit:
    """Fit options of the new calibration; None keeps the old one's."""

    threshold: float | None = None
    ranges: RangeMethod | None = None
    dimensions: int | None = None
    sample_size: int = SAMPLE_SIZE
    seed: int = 0

    def options(self, old: Calibration, source: Source) -> FitOptions:
        """Return fit options, defaulting to those of the old calibration."""
        threshold, ranges = method_of(old)
        dimensions = self.dimensions or old.dimensions
        return FitOptions(
            metric=old.metric,
            threshold=threshold if self.threshold is None else self.threshold,
            ranges=self.ranges or ranges,
            dimensions=None if dimensions == source.dimensions else dimensions,
            sample_size=self.sample_size,
            seed=self.seed,
        )


def method_of(calibration: Calibration) -> tuple[float, RangeMethod]:
    """Return the threshold share and the range method of a calibration. The threshold of an imported one counts as zero
    unless it has values."""
    method = dict(calibration.description.get("method", {}))
    threshold = method.pop("threshold", FitOptions().threshold if calibration.threshold.any() else 0.0)
    if method.get("name") == "fixed":
        return threshold, RangeMethod("fixed", value=calibration.radius)
    return threshold, RangeMethod(**method) if method.get("name") in METHODS else RangeMethod()


def fit_again(source: Source, collection: Collection, refit: Refit, reporter: Reporter) -> Calibration:
    """Return a calibration fitted to a source that accepts the same dimensions as the collection's.

    Raise CalibrationError where it equals the collection's.
    """
    old = collection.calibration
    if old.learned_bits is not None:
        raise CalibrationError(
            f"calibration {old.id} of collection {collection.name!r} has learned bits, trained for its codes; "
            "train them again, and load into a new collection"
        )
    embedder = load_embedder_for(source, stored_embedding(collection))
    fitted, _ = fit_source(source, embedder, refit.options(old, source), collection.model, reporter)
    given = max(old.accepted_dimensions)
    if fitted.dimensions < given:
        fitted = replace(fitted, description={**fitted.description, "cut_from": given})
    if fitted == old:
        raise CalibrationError(
            f"collection {collection.name!r} already has calibration {old.id}, which fitting again gives"
        )
    return fitted
