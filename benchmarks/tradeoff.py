"""The picture of the README: recall@10 against milliseconds a search, for the three ways of benchmarks/search.py.

Run: python benchmarks/tradeoff.py docs/tradeoff.svg
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

QUERIES, REPETITIONS = 200, 3
_LOWEST = 0.9


def curve(way: Way, queries: NDArray[np.float32], truth: list[set[int]]) -> list[tuple[float, float]]:
    """Recall and the median milliseconds of each setting, up to the first that finds nearly all."""
    points = []
    for setting in way.settings:
        search = way.configure(setting)
        found = recall(search, queries, truth)
        points.append((found, milliseconds(search, queries)))
        if found >= 0.995:
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


def draw(curves: dict[str, list[tuple[float, float]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for (label, points), colour, marker in zip(curves.items(), ("#c2410c", "#64748b", "#94a3b8"), "os^", strict=True):
        axes.plot(*zip(*points, strict=True), marker=marker, color=colour, label=label, linewidth=2)
    axes.set_xlabel("recall@10 against exact float32 search")
    axes.set_ylabel("milliseconds a search (median)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title=f"{ROWS:,} × {DIMENSIONS:,} in Postgres, table and index", alignment="left")
    figure.savefig(path, facecolor="white")


def main(path: Path) -> None:
    vectors, queries = realistic_vectors(ROWS, DIMENSIONS), realistic_queries(QUERIES, DIMENSIONS)
    truth = nearest_ids(vectors, queries)
    with scratch_database() as database, plain_connection(database) as connection:
        ways = (
            qvec_way(database, vectors),
            halfvec_way(connection, vectors),
            handwritten_way(connection, vectors),
        )
        curves = {f"{way.name}: {way.bytes_total / 1e6:.0f} MB": curve(way, queries, truth) for way in ways}
    for name, points in curves.items():
        print(name, *(f"{found:.1%} {taken:.2f} ms" for found, taken in points), sep="\n  ")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(curves, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
