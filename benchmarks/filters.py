"""Recall and speed of searches with filters that 50%, 10%, 1% and 0.1% of the rows pass, on both databases.

Run: python benchmarks/filters.py [ROWS]
100,000 vectors of 384 dimensions unless told. The rows that pass are spread evenly, or lie together: those farthest in
a random direction, where queries mostly are not. Recall@10 is of the exact ten nearest among the rows that pass.
Wanted: at least 97% of the recall without a filter.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from measure import scratch_database
from numpy.typing import NDArray
from realistic import realistic_queries, realistic_vectors

from qvec.calibration import Calibration
from qvec.client import connect
from qvec.metadata_index import MetadataIndex

DIMENSIONS, QUERIES, K, BATCH = 384, 200, 10, 10_000
SHARES = {"50%": 0.5, "10%": 0.1, "1%": 0.01, "0.1%": 0.001}
WANTED = 0.97

Vectors = NDArray[np.float32]


def fields(vectors: Vectors) -> dict[str, NDArray[np.float64]]:
    """A number from 0 to 1 for each row; a filter takes those below its share."""
    random = np.random.default_rng(1)
    along = vectors @ random.standard_normal(vectors.shape[1])
    return {"spread": random.random(len(vectors)), "together": (-along).argsort().argsort() / len(vectors)}


@contextmanager
def databases() -> Iterator[list[Any]]:
    with (
        scratch_database() as postgres,
        tempfile.TemporaryDirectory() as directory,
        connect(f"qdrant:{directory}/db") as qdrant,
    ):
        yield [postgres, qdrant]


def load(database: Any, vectors: Vectors, numbers: dict[str, NDArray[np.float64]]) -> Any:
    docs = database.create_collection("docs", calibration=Calibration.fit(vectors))
    indexes = [MetadataIndex(name, "float") for name in numbers]
    if database.metadata_indexes_first:
        docs.index_metadata(indexes)
    for start in range(0, len(vectors), BATCH):
        rows = range(start, min(start + BATCH, len(vectors)))
        metadata = [{name: float(values[row]) for name, values in numbers.items()} for row in rows]
        docs.upsert(rows, vectors[rows.start : rows.stop], metadata=metadata)
    docs.build_index()
    if not database.metadata_indexes_first:
        docs.index_metadata(indexes)
    return docs


def recall_and_milliseconds(docs: Any, queries: Vectors, scores: Vectors, filter: Any) -> tuple[float, float]:
    nearest = np.argpartition(-scores, K, axis=1)[:, :K]
    found, started = [], time.perf_counter()
    for query in queries:
        found.append({hit.id for hit in docs.search(query, K, filter=filter, texts=False)})
    seconds = time.perf_counter() - started
    hits = sum(len(ids & set(row.tolist())) for ids, row in zip(found, nearest, strict=True))
    return hits / (K * len(queries)), seconds / len(queries) * 1e3


def main(rows: int) -> None:
    vectors, queries = realistic_vectors(rows, DIMENSIONS), realistic_queries(QUERIES, DIMENSIONS)
    numbers, scores = fields(vectors), queries @ vectors.T
    print(f"{rows:,} × {DIMENSIONS}, {QUERIES} queries, recall@{K} at the default of 4 candidates a hit")
    print(f"{'database':10} {'filter':16} {'recall':>8} {'of unfiltered':>14} {'ms':>8}")
    with databases() as opened:
        for database in opened:
            docs = load(database, vectors, numbers)
            whole, milliseconds = recall_and_milliseconds(docs, queries, scores, None)
            print(f"{database.kind:10} {'none':16} {whole:8.1%} {'':14} {milliseconds:8.2f}")
            for name, values in numbers.items():
                for label, share in SHARES.items():
                    passing = np.where(values < share, scores, -np.inf).astype(np.float32)
                    found, milliseconds = recall_and_milliseconds(docs, queries, passing, {name: {"$lt": share}})
                    short = "" if found >= WANTED * whole else f"   short of {WANTED:.0%}"
                    print(
                        f"{database.kind:10} {f'{name} {label}':16} {found:8.1%} {found / whole:14.1%}"
                        f" {milliseconds:8.2f}{short}"
                    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
