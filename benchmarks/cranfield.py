"""What quantizing costs on real relevance judgements: MiniLM embeddings of a folder in BEIR's layout.

    python benchmarks/cranfield.py FOLDER

FOLDER holds corpus.jsonl, queries.jsonl and qrels.tsv, such as those of Cranfield; all relevant documents count the
same. The corpus is loaded into an embedded Postgres as a user loads it (of a document the text, without its title),
once to keep int8 and once int4, each with the ranges that suit it. It is measured as `qvec eval` measures; recall@10 is
against exact float32. After the tables come the goals for Cranfield, and what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import pyarrow as pa
import pyarrow.parquet as pq
from harness import Sizes, Vectors, embedded_postgres, size_options
from synthetic import retrieval_data

from qvec.evaluation.dataset import Queries, rows_of_source
from qvec.evaluation.evaluation_results import Evaluation, Result
from qvec.evaluation.evaluator import evaluate
from qvec.ingest import LoadOptions, ingest
from qvec.sources import open_source
from qvec.training.text_datasets import RetrievalDataset, read_beir

K = 10
OVERSAMPLINGS = (1, 2, 4, 10)

_FOR_BOTH = {
    "none/float32": "float32, every row",
    "none/binary": "bits, every row, query in float32",
    "levels6/none": "levels6 alone, both sides",
    "binary/none/scan": "sign bits alone, both sides",
}
SHOWN = {
    "int8": {
        **_FOR_BOTH,
        "none/int8": "int8, every row",
        "levels6/int8/4": "int8 of 40 by levels6, HNSW",
        "levels6/int8/4/scan": "int8 of 40 by levels6, scan",
        "binary/int8/4/scan": "int8 of 40 by sign bits, scan",
        "binary/int8/10/scan": "int8 of 100 by sign bits, scan",
    },
    "int4": {
        **_FOR_BOTH,
        "none/int4": "int4, every row",
        "levels6/int4/4": "int4 of 40 by levels6, HNSW",
        "levels6/int4/4/scan": "int4 of 40 by levels6, scan",
        "binary/int4/10/scan": "int4 of 100 by sign bits, scan",
    },
}
"""The results that are shown, by the precision that a collection keeps, and what they are called."""
RECALL_GOALS = {
    ("int8", "levels6/int8/4"): 98.0,
    ("int8", "binary/int8/4/scan"): 93.5,
    ("int8", "none/int8"): 99.0,
    ("int4", "none/int4"): 95.0,
    ("int8", "none/binary"): 72.0,
}
NDCG_LOSS_GOAL = 0.3


@click.command(help=__doc__)
@size_options(Sizes())
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(sizes: Sizes, folder: Path | None) -> None:
    with retrieval_data(folder, sizes.smoke) as (dataset, model):
        data = read_beir(dataset)
        ids, texts = read_corpus(dataset)
    queries = Queries(tuple(data.queries), model.embed_queries(list(data.queries.values())), "queries.jsonl")
    with TemporaryDirectory() as scratch:
        corpus = Path(scratch) / "corpus.parquet"
        write_vectors(corpus, ids, model.embed_documents(texts))
        found = {rescore: measure(corpus, queries, data, rescore) for rescore in SHOWN}
    print(f"{len(ids):,} documents, {len(queries)} queries; recall@{K} of the first {K} by float32\n")
    for rescore, evaluation in found.items():
        print_table(rescore, evaluation)
    if not sizes.smoke:
        print_goals(found)


def read_corpus(folder: Path) -> tuple[list[str], list[str]]:
    """Return ids and texts of the documents as a load reads them."""
    ids: list[str] = []
    texts: list[str] = []
    with open_source(folder / "corpus.jsonl") as source:
        for batch in source.batches():
            assert batch.ids is not None
            assert batch.documents is not None
            ids += batch.ids.to_pylist()
            texts += batch.documents.to_pylist()
    return ids, texts


def write_vectors(path: Path, ids: list[str], vectors: Vectors) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    pq.write_table(pa.table({"id": ids, "vector": column}), path)


def measure(corpus: Path, queries: Queries, data: RetrievalDataset, rescore: str) -> Evaluation:
    """Measure a collection that keeps a precision, searched in every way."""
    qrels = {query: dict.fromkeys(documents, 1) for query, documents in data.relevant.items()}
    with embedded_postgres() as (database, _), open_source(corpus) as source:
        ingest(database, source, LoadOptions("corpus", rescore=rescore))
        collection = database.collection("corpus")
        rows = rows_of_source(source, collection.calibration, None, 0)
        return evaluate(collection, queries, rows, k=K, oversamplings=OVERSAMPLINGS, qrels=qrels)


def print_table(rescore: str, evaluation: Evaluation) -> None:
    print(f"A collection that keeps {rescore}")
    results = {result.name: result for result in evaluation.results}
    for name, title in SHOWN[rescore].items():
        print_line(title, results[name])
    print()


def print_line(title: str, result: Result) -> None:
    assert result.ndcg is not None
    recall, ndcg = result.recall, result.ndcg
    print(
        f"  {title:36} {result.bytes_per_vector:6,.0f} B   recall {100 * recall.value:6.2f} "
        f"({100 * recall.low:.1f}–{100 * recall.high:.1f})   nDCG {100 * ndcg.value:.2f}"
    )


def print_goals(found: Mapping[str, Evaluation]) -> None:
    """Print what collections with the default calibrations should reach on Cranfield."""
    results = {(rescore, result.name): result for rescore, of in found.items() for result in of.results}
    for (rescore, name), goal in RECALL_GOALS.items():
        recall = 100 * results[rescore, name].recall.value
        print_goal(f"recall@{K} of {SHOWN[rescore][name]} at least {goal}", recall, recall >= goal)
    exact, quantized = results["int8", "none/float32"].ndcg, results["int8", "levels6/int8/4"].ndcg
    assert exact is not None
    assert quantized is not None
    lost = 100 * (exact.value - quantized.value)
    title = f"nDCG@{K} of {SHOWN['int8']['levels6/int8/4']} within {NDCG_LOSS_GOAL} of float32"
    print_goal(title, lost, abs(lost) <= NDCG_LOSS_GOAL)


def print_goal(title: str, value: float, is_reached: bool) -> None:
    print(f"{'reached' if is_reached else 'MISSED '}  {title}: {value:.2f}")


if __name__ == "__main__":
    main()
