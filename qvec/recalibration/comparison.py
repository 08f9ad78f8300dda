"""What two calibrations find of the same vectors, before one takes the place of the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qvec import _native
from qvec.calibration import Calibration
from qvec.errors import InputError
from qvec.evaluation.drift_report import MIN_ROWS, SAMPLE_QUERIES, SAMPLE_ROWS, sampled_steps
from qvec.evaluation.metrics import Interval, compare, confidence_interval
from qvec.evaluation.sample import Sample
from qvec.evaluation.scan import QuantizedSample
from qvec.ingest.options import Reporter
from qvec.sources import Source
from qvec.stores import Collection

K = 10


@dataclass(frozen=True)
class Recalls:
    """recall@10 with the old and the new calibration, over the same queries, and how much higher the second is: by
    searches as in the collection, without an index, some sampled rows held out as queries."""

    old: Interval
    new: Interval
    gain: Interval
    rows: int
    queries: int

    @property
    def is_worse(self) -> bool:
        """Whether the new one finds less, beyond what chance explains."""
        return self.gain.high < 0

    def as_dict(self) -> dict[str, Any]:
        figures = {"old": self.old, "new": self.new, "gain": self.gain}
        intervals = {f"{name}_interval": [of.low, of.high] for name, of in figures.items()}
        return {
            **{name: of.value for name, of in figures.items()},
            **intervals,
            "rows": self.rows,
            "queries": self.queries,
        }


def compared(
    collection: Collection, new: Calibration, originals: Source, seed: int, reporter: Reporter
) -> Recalls | None:
    """Both calibrations on rows drawn uniformly; None of a source of texts, or of fewer than 100 rows."""
    if originals.dimensions is None:
        return None
    reporter.stage("sampling", originals.rows)
    sample = originals.sample(SAMPLE_ROWS, seed, lambda done: reporter.advance("sampling", done))
    reporter.finish("sampling")
    assert sample is not None
    old = collection.calibration
    bad = [row for row, _ in _native.bad_rows(sample, min(old.dimensions, new.dimensions), old.metric == "cosine")]
    vectors = np.ascontiguousarray(np.delete(sample, bad, axis=0), np.float32)
    if len(vectors) < MIN_ROWS:
        return None
    drawn = Sample.split(vectors, SAMPLE_QUERIES, seed, unusable=len(bad))
    truth = drawn.ground_truth(old.metric, K)
    steps = sampled_steps(collection)
    before, after = (
        QuantizedSample(_fitting(drawn, calibration), calibration).measure(*steps, truth).recalls
        for calibration in (old, new)
    )
    return Recalls(
        confidence_interval(before),
        confidence_interval(after),
        compare(after, before).difference,
        len(vectors),
        len(drawn.queries),
    )


def _fitting(sample: Sample, calibration: Calibration) -> Sample:
    """The sample with as many dimensions as a calibration accepts."""
    if sample.dimensions in calibration.accepted_dimensions:
        return sample
    cut = calibration.dimensions
    rows, queries = (np.ascontiguousarray(of[:, :cut]) for of in (sample.rows, sample.queries))
    return replace(sample, rows=rows, queries=queries)


def check_gain(recalls: Recalls | None, collection: str) -> None:
    """Raises InputError where the new calibration finds less."""
    if recalls is not None and recalls.is_worse:
        raise InputError(
            f"the new calibration finds less than that of collection {collection!r}: recall@{K} is "
            f"{recalls.new.value:.1%}, and was {recalls.old.value:.1%}; fit it in another way, or use --allow-worse"
        )
