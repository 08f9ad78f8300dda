"""Searches per second at equal recall, time of an index build, and size: the methods of benchmarks/search_methods.py.

Run: python benchmarks/search.py
Goals at a recall@10 of 97%: 2 times the searches of halfvec HNSW; the index built 3 times as fast; 0.55 of the size of
bit + halfvec with its index, and 0.3 of that of halfvec with its index.
"""

from __future__ import annotations

import click
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
        for other, goal in zip(others, (0.3, 0.55), strict=True):
            megabytes = ([ours.total_bytes() / 1e6], [other.total_bytes() / 1e6])
            table.compare(f"table and index, against {other.name}", *megabytes, "MB", f"at most {goal:g}")
        for other, goal in zip(others, (3.0, 0.9), strict=True):
            per_hour = ([3600 / ours.build_seconds], [3600 / other.build_seconds])
            table.compare(f"index builds, against {other.name}", *per_hour, "1/hour", f"at least {goal:g}")
        for wanted, goals in ((0.97, (2.0, 1.0)), (0.99, (1.0, 1.0))):
            compare_at_recall(table, wanted, (ours, *others), goals, queries, truth, sizes)


if __name__ == "__main__":
    main()
