"""The prefilters of Postgres: memory, build time, and milliseconds of a search at equal recall, beside halfvec HNSW.

Run: python benchmarks/prefilters.py [--rows N] [--dimensions D]
Each prefilter is an HNSW index over bits that it reads from int8 codes; hits are rescored by the codes. A line shows
the smallest setting that reaches a recall@10 on one half of the queries (candidates a hit, or ef_search), with the
recall and the milliseconds on the other half. Methods take turns.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial

import click
from harness import IN_MEMORY, Sizes, Vectors, alternate, embedded_postgres, open_session, size_options
from realistic import realistic_data
from search_methods import (
    HalfvecHnsw,
    Int8Codes,
    Search,
    SearchMethod,
    nearest_ids,
    recall,
    search_all,
    smallest_setting,
)

from qvec.prefilter_levels import LEVELS

RECALLS = (0.95, 0.97, 0.99)


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=400, repeat=5))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    truth = nearest_ids(vectors, queries)
    with embedded_postgres(IN_MEMORY) as (database, url), open_session(url) as session:
        methods = [*(Int8Codes(database, prefilter) for prefilter in LEVELS), HalfvecHnsw(session)]
        print(f"{'':<22} {'MB':>7} {'build s':>8}")
        for method in methods:
            method.fill(vectors)
            print(f"{method.name:<22} {method.total_bytes() / 1e6:>7.0f} {method.build_seconds:>8.1f}", flush=True)
        for wanted in RECALLS:
            print(f"\nrecall@10 of {wanted:.0%}")
            compare(methods, wanted, queries, truth, sizes.repeat)


def compare(
    methods: Sequence[SearchMethod], wanted: float, queries: Vectors, truth: list[set[int]], repeat: int
) -> None:
    """Print the setting, recall and milliseconds of each method that reaches a recall."""
    half = len(queries) // 2
    searches: dict[str, Search] = {}
    settings: dict[str, float] = {}
    for method in methods:
        setting = smallest_setting(method, wanted, queries[:half], truth[:half])
        if setting is None:
            print(f"{method.name:<22} not reached with {method.settings[-1]:g}", flush=True)
            continue
        searches[method.name], settings[method.name] = method.configure(setting), setting
    works = {name: partial(search_all, search, queries[half:]) for name, search in searches.items()}
    taken = alternate(works, repeat)
    for name, search in searches.items():
        found = recall(search, queries[half:], truth[half:])
        milliseconds = statistics.median(taken[name]) * 1e3 / (len(queries) - half)
        print(f"{name:<22} at {settings[name]:>5g} {found:>7.1%} {milliseconds:>7.2f} ms", flush=True)


if __name__ == "__main__":
    main()
