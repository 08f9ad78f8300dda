"""Methods of searching in Postgres with an index, compared by size, build time, and speed at equal recall.

qvec's int8 collection is compared with pgvector's halfvec HNSW, and with what is usually written by hand: HNSW on a bit
column, rescoring on a halfvec column in external storage. Each method gets the smallest of its settings that reaches a
recall on one half of the queries; recall and speed are then measured on the other half.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import psycopg
from harness import Session, Sizes, Table, Vectors, Work, alternate, rates
from numpy.typing import NDArray
from pgvector import Bit, HalfVector

from qvec import Calibration, Database

K = 10
EF = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 600)
OVERSAMPLING = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 60)

Search = Callable[[NDArray[np.float32]], list[int]]
"""Returns the ids of the K rows nearest to a query (d,)."""


@dataclass(frozen=True)
class SearchMethod:
    """A table with its index, and the searches that its settings give, from fast to thorough."""

    name: str
    settings: Sequence[float]
    configure: Callable[[float], Search]
    """Return the search with a setting. Only the search that was configured last may be used."""
    build_seconds: float = 0
    total_bytes: int = 0


def qvec_int8(database: Database, vectors: Vectors, prefilter: str = "ternary") -> SearchMethod:
    """Fill a collection with int8 codes, rescored in the client."""
    calibration = Calibration.fit(vectors)
    collection = database.create_collection(f"qvec_{prefilter}", calibration=calibration, prefilter=prefilter)
    for start in range(0, len(vectors), 10_000):
        part = vectors[start : start + 10_000]
        collection.upsert(np.arange(start, start + len(part)), part)
    seconds = _seconds(collection.build_index)
    info = collection.info()

    def configure(oversampling: float) -> Search:
        return lambda query: [int(hit.id) for hit in collection.search(query, K, oversampling, texts=False)]

    total_bytes = (info.table_bytes or 0) + (info.index_bytes or 0)
    return SearchMethod(f"qvec int8, {prefilter}", OVERSAMPLING, configure, seconds, total_bytes)


def halfvec_hnsw(session: Session, vectors: Vectors) -> SearchMethod:
    """Fill a table of halfvec with pgvector's HNSW index. The session sets hnsw.ef_search for this method alone."""
    dimensions = vectors.shape[1]
    session.execute(f"CREATE TABLE halves (id bigint PRIMARY KEY, embedding halfvec({dimensions}))".encode())
    with session.cursor().copy("COPY halves (id, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "halfvec"])
        for row, vector in enumerate(vectors):
            copy.write_row([row, HalfVector(vector)])
    seconds = _build(session, "CREATE INDEX ON halves USING hnsw (embedding halfvec_ip_ops)")
    query = f"SELECT id FROM halves ORDER BY embedding <#> %b LIMIT {K}"

    def configure(ef: float) -> Search:
        _set_ef(session, ef)
        return lambda vector: _ids(session, query, [HalfVector(vector)])

    return SearchMethod("pgvector halfvec HNSW", EF, configure, seconds, _total_bytes(session, "halves"))


def bits_and_halfvec(session: Session, vectors: Vectors) -> SearchMethod:
    """Fill a table of sign bits with HNSW and of halfvec. The session sets hnsw.ef_search for this method alone."""
    dimensions = vectors.shape[1]
    session.execute(
        f"CREATE TABLE bits_and_halves (id bigint PRIMARY KEY, bits bit({dimensions}),"
        f" embedding halfvec({dimensions}));"
        " ALTER TABLE bits_and_halves ALTER embedding SET STORAGE EXTERNAL".encode()
    )
    with session.cursor().copy("COPY bits_and_halves (id, bits, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "bit", "halfvec"])
        for row, vector in enumerate(vectors):
            copy.write_row([row, Bit(vector > 0), HalfVector(vector)])
    seconds = _build(session, "CREATE INDEX ON bits_and_halves USING hnsw (bits bit_hamming_ops)")

    def configure(ef: float) -> Search:
        _set_ef(session, ef)
        query = (
            "SELECT id FROM (SELECT id, embedding FROM bits_and_halves"
            f" ORDER BY bits <~> %b LIMIT {int(ef)}) AS nearest ORDER BY embedding <#> %b LIMIT {K}"
        )
        return lambda vector: _ids(session, query, [Bit(vector > 0), HalfVector(vector)])

    total_bytes = _total_bytes(session, "bits_and_halves")
    return SearchMethod("bit HNSW, halfvec rescoring", EF, configure, seconds, total_bytes)


def _ids(session: Session, query: str, parameters: list[object]) -> list[int]:
    return [row[0] for row in session.execute(query.encode(), parameters, prepare=True).fetchall()]


def _set_ef(session: Session, ef: float) -> None:
    session.execute(f"SET hnsw.ef_search = {int(ef)}".encode())


def _build(session: Session, statement: str) -> float:
    """Return the seconds of an index build with as many workers as qvec uses, and more memory than it needs."""
    session.execute("SET maintenance_work_mem = '2GB'")
    session.execute(f"SET max_parallel_maintenance_workers = {(os.cpu_count() or 1) - 1}".encode())
    return _seconds(lambda: session.execute(statement.encode()))


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _total_bytes(session: Session, table: str) -> int:
    session.execute(psycopg.sql.SQL("VACUUM ANALYZE {}").format(psycopg.sql.Identifier(table)))
    row = session.execute("SELECT pg_total_relation_size(%s::regclass)", [table]).fetchone()
    assert row
    return int(row[0])


# Recall


def search_all(search: Search, queries: Vectors) -> None:
    for query in queries:
        search(query)


def nearest_ids(vectors: Vectors, queries: Vectors) -> list[set[int]]:
    """Return the ids of the K nearest vectors to each query, by exact float32 search."""
    nearest = np.argpartition(-(queries @ vectors.T), K, axis=1)[:, :K]
    return [set(line.tolist()) for line in nearest]


def recall(search: Search, queries: Vectors, truth: list[set[int]]) -> float:
    """Return the share of the true ids that a search finds."""
    found = sum(len(ids.intersection(search(query))) for ids, query in zip(truth, queries, strict=True))
    return found / (K * len(queries))


def smallest_setting(method: SearchMethod, wanted: float, queries: Vectors, truth: list[set[int]]) -> float | None:
    """Return the first setting that reaches a recall; None if none does."""
    for setting in method.settings:
        if recall(method.configure(setting), queries, truth) >= wanted:
            return setting
    return None


def compare_at_recall(
    table: Table,
    wanted: float,
    methods: Sequence[SearchMethod],
    goals: Sequence[float],
    queries: Vectors,
    truth: list[set[int]],
    sizes: Sizes,
) -> None:
    """Compare the searches per second of the first method with those of the others, at an equal recall."""
    half = len(queries) // 2
    searches: dict[str, Search] = {}
    for method in methods:
        setting = smallest_setting(method, wanted, queries[:half], truth[:half])
        if setting is None:
            print(f"  {method.name} does not reach {wanted:.0%} with {method.settings[-1]:g}")
            continue
        searches[method.name] = method.configure(setting)
        reached = recall(searches[method.name], queries[half:], truth[half:])
        print(f"  recall@{K} {wanted:.0%}: {method.name} at {setting:g}, {reached:.1%} on the other half")
    works = {name: partial(search_all, search, queries[half:]) for name, search in searches.items()}
    rate = rates(len(queries) - half, alternate(works, sizes.repeat))
    ours, *others = methods
    for other, goal in zip(others, goals, strict=True):
        if ours.name in rate and other.name in rate:
            title = f"searches at recall@{K} of {wanted:.0%}, against {other.name}"
            table.compare(title, rate[ours.name], rate[other.name], "1/s", f"at least {goal:g}")
