"""What words add to vectors: nDCG@10 and milliseconds of searches by vectors, by words and by both, on both databases.

Run: python benchmarks/hybrid.py DIR
DIR is a retrieval collection in the BEIR layout (corpus.jsonl, queries.jsonl, qrels). Vectors are MiniLM's. Relevant
documents count alike. After each nDCG@10 stands its interval of 95%, and after both its gain over vectors alone.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from measure import scratch_database
from numpy.typing import NDArray

from qvec import Calibration, Hit, connect
from qvec.embedding import PACKAGED_MODEL, CachedQueries, load_embedder
from qvec.evaluation.metrics import compare, confidence_interval, ndcg
from qvec.training.text_datasets import RetrievalDataset, read_beir

K = 10


@contextmanager
def databases() -> Iterator[list[Any]]:
    with (
        scratch_database() as postgres,
        tempfile.TemporaryDirectory() as directory,
        connect(f"qdrant:{directory}/db") as qdrant,
    ):
        yield [postgres, qdrant]


def load(database: Any, data: RetrievalDataset, vectors: NDArray[np.float32], embedder: CachedQueries) -> Any:
    docs = database.create_collection("docs", calibration=Calibration.fit(vectors), id_type="text")
    docs.embedder = embedder
    docs.index_texts("english")
    docs.upsert(list(data.corpus), vectors, documents=list(data.corpus.values()))
    docs.index_texts("english")
    docs.build_index()
    return docs


def judged(search: Callable[[str], list[Hit]], data: RetrievalDataset) -> tuple[NDArray[np.float64], float]:
    """nDCG@10 of each query, and the milliseconds of one."""
    started = time.perf_counter()
    found = {query: [str(hit.id) for hit in search(text)] for query, text in data.queries.items()}
    milliseconds = (time.perf_counter() - started) / len(found) * 1e3
    gains = [ndcg(ids, dict.fromkeys(data.relevant[query], 1), K) for query, ids in found.items()]
    return np.array(gains), milliseconds


def main(folder: Path) -> None:
    data = read_beir(folder)
    embedder = CachedQueries(load_embedder(PACKAGED_MODEL), size=len(data.queries))
    vectors = embedder.embed_documents(list(data.corpus.values()))
    embedder.embed_queries(list(data.queries.values()))  # so that no search embeds
    print(f"{folder.name}: {len(data.queries)} queries, {len(data.corpus):,} documents")
    with databases() as opened:
        for database in opened:
            docs = load(database, data, vectors, embedder)
            ways: dict[str, Callable[[str], list[Hit]]] = {
                "vectors": lambda text, docs=docs: docs.search(text, K),
                "words": lambda text, docs=docs: docs.search_text(text, K),
                "both, by ranks": lambda text, docs=docs: docs.search_hybrid(text, K),
                "both, by scores": lambda text, docs=docs: docs.search_hybrid(text, K, fusion="scores"),
            }
            alone, _ = judged(ways["vectors"], data)
            for name, search in ways.items():
                gains, milliseconds = judged(search, data)
                found, gain = confidence_interval(gains), compare(gains, alone).difference
                print(
                    f"{database.kind:10} {name:16} {found.value:6.1%} ({found.low:.1%} to {found.high:.1%})"
                    f" {milliseconds:7.2f} ms  {gain.value:+.1%} ({gain.low:+.1%} to {gain.high:+.1%})"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
