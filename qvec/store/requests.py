"""Values that a store is asked with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qvec.arrays import as_vectors
from qvec.calibration import Calibration
from qvec.filters import And, Filter
from qvec.sources import Form, IdType

if TYPE_CHECKING:
    import pyarrow as pa

OnDuplicate = Literal["replace", "skip", "error"]
"""What happens to a row whose id exists."""
RescoreIn = Literal["client", "sql"]
"""Where Postgres's codes are rescored."""

MAX_ROWS = 2**31 - 1
"""Upper limit for `k` and other counts: more rows than any collection has, and within every database's integers."""


@dataclass(frozen=True)
class RowFilter:
    """The rows that an operation may touch: those that pass a parsed filter and the database's own condition."""

    tree: Filter | None = None
    native: Any = None

    def __bool__(self) -> bool:
        return self.tree is not None or self.native is not None

    def narrowed(self, tree: Filter) -> RowFilter:
        """Return the filter of the rows that pass `tree` as well."""
        return replace(self, tree=tree if self.tree is None else And((self.tree, tree)))


EVERY_ROW = RowFilter()


@dataclass(frozen=True)
class SearchRequest:
    """One search; the fields are described at `Collection.search`."""

    k: int
    oversampling: float | None = None
    """None: the collection's own."""
    filter: RowFilter = EVERY_ROW
    exact: bool = False
    rescore: bool = True
    texts: bool = True
    rescore_in: RescoreIn | None = None
    """Postgres only; None: in the client."""
    planes: int | None = None
    """Postgres only: planes of the codes that rescoring reads; None: all."""
    ef: int | None = None
    """Qdrant only: width of the graph search (hnsw_ef); None: the engine's own."""


@dataclass(frozen=True)
class TextRequest:
    """One search by words."""

    question: str
    k: int
    filter: RowFilter = EVERY_ROW
    texts: bool = True


@dataclass(frozen=True)
class RowColumns:
    """Rows to write, as columns of n values: ids int64 or large_string, vectors (n, D) in `form`, documents and
    metadata (JSON) as large_string with nulls, None where no row has any."""

    ids: pa.Array | NDArray[np.int64]
    vectors: NDArray[Any]
    documents: pa.Array | None = None
    metadata: pa.Array | None = None
    form: Form = "raw"


@dataclass(frozen=True)
class NewCollection:
    """A collection to create. `settings` holds the store's own settings by name, as `Store.settings` lists them."""

    name: str
    calibration: Calibration
    id_type: IdType
    oversampling: float
    model: str | None = None
    embedding: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def prepared_queries(queries: NDArray[Any], calibration: Calibration) -> NDArray[np.float32]:
    """Return raw queries (m, D) as a calibration compares them, float32 (m, d).

    Raise InputError where it does not accept them: the collection may have been recalibrated to other dimensions since
    the client checked them.
    """
    array = as_vectors(queries, "query", calibration.accepted_dimensions)
    calibration.check(array, "query")
    return calibration.prepared(array)


def candidate_count(k: int, oversampling: float) -> int:
    """Return the number of rows that the prefilter has to find for k hits."""
    return max(k, math.ceil(min(k * oversampling, MAX_ROWS)))
