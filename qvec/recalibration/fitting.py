"""Fitting a calibration to take another one's place."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qvec.calibration import SAMPLE_SIZE, Calibration
from qvec.embedding.options import stored_embedding
from qvec.errors import CalibrationError
from qvec.ingest.options import FitOptions, Reporter
from qvec.ingest.plan import fit_source, load_embedder_for
from qvec.ranges import METHODS, RangeMethod
from qvec.sources import Source
from qvec.stores import Collection


@dataclass(frozen=True)
class Refit:
    """How a calibration is fitted anew; None is as the old one was."""

    threshold: float | None = None
    ranges: RangeMethod | None = None
    dimensions: int | None = None
    sample_size: int = SAMPLE_SIZE
    seed: int = 0

    def options(self, old: Calibration, source: Source) -> FitOptions:
        """The fit that keeps what is not asked to change."""
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
    """Threshold and ranges by which a calibration was fitted; of one that was given and not fitted, its threshold is
    zero unless it lay amid its range."""
    method = dict(calibration.description.get("method", {}))
    threshold = method.pop("threshold", FitOptions().threshold if calibration.threshold.any() else 0.0)
    if method.get("name") == "fixed":
        return threshold, RangeMethod("fixed", value=calibration.radius)
    return threshold, RangeMethod(**method) if method.get("name") in METHODS else RangeMethod()


def fit_anew(source: Source, collection: Collection, refit: Refit, reporter: Reporter) -> Calibration:
    """A calibration of a source for a collection, which takes vectors of the same lengths as the old one.

    Raises CalibrationError where it is the one that the collection has.
    """
    old = collection.calibration
    if old.learned_bits is not None:
        raise CalibrationError(
            f"calibration {old.id} of collection {collection.name!r} has learned bits, trained for its codes; "
            "train them anew, and load into a new collection"
        )
    embedder = load_embedder_for(source, stored_embedding(collection))
    fitted, _ = fit_source(source, embedder, refit.options(old, source), collection.model, reporter)
    given = max(old.accepted_dimensions)
    if fitted.dimensions < given:
        fitted = replace(fitted, description={**fitted.description, "cut_from": given})
    if fitted == old:
        raise CalibrationError(
            f"collection {collection.name!r} has calibration {old.id}, and that is what fitting it anew gives"
        )
    return fitted
