"""What the runs found: nDCG@10 of each way to train and to store, and what it is against plain training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from judging import Judge
from numpy.typing import NDArray
from recipes import BEFORE, PLAIN
from runs import Run

from qvec import Calibration
from qvec.evaluation.intervals import Comparison as Difference
from qvec.evaluation.intervals import compare, interval
from qvec.training.retrieval import Retrieval
from qvec.training.scoring import Comparison

WAYS = {
    "float32": Comparison("float32"),
    "int8": Comparison("int8"),
    "ternary, symmetric": Comparison("ternary", "ternary"),
    "binary, symmetric": Comparison("binary", "binary"),
    "binary, asymmetric": Comparison("binary"),
}
"""Columns: documents as they are stored, against float32 queries or, as a prefilter compares, bits against bits."""
FITTED, TRAINED = "PTQ", "QAT"
"""Ranges: fitted to the documents as `qvec ingest` does, or those trained with."""
_CHANCE = 0.05
_LEGEND = """In brackets the difference from plain training, * where chance alone makes one as large in fewer than 1 of
20 (randomization test over the queries, of means over seeds). PTQ: ranges fitted to the documents. QAT: those trained
with."""

Cell = tuple[str, str, str, str]
"""Retrieval, recipe, ranges and way."""


class Gains:
    """nDCG@10 of all runs, by cell and query."""

    def __init__(self, retrievals: dict[str, Retrieval]) -> None:
        self.retrievals = retrievals
        self._found: dict[Cell, list[NDArray[np.float64]]] = {}

    def add(self, run: Run) -> None:
        for name, data in self.retrievals.items():
            queries, documents = run.embedded[name]
            judge = Judge(data, queries, documents)
            ranges = {FITTED: Calibration.fit(documents.numpy())}
            ranges |= {TRAINED: run.calibration} if run.calibration else {}
            for kind, calibration in ranges.items():
                for way, comparison in WAYS.items():
                    ndcgs = judge.judged(comparison, calibration).ndcgs
                    self._found.setdefault((name, run.recipe, kind, way), []).append(ndcgs)

    def values(self, cell: Cell) -> NDArray[np.float64]:
        """nDCG@10 of each query, the mean over seeds."""
        mean: NDArray[np.float64] = np.mean(self._found[cell], axis=0)
        return mean

    def against_plain(self, cell: Cell) -> Difference:
        """How much better a recipe is than plain training with ranges fitted to the documents."""
        retrieval, _, _, way = cell
        return compare(self.values(cell), self.values((retrieval, PLAIN, FITTED, way)))

    def rows(self, retrieval: str) -> list[tuple[str, str]]:
        """Recipe and ranges of what was measured, in order."""
        return list(dict.fromkeys((recipe, ranges) for name, recipe, ranges, _ in self._found if name == retrieval))

    def lines(self) -> Iterator[dict[str, Any]]:
        """For machines: the mean of each cell, its interval, and the difference from plain training."""
        for cell, found in self._found.items():
            mean, difference = interval(self.values(cell)), self.against_plain(cell)
            yield {
                **dict(zip(("retrieval", "recipe", "ranges", "way"), cell, strict=True)),
                "seeds": len(found),
                "ndcg": mean.value,
                "ndcg_interval": [mean.low, mean.high],
                "against_plain": difference.difference.value,
                "against_plain_interval": [difference.difference.low, difference.difference.high],
                "p_value": difference.p_value,
            }


def print_tables(gains: Gains) -> None:
    """A Markdown table for each retrieval."""
    for retrieval, data in gains.retrievals.items():
        print(f"{retrieval}: nDCG@10 over {len(data.queries)} queries, {len(data.corpus):,} documents\n")
        print(f"| trained | ranges | {' | '.join(WAYS)} |")
        print("|---|---|" + "---:|" * len(WAYS))
        for recipe, ranges in gains.rows(retrieval):
            cells = [_cell(gains, (retrieval, recipe, ranges, way)) for way in WAYS]
            print(f"| {recipe} | {ranges} | {' | '.join(cells)} |")
        print()
    print(_LEGEND)


def _cell(gains: Gains, cell: Cell) -> str:
    mean = f"{100 * gains.values(cell).mean():.1f}"
    if cell[1] in (BEFORE, PLAIN):
        return mean
    found = gains.against_plain(cell)
    return f"{mean} ({100 * found.difference.value:+.1f}{'*' if found.p_value < _CHANCE else ''})"
