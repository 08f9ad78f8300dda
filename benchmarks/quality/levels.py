"""What each level of quantization costs a model: levels, scalings, and queries quantized or not.

    python benchmarks/quality/levels.py [FOLDER]... [--cache FILE]

In the manner of Jina's article on quantization-aware training: documents in 8 bits, 4 bits, trinary and binary, scaled
by min/max, quantiles or rolling averages, against queries left as they are or quantized likewise. MiniLM embeds the
documentation strings of Python's standard library, whose first lines are to find the rest of them, and the texts of
each FOLDER in the BEIR layout. Intervals are bootstrapped over the queries, with 95% confidence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from embeddings import Embeddings
from judging import Judge, Judged, K
from texts import documentation, named

from qvec import Calibration, RangeMethod
from qvec.evaluation.intervals import interval
from qvec.evaluation.results import Interval
from qvec.training.scoring import Comparison

LEVELS = {"8-bit": "int8", "4-bit": "int4", "trinary": "ternary", "binary": "binary"}
SCALINGS = {
    "min/max": RangeMethod("minmax"),
    "quantile 0.9999": RangeMethod("quantile"),
    "quantile 0.99": RangeMethod("quantile", quantile=0.99),
    "rolling, 4 deviations": RangeMethod("rolling"),
}
UNSCALED = "any"
"""The scaling of binary, which has none: its threshold and its deviation are those of the vectors."""


@dataclass(frozen=True)
class Line:
    """A level and scaling: what queries in float32 find, and queries in the same precision."""

    level: str
    scaling: str
    unquantized: Judged
    quantized: Judged

    def as_dict(self, retrieval: str) -> dict[str, Any]:
        found: dict[str, Any] = {"retrieval": retrieval, "level": self.level, "scaling": self.scaling}
        for queries, judged in (("float32", self.unquantized), ("quantized", self.quantized)):
            for metric, values in (("ndcg", judged.ndcgs), ("recall", judged.recalls)):
                found[f"{metric}_{queries}_queries"] = interval(values)._asdict()
        return found


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--cache", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Keeps the embeddings.")
@click.option("--threshold", default=0.5, show_default=True, help="Share of the mean that is subtracted.")
@click.option("--json", "as_json", is_flag=True, help="One line a level and scaling.")
def main(folders: tuple[Path, ...], cache: Path | None, threshold: float, as_json: bool) -> None:
    embeddings = Embeddings(cache)
    for name, data in {"documentation": documentation(), **named(folders)}.items():
        lines = list(measured(Judge(data, *embeddings.of(data)), threshold))
        if as_json:
            for line in lines:
                click.echo(json.dumps(line.as_dict(name)))
        else:
            print(f"{name}: {len(data.queries)} queries, {len(data.corpus):,} documents, threshold {threshold:g}\n")
            print_table(lines)


def measured(judge: Judge, threshold: float) -> Iterator[Line]:
    fitted = {
        name: Calibration.fit(judge.documents, threshold=threshold, ranges=ranges) for name, ranges in SCALINGS.items()
    }
    some = next(iter(fitted.values()))
    exact = judge.judged(Comparison("float32"), some)
    yield Line("float32", UNSCALED, exact, exact)
    for level, precision in LEVELS.items():
        for scaling, calibration in ({UNSCALED: some} if level == "binary" else fitted).items():
            both = (judge.judged(Comparison(precision, query), calibration) for query in ("float32", precision))
            yield Line(level, scaling, *both)


def print_table(lines: list[Line]) -> None:
    """As Markdown, in percent."""
    print(f"| documents | scaling | nDCG@{K} | recall@{K} | queries too: nDCG@{K} | recall@{K} |")
    print("|---|---|---:|---:|---:|---:|")
    for line in lines:
        judged = (line.unquantized, line.quantized)
        cells = [_cell(interval(values)) for each in judged for values in (each.ndcgs, each.recalls)]
        print(f"| {line.level} | {line.scaling} | {' | '.join(cells)} |")
    print()


def _cell(found: Interval) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f}–{100 * found.high:.1f})"


if __name__ == "__main__":
    main()
