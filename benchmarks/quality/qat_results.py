"""The runs of the study on training, stored in a folder, and their nDCG@10 compared with plain training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from qat_recipes import BEFORE, PLAIN
from studies import RankingEvaluator
from torch import Tensor

from qvec import Calibration
from qvec.evaluation.metrics import PairedComparison, compare, confidence_interval
from qvec.training.scoring import Scorer
from qvec.training.text_datasets import RetrievalDataset

SCORERS = {
    "float32": Scorer("float32"),
    "int8": Scorer("int8"),
    "ternary, symmetric": Scorer("ternary", "ternary"),
    "binary, symmetric": Scorer("binary", "binary"),
    "binary, asymmetric": Scorer("binary"),
}
"""The columns of the tables."""
FITTED, TRAINED = "PTQ", "QAT"
"""Ranges fitted to the documents as `qvec ingest` does, or the ranges of the training."""
_SIGNIFICANCE = 0.05
_SETTINGS = "settings.json"
_LEGEND = """In brackets the difference from plain training, with * if chance alone makes one as large in fewer than 1
of 20 cases (randomization test over the queries, of means over seeds). PTQ: ranges fitted to the documents. QAT: the
ranges of the training."""

Embedded = tuple[Tensor, Tensor]
"""Queries (m, d) and documents (n, d)."""

Cell = tuple[str, str, str, str]
"""Dataset, recipe, ranges and scorer."""


@dataclass(frozen=True)
class Run:
    """A recipe and seed, with the embeddings by dataset and the calibration of the training, if there is one."""

    recipe: str
    seed: int
    embedded: dict[str, Embedded]
    calibration: Calibration | None


class RunStore:
    """A folder of runs with the same settings."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        stored = folder / _SETTINGS
        if stored.exists() and json.loads(stored.read_text()) != settings:
            raise SystemExit(f"{folder} holds runs with other settings, {stored.read_text()}; give another folder")
        stored.write_text(json.dumps(settings))

    def has(self, recipe: str, seed: int) -> bool:
        return self._path(recipe, seed).exists()

    def save(self, run: Run) -> None:
        """Write a run atomically."""
        path = self._path(run.recipe, run.seed)
        calibration = run.calibration and run.calibration.to_bytes()
        torch.save({"embedded": run.embedded, "calibration": calibration}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, recipe: str, seed: int) -> Run:
        stored = torch.load(self._path(recipe, seed), weights_only=True)
        calibration = stored["calibration"]
        return Run(recipe, seed, stored["embedded"], calibration and Calibration.from_bytes(calibration))

    def _path(self, recipe: str, seed: int) -> Path:
        name = recipe.replace(", ", "-").replace("/", "").replace(" ", "-")
        return self._folder / f"{name}.{seed}.pt"


class RunResults:
    """nDCG@10 of all runs, by cell and query."""

    def __init__(self, datasets: dict[str, RetrievalDataset]) -> None:
        self.datasets = datasets
        self._ndcgs: dict[Cell, list[NDArray[np.float64]]] = {}

    def add(self, run: Run) -> None:
        for name, data in self.datasets.items():
            queries, documents = run.embedded[name]
            evaluator = RankingEvaluator(data, queries, documents)
            ranges = {FITTED: Calibration.fit(documents.numpy())}
            ranges |= {TRAINED: run.calibration} if run.calibration else {}
            for kind, calibration in ranges.items():
                for title, scorer in SCORERS.items():
                    ndcgs = evaluator.evaluate(scorer, calibration).ndcgs
                    self._ndcgs.setdefault((name, run.recipe, kind, title), []).append(ndcgs)

    def values(self, cell: Cell) -> NDArray[np.float64]:
        """nDCG@10 of each query, averaged over seeds."""
        mean: NDArray[np.float64] = np.mean(self._ndcgs[cell], axis=0)
        return mean

    def against_plain(self, cell: Cell) -> PairedComparison:
        """The gain over plain training with ranges fitted to the documents."""
        dataset, _, _, scorer = cell
        return compare(self.values(cell), self.values((dataset, PLAIN, FITTED, scorer)))

    def rows(self, dataset: str) -> list[tuple[str, str]]:
        """The measured recipes and ranges, in order."""
        return list(dict.fromkeys((recipe, ranges) for name, recipe, ranges, _ in self._ndcgs if name == dataset))

    def lines(self) -> Iterator[dict[str, Any]]:
        """For JSON: the mean of each cell with its interval, and the difference from plain training."""
        for cell, found in self._ndcgs.items():
            mean, difference = confidence_interval(self.values(cell)), self.against_plain(cell)
            yield {
                **dict(zip(("retrieval", "recipe", "ranges", "scorer"), cell, strict=True)),
                "seeds": len(found),
                "ndcg": mean.value,
                "ndcg_interval": [mean.low, mean.high],
                "against_plain": difference.difference.value,
                "against_plain_interval": [difference.difference.low, difference.difference.high],
                "p_value": difference.p_value,
            }


def print_tables(results: RunResults) -> None:
    """Print a Markdown table for each dataset."""
    for dataset, data in results.datasets.items():
        print(f"{dataset}: nDCG@10 over {len(data.queries)} queries, {len(data.corpus):,} documents\n")
        print(f"| trained | ranges | {' | '.join(SCORERS)} |")
        print("|---|---|" + "---:|" * len(SCORERS))
        for recipe, ranges in results.rows(dataset):
            cells = [_format(results, (dataset, recipe, ranges, scorer)) for scorer in SCORERS]
            print(f"| {recipe} | {ranges} | {' | '.join(cells)} |")
        print()
    print(_LEGEND)


def _format(results: RunResults, cell: Cell) -> str:
    mean = f"{100 * results.values(cell).mean():.1f}"
    if cell[1] in (BEFORE, PLAIN):
        return mean
    found = results.against_plain(cell)
    return f"{mean} ({100 * found.difference.value:+.1f}{'*' if found.p_value < _SIGNIFICANCE else ''})"
