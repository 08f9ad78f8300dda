"""What another collection of the same rows would find: other prefilters and precisions, by scans without an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from qvec.client import Collection
from qvec.codes import PLANES, quantize
from qvec.evaluation.intervals import lower_bound
from qvec.evaluation.quantized import RESCORES
from qvec.evaluation.queries import Queries
from qvec.evaluation.rows import Rows, rows_of_collection
from qvec.evaluation.scan import Candidates, candidate_count, scan
from qvec.evaluation.trials import bytes_per_vector
from qvec.evaluation.truth import Truth
from qvec.evaluation.ways import Block, HoldsCodes
from qvec.ingest.load_options import Reporter

OVERSAMPLINGS = (4, 8, 16, 32)
_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Alternative:
    """A prefilter, a precision and an oversampling, with the recall of a scan and what it is above."""

    prefilter: str
    rescore: str
    oversampling: int
    bytes_per_vector: float
    recall: float
    at_least: float


def alternatives(
    collection: Collection, queries: Queries, rows: Rows | None, truth: Truth, confidence: float, reporter: Reporter
) -> list[Alternative]:
    """Every other way to load the rows of a collection in Postgres with its calibration, fewest bytes first.

    Precisions are measured on `rows`, what it was loaded from, or on the floats that it keeps; from codes alone only
    prefilters and shorter precisions can be told. None for Qdrant, whose engine quantizes by itself.
    """
    if not isinstance(collection, HoldsCodes):
        return []
    calibration, settings = collection.calibration, collection.settings
    from_floats = rows is not None or collection.keeps_floats
    planes = 8 if from_floats else PLANES[settings["rescore"]]
    prefilters = [name for name in RESCORES if name == "binary" or planes >= 4]
    rescores = [name for name, needed in PLANES.items() if needed <= planes] + ["float16"] * from_floats
    blocks = _quantized(collection, rows, reporter) if from_floats else _stored(collection, reporter)
    reporter.stage("alternatives", truth.rows)
    most = candidate_count(truth.k, OVERSAMPLINGS[-1]) + 1
    found = scan(blocks, queries.compared(calibration), calibration, prefilters, rescores, most)
    reporter.finish("alternatives")
    own = settings["prefilter"], settings["rescore"]
    measured = [
        _measured(prefilter, rescore, oversampling, near, truth, calibration.dimensions, confidence)
        for prefilter, each in found.items()
        for near in [each if queries.rows is None else each.without(queries.rows)]
        for rescore in rescores
        if (prefilter, rescore) != own and rescore in RESCORES[prefilter]
        for oversampling in OVERSAMPLINGS
    ]
    return sorted(measured, key=lambda each: (each.bytes_per_vector, each.oversampling))


def _measured(
    prefilter: str, rescore: str, oversampling: int, near: Candidates, truth: Truth, dimensions: int, confidence: float
) -> Alternative:
    recalls = truth.recalls(near.best(candidate_count(truth.k, oversampling), rescore))
    return Alternative(
        prefilter,
        rescore,
        oversampling,
        bytes_per_vector(dimensions, prefilter, rescore),
        float(recalls.mean()),
        lower_bound(recalls, confidence, k=truth.k),
    )


def _quantized(collection: Collection, rows: Rows | None, reporter: Reporter) -> Iterator[Block]:
    """Rows as another load quantizes them, with the floats that it could keep."""
    source = rows or rows_of_collection(collection)
    calibration = collection.calibration
    for ids, vectors in source.read(lambda done: reporter.advance("alternatives", done)):
        for start in range(0, len(vectors), _BLOCK_ROWS):
            some = vectors[start : start + _BLOCK_ROWS]
            floats = calibration.prepared(some).astype(np.float16).astype(np.float32)
            yield np.asarray(ids[start : start + _BLOCK_ROWS]), quantize(some, calibration), floats


def _stored(collection: HoldsCodes, reporter: Reporter) -> Iterator[Block]:
    done = 0
    for block in collection.iter_codes(_BLOCK_ROWS):
        yield block
        done += len(block[0])
        reporter.advance("alternatives", done)
