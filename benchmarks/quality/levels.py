"""What each level of quantization costs a model, for several range methods, with quantized and unquantized queries.

    python benchmarks/quality/levels.py [FOLDER]... [--cache FILE]

Like Jina's article on quantization-aware training, this compares documents in 8 bits, 4 bits, trinary and binary,
scaled by min/max, quantiles or rolling averages, with queries in float32 or quantized likewise. The texts are the
documentation strings of Python's standard library, whose first lines search for the rest, and each FOLDER in BEIR's
layout, embedded by MiniLM. Intervals are bootstrapped over the queries, with 95% confidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from studies import SMOKE_LIMIT, EmbeddingCache, K, RankingEvaluator, RankingQuality, beir_datasets, documentation

from qvec import Calibration, RangeMethod
from qvec.evaluation.metrics import Interval, confidence_interval
from qvec.training.scoring import Scorer

LEVELS = {"8-bit": "int8", "4-bit": "int4", "trinary": "ternary", "binary": "binary"}
SCALINGS = {
    "min/max": RangeMethod("minmax"),
    "quantile 0.9999": RangeMethod("quantile"),
    "quantile 0.99": RangeMethod("quantile", quantile=0.99),
    "rolling, 4 deviations": RangeMethod("rolling"),
}
UNSCALED = "any"
"""The scaling of binary, which does not depend on the range method."""


@dataclass(frozen=True)
class Line:
    """A level and scaling, with the quality of float32 queries and of quantized queries."""

    level: str
    scaling: str
    unquantized: RankingQuality
    quantized: RankingQuality

    def as_dict(self, dataset: str) -> dict[str, Any]:
        found: dict[str, Any] = {"retrieval": dataset, "level": self.level, "scaling": self.scaling}
        for queries, quality in (("float32", self.unquantized), ("quantized", self.quantized)):
            for metric, values in (("ndcg", quality.ndcgs), ("recall", quality.recalls)):
                found[f"{metric}_{queries}_queries"] = confidence_interval(values)._asdict()
        return found


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cache", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keep embeddings here.")
@click.option("--threshold", default=0.5, show_default=True, help="Share of the mean that is subtracted.")
@click.option("--limit", type=click.IntRange(10), help="Use only this many documentation strings.")
@click.option("--json", "as_json", is_flag=True, help="Print one line for each level and scaling.")
@click.option("--smoke", is_flag=True, help="Few texts and no model: only shows that the study works.")
def main(
    folders: tuple[Path, ...], cache: Path | None, threshold: float, limit: int | None, as_json: bool, smoke: bool
) -> None:
    embeddings = EmbeddingCache(None if smoke else cache, smoke)
    limit = limit or (SMOKE_LIMIT if smoke else None)
    for name, data in {"documentation": documentation(limit), **beir_datasets(folders)}.items():
        lines = list(measure(RankingEvaluator(data, *embeddings.embed(data)), threshold))
        if as_json:
            for line in lines:
                click.echo(json.dumps(line.as_dict(name)))
        else:
            print(f"{name}: {len(data.queries)} queries, {len(data.corpus):,} documents, threshold {threshold:g}\n")
            print_table(lines)


def measure(evaluator: RankingEvaluator, threshold: float) -> Iterator[Line]:
    fitted = {
        name: Calibration.fit(evaluator.documents, threshold=threshold, ranges=ranges)
        for name, ranges in SCALINGS.items()
    }
    any_scaling = next(iter(fitted.values()))
    exact = evaluator.evaluate(Scorer("float32"), any_scaling)
    yield Line("float32", UNSCALED, exact, exact)
    for level, precision in LEVELS.items():
        for scaling, calibration in ({UNSCALED: any_scaling} if level == "binary" else fitted).items():
            qualities = (evaluator.evaluate(Scorer(precision, query), calibration) for query in ("float32", precision))
            yield Line(level, scaling, *qualities)


def print_table(lines: list[Line]) -> None:
    """Print a Markdown table in percent."""
    print(f"| documents | scaling | nDCG@{K} | recall@{K} | queries too: nDCG@{K} | recall@{K} |")
    print("|---|---|---:|---:|---:|---:|")
    for line in lines:
        qualities = (line.unquantized, line.quantized)
        cells = [_cell(confidence_interval(values)) for each in qualities for values in (each.ndcgs, each.recalls)]
        print(f"| {line.level} | {line.scaling} | {' | '.join(cells)} |")
    print()


def _cell(found: Interval) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


if __name__ == "__main__":
    main()
