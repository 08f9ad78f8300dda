"""The recall of rows found by position, for many configurations over the same rows and queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qvec.evaluation.truth import Truth

Rows = NDArray[np.int64]
Recalls = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TruthTable:
    """What `Truth.recalls` says of rows whose ids are their positions, in a table (queries, rows) to look up.

    1 stands for a row that is among the k nearest, 2 for one that is as near as the last of them. `better` and `wanted`
    are the numbers (queries,) of rows of the first kind, and of rows that are to be found.
    """

    k: int
    table: NDArray[np.uint8]
    better: NDArray[np.int64]
    wanted: NDArray[np.int64]

    @classmethod
    def of(cls, truth: Truth) -> TruthTable:
        table = np.zeros((len(truth.better), truth.rows), np.uint8)
        for query, (better, tied) in enumerate(zip(truth.better, truth.tied, strict=True)):
            table[query, np.array(better, np.int64)] = 1
            table[query, np.array(list(tied), np.int64)] = 2
        above, tied_rows = (table == 1).sum(axis=1), (table == 2).sum(axis=1)
        return cls(truth.k, table, above, np.minimum(truth.k, above + tied_rows))

    def recalls(self, found: Rows) -> Recalls:
        """The recall of each query (m,) by the rows (m, any number) that were found, each once.

        All of them count: of candidates this is the share of nearest rows that a rescoring can still find.
        """
        kinds = np.take_along_axis(self.table, found, axis=1)
        tied = np.minimum((kinds == 2).sum(axis=1), self.wanted - self.better)
        return np.asarray(((kinds == 1).sum(axis=1) + tied) / self.wanted, np.float64)
