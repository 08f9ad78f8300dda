"""The file that a collection of codes was loaded from, where it is still there and still what was loaded."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from qvec.client import Collection, Database
from qvec.codes import PLANES, dequantize, quantize
from qvec.errors import QvecError
from qvec.evaluation.rows import Rows, rows_of_source
from qvec.sources import Columns, Source, open_source

_CHECKED = 500
"""Rows whose codes are compared with those of the file."""


def origin(
    database: Database, collection: Collection, columns: Columns, dimensions: int | None
) -> tuple[Source, Rows] | None:
    """The source of a collection that keeps no floats, opened, and its rows to compare queries of so many dimensions
    with (None: of all that the source has). The caller closes the source.

    None where that cannot be told: several sources, one that is gone, has changed or holds texts, and rows that were
    written or deleted since.
    """
    loads = {} if collection.keeps_floats else database.loads(collection.name)
    if len(loads) != 1:
        return None
    ((location, checkpoint),) = loads.items()
    whole = checkpoint.finished and checkpoint.position - checkpoint.rejected == collection.count()
    if not whole or not Path(location).exists():
        return None
    try:
        source = open_source(location, columns=columns)
    except QvecError:
        return None
    if _is_of_kind(source, collection) and source.fingerprint() == checkpoint.fingerprint:
        rows = partial(rows_of_source, source, collection.calibration, None, checkpoint.first_id or 0)
        if _holds(collection, rows()):
            return source, rows(dimensions or source.dimensions)
    source.close()
    return None


def _is_of_kind(source: Source, collection: Collection) -> bool:
    has_ids = (source.id_type or "bigint") == collection.id_type
    return has_ids and source.dimensions in collection.calibration.accepted_dimensions


def _holds(collection: Collection, rows: Rows) -> bool:
    """Whether some rows of the source, drawn uniformly, are what the collection has by their ids."""
    ids, vectors = rows.sample(_CHECKED, seed=0)
    codes = quantize(vectors, collection.calibration, PLANES[collection.settings["rescore"]])
    wanted = dequantize(codes, collection.calibration)
    return bool(np.allclose(collection.vectors(ids), wanted, atol=1e-6 * float(np.abs(wanted).max(initial=1))))
