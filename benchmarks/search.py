"""Searches per second at equal recall, time of an index build, and size: the methods of benchmarks/search_methods.py.

Run: python benchmarks/search.py [--rows N] [--dimensions D]
Goals: half the size of halfvec with its HNSW and an index built 3 times as fast; 0.8 of its searches at a recall@10 of
97%, as many at 99%, with one client and with 8; as many searches as bit + halfvec, in 0.6 of its size.
"""

from __future__ import annotations

import click
from concurrent_clients import CLIENTS, concurrent_rates
from harness import IN_MEMORY, Sizes, Table, embedded_postgres, open_session, size_options
from realistic import realistic_data
from search_methods import BitsAndHalfvec, HalfvecHnsw, Int8Codes, compare_at_recall, nearest_ids


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=400, repeat=7))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    truth = nearest_ids(vectors, queries)
    with embedded_postgres(IN_MEMORY) as (database, url), open_session(url) as first, open_session(url) as second:
        ours = Int8Codes(database)
        others = (HalfvecHnsw(first), BitsAndHalfvec(second))
        for method in (ours, *others):
            method.fill(vectors)
        table = Table(sizes)
        for other, goal in zip(others, (0.5, 0.6), strict=True):
            megabytes = ([ours.total_bytes() / 1e6], [other.total_bytes() / 1e6])
            table.compare(f"table and index, against {other.name}", *megabytes, "MB", f"at most {goal:g}")
        for other, goal in zip(others, (3.0, 0.9), strict=True):
            per_hour = ([3600 / ours.build_seconds], [3600 / other.build_seconds])
            table.compare(f"index builds, against {other.name}", *per_hour, "1/hour", f"at least {goal:g}")
        for wanted, goals in ((0.97, (0.8, 1.0)), (0.99, (1.0, 1.0))):
            settings = compare_at_recall(table, wanted, (ours, *others), goals, queries, truth, sizes)
            rates = concurrent_rates(url, settings, queries[len(queries) // 2 :], sizes.repeat)
            for other, goal in zip(others, goals, strict=True):
                if type(ours) in rates and type(other) in rates:
                    title = f"the same by {CLIENTS} clients at once, against {other.name}"
                    table.compare(title, rates[type(ours)], rates[type(other)], "1/s", f"at least {goal:g}")


if __name__ == "__main__":
    main()
