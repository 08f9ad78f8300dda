"""The recall of two calibrations on the same vectors, compared before one replaces the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qvec import _native
from qvec.calibration import Calibration
from qvec.client import Collection
from qvec.errors import InputError
from qvec.evaluation.drifting import FEWEST, QUERIES, SAMPLE, way_of
from qvec.evaluation.intervals import compare, interval
from qvec.evaluation.material import Material
from qvec.evaluation.quantized import Quantized
from qvec.evaluation.results import Interval
from qvec.ingest.load_options import Reporter
from qvec.sources import Source

K = 10


@dataclass(frozen=True)
class Recalls:
    """recall@10 with the old and the new calibration over the same queries, and the gain of the new one. Some sampled
    rows serve as queries; the others are searched as in the collection, without an index."""

    old: Interval
    new: Interval
    gain: Interval
    rows: int
    queries: int

    @property
    def is_worse(self) -> bool:
        """Whether the new one finds less, by more than chance explains."""
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
    """Compare both calibrations on uniformly drawn rows; return None for a source of texts, or below 100 rows."""
    if originals.dimensions is None:
        return None
    reporter.stage("sampling", originals.rows)
    sample = originals.sample(SAMPLE, seed, lambda done: reporter.advance("sampling", done))
    reporter.finish("sampling")
    assert sample is not None
    old = collection.calibration
    bad = [row for row, _ in _native.bad_rows(sample, min(old.dimensions, new.dimensions), old.metric == "cosine")]
    vectors = np.ascontiguousarray(np.delete(sample, bad, axis=0), np.float32)
    if len(vectors) < FEWEST:
        return None
    order = np.random.default_rng(seed).permutation(len(vectors))
    held = min(QUERIES, len(vectors) // 5)
    material = Material(vectors[order[held:]], vectors[order[:held]], held_out=True, unusable=len(bad))
    truth = material.truth(old.metric, K)
    way = way_of(collection)
    found, anew = (
        Quantized(_seen(material, calibration), calibration).one_way(*way, truth).recalls for calibration in (old, new)
    )
    return Recalls(interval(found), interval(anew), compare(anew, found).difference, len(vectors), held)


def _seen(material: Material, calibration: Calibration) -> Material:
    """Return the dataset cut to the dimensions that a calibration takes."""
    if material.dimensions in calibration.accepted_dimensions:
        return material
    cut = calibration.dimensions
    documents, queries = (np.ascontiguousarray(of[:, :cut]) for of in (material.documents, material.queries))
    return replace(material, documents=documents, queries=queries)


def check_gain(recalls: Recalls | None, collection: str) -> None:
    """Raise InputError where the new calibration finds less."""
    if recalls is not None and recalls.is_worse:
        raise InputError(
            f"the new calibration finds less than that of collection {collection!r}: recall@{K} is "
            f"{recalls.new.value:.1%}, and was {recalls.old.value:.1%}; change the fit options, or use --allow-worse"
        )
