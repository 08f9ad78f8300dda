"""Recall and speed of searches with filters that 50%, 10%, 1% and 0.1% of the rows pass, on both databases.

Run: python benchmarks/filters.py
The rows that pass are spread evenly, or clustered: those farthest in a random direction, where few queries are.
Recall@10 is of the exact ten nearest among the rows that pass; the goal is 97% of the recall without a filter. The time
of a search is compared with that of a search without a filter.
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Sizes, Vectors, alternate, both_databases, ratio, size_options
from numpy.typing import NDArray
from realistic import realistic_data

from qvec import Calibration, Collection, Database
from qvec.ingest import LoadOptions, ingest
from qvec.metadata_index import MetadataIndex
from qvec.sources import open_source

K = 10
SHARES = {"50%": 0.5, "10%": 0.1, "1%": 0.01, "0.1%": 0.001}
GOAL = 0.97

Fields = dict[str, NDArray[np.float64]]
"""By field, a number from 0 to 1 for each row; a filter passes those below its share."""
Filter = dict[str, Any]


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=384, queries=200, repeat=3))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    fields, scores = make_fields(vectors), queries @ vectors.T
    calibration = Calibration.fit(vectors)
    with tempfile.TemporaryDirectory() as scratch, both_databases() as databases:
        path = Path(scratch) / "rows.parquet"
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        pq.write_table(pa.table({"id": np.arange(len(vectors)), "vector": column, **fields}), path)
        print(f"{sizes.rows:,} × {sizes.dimensions}, recall@{K} at the default of 4 candidates per hit")
        print(f"{'database':10} {'filter':16} {'recall':>8} {'of unfiltered':>14} {'ms':>8}  against unfiltered")
        for database in databases:
            measure(load(database, path, calibration), database.kind, queries, fields, scores, sizes)


def make_fields(vectors: Vectors) -> Fields:
    random = np.random.default_rng(1)
    along = vectors @ random.standard_normal(vectors.shape[1])
    return {"spread": random.random(len(vectors)), "clustered": (-along).argsort().argsort() / len(vectors)}


def load(database: Database, path: Path, calibration: Calibration) -> Collection:
    indexes = tuple(MetadataIndex(name, "float") for name in ("spread", "clustered"))
    with open_source(path) as source:
        ingest(database, source, LoadOptions("docs", calibration=calibration, index_metadata=indexes))
    return database.collection("docs")


def measure(docs: Collection, kind: str, queries: Vectors, fields: Fields, scores: Vectors, sizes: Sizes) -> None:
    filters: dict[str, tuple[Filter | None, Vectors]] = {"none": (None, scores)}
    for name, values in fields.items():
        for label, share in SHARES.items():
            passing = np.where(values < share, scores, -np.inf).astype(np.float32)
            filters[f"{name} {label}"] = ({name: {"$lt": share}}, passing)
    recalls = {title: recall(docs, queries, filter, passing) for title, (filter, passing) in filters.items()}
    works = {title: partial(search_all, docs, queries, filter) for title, (filter, _) in filters.items()}
    seconds = alternate(works, sizes.repeat)
    for title, found in recalls.items():
        milliseconds = statistics.median(seconds[title]) / len(queries) * 1e3
        short = "" if found >= GOAL * recalls["none"] or sizes.smoke else f"   short of {GOAL:.0%}"
        share_of_unfiltered = f"{found / recalls['none']:14.1%} {milliseconds:8.2f}"
        against = ratio(seconds[title], seconds["none"])
        print(f"{kind:10} {title:16} {found:8.1%} {share_of_unfiltered}  {against}{short}", flush=True)


def search_all(docs: Collection, queries: Vectors, filter: Filter | None) -> list[set[int | str]]:
    """Return the ids found for each query."""
    return [{hit.id for hit in docs.search(query, K, filter=filter, texts=False)} for query in queries]


def recall(docs: Collection, queries: Vectors, filter: Filter | None, scores: Vectors) -> float:
    """Return the share that is found of the rows with the best scores (m, n), those that pass at all."""
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    wanted = [{int(row) for row in rows if np.isfinite(line[row])} for rows, line in zip(best, scores, strict=True)]
    found = search_all(docs, queries, filter)
    return sum(len(ids & rows) for ids, rows in zip(found, wanted, strict=True)) / max(sum(map(len, wanted)), 1)


if __name__ == "__main__":
    main()
