"""The chart of the README: sizes, and recall@10 against milliseconds per search, of benchmarks/search_methods.py.

Run: python benchmarks/tradeoff.py docs/tradeoff.svg (or .png)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import matplotlib.pyplot as plt
import numpy as np
from harness import IN_MEMORY, Sizes, Vectors, embedded_postgres, open_session, size_options
from realistic import realistic_data
from search_methods import BitsAndHalfvec, HalfvecHnsw, Int8Codes, Search, SearchMethod, nearest_ids, recall

_LOWEST, _HIGHEST = 0.93, 0.99
_COLOURS = {"o": "#c2410c", "s": "#64748b", "^": "#94a3b8"}
Curve = list[tuple[float, float]]
"""Recall and milliseconds of each setting."""


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=400, repeat=5))
@click.argument("path", required=False, type=click.Path(dir_okay=False, path_type=Path))
def main(sizes: Sizes, path: Path | None) -> None:
    if path is None and not sizes.smoke:
        raise click.UsageError("give the PATH of the chart, .svg or .png")
    vectors, queries = realistic_data(sizes)
    truth = nearest_ids(vectors, queries)
    with embedded_postgres(IN_MEMORY) as (database, url), open_session(url) as first, open_session(url) as second:
        methods = (Int8Codes(database), HalfvecHnsw(first), BitsAndHalfvec(second))
        for method in methods:
            method.fill(vectors)
        curves = measure_curves(methods, queries, truth, sizes.repeat)
        megabytes = {method.name: method.total_bytes() / 1e6 for method in methods}
    for name, curve in curves.items():
        print(f"{name}: {megabytes[name]:.0f} MB")
        print(*(f"  {found:.1%} {taken:.2f} ms" for found, taken in curve), sep="\n")
    with TemporaryDirectory() as scratch:
        draw(megabytes, curves, path or Path(scratch) / "tradeoff.svg")


def measure_curves(
    methods: Sequence[SearchMethod], queries: Vectors, truth: list[set[int]], repeat: int
) -> dict[str, Curve]:
    """Return the curve of each method, by name. In every repetition the methods take turns."""
    recalls = {method.name: recalls_of(method, queries, truth) for method in methods}
    seconds: dict[tuple[str, float], list[float]] = defaultdict(list)
    for repetition in range(repeat):
        for method in methods[:: -1 if repetition % 2 else 1]:
            for setting in recalls[method.name]:
                seconds[method.name, setting] += search_seconds(method.configure(setting), queries)
    return {
        name: [(found, float(np.median(seconds[name, setting])) * 1e3) for setting, found in settings.items()]
        for name, settings in recalls.items()
    }


def recalls_of(method: SearchMethod, queries: Vectors, truth: list[set[int]]) -> dict[float, float]:
    """Return the recall of each setting that finds at least 93%, up to the first that finds 99%."""
    recalls: dict[float, float] = {}
    for setting in method.settings:
        recalls[setting] = recall(method.configure(setting), queries, truth)
        if recalls[setting] >= _HIGHEST:
            break
    return {setting: found for setting, found in recalls.items() if found >= _LOWEST}


def search_seconds(search: Search, queries: Vectors) -> list[float]:
    """Return the time of each search."""
    times = []
    for query in queries:
        started = time.perf_counter()
        search(query)
        times.append(time.perf_counter() - started)
    return times


def draw(megabytes: dict[str, float], curves: dict[str, Curve], path: Path) -> None:
    """Write a chart: megabytes as bars on the left, recall against milliseconds on the right."""
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(2, 3))
    for (name, points), marker in zip(curves.items(), "os^", strict=True):
        bars.barh(name, megabytes[name], color=_COLOURS[marker])
        bars.text(megabytes[name], name, f" {megabytes[name]:.0f} MB", va="center")
        lines.plot(*np.array(points).reshape(-1, 2).T, marker=marker, color=_COLOURS[marker], label=name, linewidth=2)
    bars.set_title("table and index", loc="left")
    bars.set_xlim(right=1.25 * max(megabytes.values()))
    bars.xaxis.set_visible(False)
    bars.invert_yaxis()
    bars.tick_params(left=False)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    lines.set_title("milliseconds a search (median) at recall@10", loc="left")
    lines.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    lines.set_ylim(bottom=0)
    lines.grid(alpha=0.25)
    lines.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
