"""What quantizing costs on real relevance judgements: MiniLM embeddings of a folder in the BEIR layout.

    python benchmarks/cranfield.py DIRECTORY

DIRECTORY holds corpus.jsonl, queries.jsonl and qrels.tsv, such as those of Cranfield, whose grades all count as 1. The
corpus is loaded into an embedded Postgres as a user loads it, once to keep int8 and once int4, each with the ranges
that serve it, and measured as `qvec eval` measures; recall@10 is against exact float32. After the tables follow the
floors that Cranfield has to hold, and what was found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import scratch_database
from numpy.typing import NDArray

from qvec import Calibration
from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.evaluation.dataset import Qrels, Queries, read_qrels, read_queries, rows_of_source
from qvec.evaluation.evaluate import evaluate
from qvec.evaluation.results import Evaluation, Result
from qvec.ingest import IngestOptions, ingest
from qvec.sources import open_source

K = 10
Floats = NDArray[np.float32]

BOTH = {
    "none/float32": "float32, every row",
    "none/binary": "bits, every row, query in float32",
    "ternary/none": "ternary bits alone, both sides",
    "binary/none/scan": "sign bits alone, both sides",
}
SHOWN = {
    "int8": {
        **BOTH,
        "none/int8": "int8, every row",
        "ternary/int8/4": "int8 of 40 by ternary, HNSW",
        "ternary/int8/4/scan": "int8 of 40 by ternary, scan",
        "binary/int8/4/scan": "int8 of 40 by sign bits, scan",
        "binary/int8/10/scan": "int8 of 100 by sign bits, scan",
    },
    "int4": {
        **BOTH,
        "none/int4": "int4, every row",
        "ternary/int4/4": "int4 of 40 by ternary, HNSW",
        "ternary/int4/4/scan": "int4 of 40 by ternary, scan",
        "binary/int4/10/scan": "int4 of 100 by sign bits, scan",
    },
}
"""What is shown of a collection that keeps a precision."""
FLOORS = [
    ("int8", "ternary/int8/4", 98.0),
    ("int8", "binary/int8/4/scan", 93.5),
    ("int8", "none/int8", 99.0),
    ("int4", "none/int4", 95.0),
    ("int8", "none/binary", 72.0),
]


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(directory: Path) -> None:
    qrels = binary(read_qrels(directory / "qrels.tsv"))
    with TemporaryDirectory() as scratch:
        corpus, asked = Path(scratch) / "corpus.parquet", Path(scratch) / "queries.parquet"
        embedder = load_embedder(PACKAGED_MODEL)
        embed(directory / "corpus.jsonl", corpus, embedder.embed_documents)
        embed(directory / "queries.jsonl", asked, embedder.embed_queries)
        found = {rescore: measured(corpus, asked, qrels, rescore) for rescore in SHOWN}
    rows, queries = found["int8"].rows, found["int8"].queries
    print(f"{rows:,} documents, {queries} queries; recall@{K} of the first {K} by float32\n")
    for rescore, evaluation in found.items():
        print_table(rescore, evaluation)
    print_floors(found)


def embed(texts: Path, path: Path, embedding: Callable[[list[str]], Floats]) -> None:
    """Writes ids and vectors of a file's texts."""
    with open_source(texts) as source:
        batches = list(source.batches())
    vectors = embedding([text for batch in batches for text in batch.documents.to_pylist()])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"id": pa.concat_arrays([batch.ids for batch in batches]), "vector": column}), path)


def binary(qrels: Qrels) -> Qrels:
    """Every relevant document counts the same."""
    return {query: {document: 1 for document, grade in grades.items() if grade > 0} for query, grades in qrels.items()}


def measured(corpus: Path, asked: Path, qrels: Qrels, rescore: str) -> Evaluation:
    """The corpus in a collection that keeps a precision, and every way to search it."""
    with scratch_database() as database, open_source(corpus) as source:
        ingest(database, source, IngestOptions("corpus", rescore=rescore))
        collection = database.collection("corpus")
        rows = rows_of_source(source, collection.calibration, None, 0)
        queries = queries_of(asked, collection.calibration)
        return evaluate(collection, queries, rows, k=K, oversamplings=(1, 2, 4, 10), qrels=qrels)


def queries_of(asked: Path, calibration: Calibration) -> Queries:
    with open_source(asked) as source:
        return read_queries(source, calibration, lambda: load_embedder(PACKAGED_MODEL))


def print_table(rescore: str, evaluation: Evaluation) -> None:
    print(f"A collection that keeps {rescore}")
    named = {result.name: result for result in evaluation.results}
    for name, words in SHOWN[rescore].items():
        print_line(words, named[name])
    print()


def print_line(words: str, result: Result) -> None:
    assert result.ndcg is not None
    recall, ndcg = result.recall, result.ndcg
    print(
        f"  {words:36} {result.bytes_per_vector:6,.0f} B   recall {100 * recall.value:6.2f} "
        f"({100 * recall.low:.1f}–{100 * recall.high:.1f})   nDCG {100 * ndcg.value:.2f}"
    )


def print_floors(found: dict[str, Evaluation]) -> None:
    """What Cranfield has to hold with the calibrations that are fitted by default."""
    named = {(rescore, result.name): result for rescore, of in found.items() for result in of.results}
    for rescore, name, floor in FLOORS:
        words = f"recall@{K} of {SHOWN[rescore][name]} at least {floor}"
        report(words, 100 * named[rescore, name].recall.value, lambda x, f=floor: x >= f)
    exact, quantized = named["int8", "none/float32"].ndcg, named["int8", "ternary/int8/4"].ndcg
    assert exact is not None
    assert quantized is not None
    lost = 100 * (exact.value - quantized.value)
    report("nDCG@10 of int8 of 40 by ternary within 0.3 of float32", lost, lambda x: abs(x) <= 0.3)


def report(words: str, value: float, holds: Callable[[float], bool]) -> None:
    print(f"{'holds' if holds(value) else 'FAILS'}  {words}: {value:.2f}")


if __name__ == "__main__":
    main()
