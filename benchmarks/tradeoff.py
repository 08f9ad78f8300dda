"""The picture of the README: recall@10 against milliseconds a search, for the three ways of benchmarks/search.py.

Run: python benchmarks/tradeoff.py docs/tradeoff.svg (or .png)
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from measure import plain_connection, scratch_database
from numpy.typing import NDArray
from realistic import realistic_queries, realistic_vectors
from search import DIMENSIONS, ROWS, Search, Way, halfvec_way, handwritten_way, nearest_ids, qvec_way, recall

QUERIES, REPETITIONS = 400, 5
_LOWEST, _HIGHEST = 0.93, 0.99
_COLOURS = {"o": "#c2410c", "s": "#64748b", "^": "#94a3b8"}
Curve = list[tuple[float, float]]


def curve(way: Way, queries: NDArray[np.float32], truth: list[set[int]]) -> Curve:
    """Recall and the median milliseconds of each setting, up to the first that finds 99%."""
    points: Curve = []
    for setting in way.settings:
        search = way.configure(setting)
        points.append((recall(search, queries, truth), milliseconds(search, queries)))
        if points[-1][0] >= _HIGHEST:
            break
    return [point for point in points if point[0] >= _LOWEST]


def milliseconds(search: Search, queries: NDArray[np.float32]) -> float:
    times = []
    for _ in range(REPETITIONS):
        for query in queries:
            started = time.perf_counter()
            search(query)
            times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1e3


def draw(sizes: dict[str, float], curves: dict[str, Curve], path: Path) -> None:
    """Megabytes as bars on the left, recall against milliseconds on the right."""
    figure, (bars, lines) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(2, 3))
    for (name, points), marker in zip(curves.items(), "os^", strict=True):
        bars.barh(name, sizes[name], color=_COLOURS[marker])
        bars.text(sizes[name], name, f" {sizes[name]:.0f} MB", va="center")
        lines.plot(*zip(*points, strict=True), marker=marker, color=_COLOURS[marker], label=name, linewidth=2)
    bars.set_title("table and index", loc="left")
    bars.set_xlim(right=1.25 * max(sizes.values()))
    bars.xaxis.set_visible(False)
    bars.invert_yaxis()
    bars.tick_params(left=False)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    lines.set_title("milliseconds a search (median) at recall@10", loc="left")
    lines.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    lines.set_ylim(bottom=0)
    lines.grid(alpha=0.25)
    lines.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)


def main(path: Path) -> None:
    vectors, queries = realistic_vectors(ROWS, DIMENSIONS), realistic_queries(QUERIES, DIMENSIONS)
    truth = nearest_ids(vectors, queries)
    with scratch_database() as database, plain_connection(database) as connection:
        ways = (
            qvec_way(database, vectors),
            halfvec_way(connection, vectors),
            handwritten_way(connection, vectors),
        )
        curves = {way.name: curve(way, queries, truth) for way in ways}
    for way in ways:
        print(f"{way.name}: {way.bytes_total / 1e6:.0f} MB")
        print(*(f"  {found:.1%} {taken:.2f} ms" for found, taken in curves[way.name]), sep="\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw({way.name: way.bytes_total / 1e6 for way in ways}, curves, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
