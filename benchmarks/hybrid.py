"""What words add to vectors: nDCG@10 and time of searches by vectors, by words and by both, on both databases.

Run: python benchmarks/hybrid.py FOLDER
FOLDER is a retrieval dataset in BEIR's layout (corpus.jsonl, queries.jsonl, qrels.tsv). Vectors are MiniLM's. All
relevant documents count the same. Each nDCG@10 has its interval of 95% confidence, and so has its gain over vectors
alone. The last column is the ratio of the time to that of vectors alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
from harness import Sizes, Vectors, alternate, both_databases, ratio, size_options
from numpy.typing import NDArray
from synthetic import retrieval_data

from qvec import Calibration, Collection, Database, Hit
from qvec.embedding import CachedQueries
from qvec.evaluation.metrics import compare, confidence_interval, ndcg
from qvec.training.text_datasets import RetrievalDataset, read_beir

K = 10
VECTORS = "vectors"

Search = Callable[[str], list[Hit]]


@click.command(help=__doc__)
@size_options(Sizes(repeat=3))
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(sizes: Sizes, folder: Path | None) -> None:
    with retrieval_data(folder, sizes.smoke) as (dataset, model):
        data = read_beir(dataset)
    embedder = CachedQueries(model, size=len(data.queries))
    vectors = embedder.embed_documents(list(data.corpus.values()))
    embedder.embed_queries(list(data.queries.values()))  # so that no search embeds
    print(f"{dataset.name}: {len(data.queries)} queries, {len(data.corpus):,} documents")
    with both_databases() as databases:
        for database in databases:
            measure(load(database, data, vectors, embedder), database.kind, data, sizes)


def load(database: Database, data: RetrievalDataset, vectors: Vectors, embedder: CachedQueries) -> Collection:
    docs = database.create_collection("docs", calibration=Calibration.fit(vectors), id_type="text")
    docs.embedder = embedder
    docs.index_texts("english")
    docs.upsert(list(data.corpus), vectors, documents=list(data.corpus.values()))
    docs.build_index()
    return docs


def measure(docs: Collection, kind: str, data: RetrievalDataset, sizes: Sizes) -> None:
    searches: dict[str, Search] = {
        VECTORS: lambda text: docs.search(text, K),
        "words": lambda text: docs.search_text(text, K),
        "both, by ranks": lambda text: docs.search_hybrid(text, K),
        "both, by scores": lambda text: docs.search_hybrid(text, K, fusion="scores"),
    }
    ndcgs = {name: score(search, data) for name, search in searches.items()}
    seconds = alternate({name: partial(search_all, search, data) for name, search in searches.items()}, sizes.repeat)
    for name, values in ndcgs.items():
        found, gain = confidence_interval(values), compare(values, ndcgs[VECTORS]).difference
        milliseconds = statistics.median(seconds[name]) / len(data.queries) * 1e3
        print(
            f"{kind:10} {name:16} {found.value:6.1%} ({found.low:.1%} to {found.high:.1%})"
            f"  {gain.value:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})"
            f" {milliseconds:7.2f} ms  {ratio(seconds[name], seconds[VECTORS])}",
            flush=True,
        )


def search_all(search: Search, data: RetrievalDataset) -> dict[str, list[str]]:
    """Return the ids found for each query."""
    return {query: [str(hit.id) for hit in search(text)] for query, text in data.queries.items()}


def score(search: Search, data: RetrievalDataset) -> NDArray[np.float64]:
    """Return the nDCG@10 of each query."""
    found = search_all(search, data)
    return np.array([ndcg(ids, dict.fromkeys(data.relevant[query], 1), K) for query, ids in found.items()])


if __name__ == "__main__":
    main()
