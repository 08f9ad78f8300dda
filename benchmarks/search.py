"""Searches per second at equal recall, index build time and size, 100,000 vectors of 1,024 dimensions.

Run: python benchmarks/search.py
qvec's int8 collection (ternary prefilter, rescoring in the client) against pgvector's halfvec HNSW and against the
usual hand-written form: HNSW on a bit column, rescoring on a halfvec column in external storage. Each gets the
smallest setting of its sweep that reaches the recall, on one half of the queries; speed and recall are then measured
on the other half, the three taking turns.
Wanted at recall@10 of 97%: 2 times halfvec HNSW; index built 3 times as fast; 0.55 of the size of bit + halfvec with
its index and 0.3 of halfvec with its index.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psycopg
from measure import alternate, compare, plain_connection, print_header, scratch_database
from numpy.typing import NDArray
from pgvector import Bit, HalfVector
from psycopg import sql
from realistic import realistic_queries, realistic_vectors

from qvec.calibration import Calibration
from qvec.client import Collection, Database

ROWS, DIMENSIONS, QUERIES, K, REPETITIONS = 100_000, 1024, 400, 10, 7
EF = [10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 600]
OVERSAMPLING = [1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 60]

Search = Callable[[NDArray[np.float32]], list[int]]


@dataclass
class Way:
    """One way to store and search: what a setting of its sweep turns into, and what it took to build."""

    name: str
    settings: list[float]
    configure: Callable[[float], Search]
    build_seconds: float
    bytes_total: int


def qvec_way(database: Database, vectors: NDArray[np.float32]) -> Way:
    collection = database.create_collection("qvec_codes", calibration=Calibration.fit(vectors))
    for start in range(0, ROWS, 10_000):
        collection.upsert(np.arange(start, start + 10_000), vectors[start : start + 10_000])
    seconds = _seconds(collection.build_index)
    info = collection.info()
    size = (info.table_bytes or 0) + (info.index_bytes or 0)
    return Way("qvec int8, ternary", OVERSAMPLING, lambda setting: _qvec_search(collection, setting), seconds, size)


def _qvec_search(collection: Collection, oversampling: float) -> Search:
    return lambda query: [hit.id for hit in collection.search(query, K, oversampling, texts=False)]


def halfvec_way(connection: psycopg.Connection, vectors: NDArray[np.float32]) -> Way:
    connection.execute(f"CREATE TABLE halves (id bigint PRIMARY KEY, embedding halfvec({DIMENSIONS}))")
    _copy(connection, "COPY halves (id, embedding) FROM STDIN WITH (FORMAT BINARY)", ["int8", "halfvec"], vectors)
    seconds = _index(connection, "CREATE INDEX ON halves USING hnsw (embedding halfvec_ip_ops)")
    query = b"SELECT id FROM halves ORDER BY embedding <#> %b LIMIT 10"

    def configure(ef: float) -> Search:
        def search(vector: NDArray[np.float32]) -> list[int]:
            return [row[0] for row in connection.execute(query, [HalfVector(vector)], prepare=True).fetchall()]

        return _with_ef(connection, ef, search)

    return Way("pgvector halfvec HNSW", list(EF), configure, seconds, _size(connection, "halves"))


def handwritten_way(connection: psycopg.Connection, vectors: NDArray[np.float32]) -> Way:
    connection.execute(
        f"CREATE TABLE bits_and_halves (id bigint PRIMARY KEY, bits bit({DIMENSIONS}),"
        f" embedding halfvec({DIMENSIONS}) STORAGE EXTERNAL)"
    )
    columns = ["int8", "bit", "halfvec"]
    _copy(connection, "COPY bits_and_halves (id, bits, embedding) FROM STDIN WITH (FORMAT BINARY)", columns, vectors)
    seconds = _index(connection, "CREATE INDEX ON bits_and_halves USING hnsw (bits bit_hamming_ops)")

    def configure(ef: float) -> Search:
        query = (
            "SELECT id FROM (SELECT id, embedding FROM bits_and_halves"
            f" ORDER BY bits <~> %b LIMIT {int(ef)}) AS nearest ORDER BY embedding <#> %b LIMIT {K}"
        ).encode()

        def search(vector: NDArray[np.float32]) -> list[int]:
            parameters = [Bit(vector > 0), HalfVector(vector)]
            return [row[0] for row in connection.execute(query, parameters, prepare=True).fetchall()]

        return _with_ef(connection, ef, search)

    return Way("bit HNSW, halfvec rescoring", list(EF), configure, seconds, _size(connection, "bits_and_halves"))


def _with_ef(connection: psycopg.Connection, ef: float, search: Search) -> Search:
    """The search after its session's ef_search is set; set anew only when the way's setting changes."""
    key = f"SET hnsw.ef_search = {int(ef)}".encode()

    def configured(vector: NDArray[np.float32]) -> list[int]:
        if _current_ef.get(connection) != ef:
            connection.execute(key)
            _current_ef[connection] = ef
        return search(vector)

    return configured


_current_ef: dict[psycopg.Connection, float] = {}


def _copy(connection: psycopg.Connection, statement: str, types: list[str], vectors: NDArray[np.float32]) -> None:
    with connection.cursor().copy(statement.encode()) as copy:
        copy.set_types(types)
        for row, vector in enumerate(vectors):
            bits = [Bit(vector > 0)] if "bit" in types else []
            copy.write_row([row, *bits, HalfVector(vector)])


def _index(connection: psycopg.Connection, statement: str) -> float:
    """Builds with the memory and workers that qvec would set on this machine."""
    connection.execute("SET maintenance_work_mem = '2GB'")
    connection.execute("SET max_parallel_maintenance_workers = 1")
    return _seconds(lambda: connection.execute(statement.encode()))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _size(connection: psycopg.Connection, table: str) -> int:
    connection.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(table)))
    row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [table]).fetchone()
    assert row
    return int(row[0])


def nearest_ids(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> list[set[int]]:
    """The ids of the K nearest vectors to each query, by exact float32 search."""
    nearest = np.argpartition(-(queries @ vectors.T), K, axis=1)[:, :K]
    return [set(line.tolist()) for line in nearest]


def recall(search: Search, queries: NDArray[np.float32], truth: list[set[int]]) -> float:
    return sum(len(truth[i] & set(search(query))) for i, query in enumerate(queries)) / (K * len(queries))


def smallest_setting(way: Way, wanted: float, queries: NDArray[np.float32], truth: list[set[int]]) -> float | None:
    for setting in way.settings:
        if recall(way.configure(setting), queries, truth) >= wanted:
            return setting
    return None


def main() -> None:
    vectors, queries = realistic_vectors(ROWS, DIMENSIONS), realistic_queries(QUERIES, DIMENSIONS)
    truth = nearest_ids(vectors, queries)
    half = QUERIES // 2
    with scratch_database() as database:
        connection = plain_connection(database)
        ours = qvec_way(database, vectors)
        others = [halfvec_way(connection, vectors), handwritten_way(connection, vectors)]
        print_header()
        for other, size in zip(others, (0.3, 0.55), strict=True):
            mega = (ours.bytes_total / 1e6, other.bytes_total / 1e6)
            compare(f"table and index, against {other.name}", *mega, size, "MB", smaller=True)
        for other, faster in zip(others, (3.0, 0.9), strict=True):
            per_hour = (3600 / ours.build_seconds, 3600 / other.build_seconds)
            compare(f"index builds, against {other.name}", *per_hour, faster, "1/hour")
        for wanted, against in ((0.97, (2.0, 1.0)), (0.99, (1.0, 1.0))):
            _at_recall(wanted, ours, others, against, queries, truth, half)
        connection.close()


def _at_recall(
    wanted: float,
    ours: Way,
    others: list[Way],
    bounds: tuple[float, ...],
    queries: NDArray[np.float32],
    truth: list[set[int]],
    half: int,
) -> None:
    searches: dict[str, Search] = {}
    for way in (ours, *others):
        setting = smallest_setting(way, wanted, queries[:half], truth[:half])
        if setting is None:
            print(f"{way.name} does not reach {wanted:.0%} with {way.settings[-1]}")
            continue
        searches[way.name] = way.configure(setting)
        reached = recall(searches[way.name], queries[half:], truth[half:])
        print(f"  recall@10 {wanted:.0%}: {way.name} at {setting:g}, {reached:.1%} on the other half")
    seconds = alternate(
        {name: lambda search=search: [search(query) for query in queries[half:]] for name, search in searches.items()},
        REPETITIONS,
    )
    rate = {name: half / time for name, time in seconds.items()}
    for other, bound in zip(others, bounds, strict=True):
        if ours.name in rate and other.name in rate:
            title = f"searches at recall@10 of {wanted:.0%}, against {other.name}"
            compare(title, rate[ours.name], rate[other.name], bound, "1/s")


if __name__ == "__main__":
    main()
