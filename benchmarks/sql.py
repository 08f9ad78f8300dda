"""What SQL alone costs: quantizing, searching, inserting and backfilling with nothing but Postgres and pgvector.

Run: python benchmarks/sql.py [ROWS]
100,000 vectors of 1,024 dimensions. A search by qvec.search is compared with the statement it runs, prepared, its
query's planes computed beforehand (wanted: under 1.5 ms more), and at equal recall with halfvec HNSW and with
binary_quantize and halfvec rescoring, each at the smallest setting that reaches the recall on one half of the queries.
Inserts through the trigger are compared with plain inserts of the same vector, a thousand rows in a statement.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import psycopg
import search as searching
from measure import alternate, compare, plain_connection, print_header, scratch_database
from numpy.typing import NDArray
from pgvector import Vector
from realistic import realistic_queries, realistic_vectors
from search import Way, halfvec_way, handwritten_way, nearest_ids, recall, smallest_setting

from qvec.calibration import Calibration
from qvec.client import Database

DIMENSIONS, QUERIES, K, REPETITIONS, INSERTED = 1024, 400, 10, 7, 5_000
Vectors = NDArray[np.float32]
Search = Callable[[Vectors], list[int]]


def sql_way(database: Database, connection: psycopg.Connection, vectors: Vectors) -> Way:
    collection = database.create_collection("docs", calibration=Calibration.fit(vectors))
    for start in range(0, len(vectors), 10_000):
        part = vectors[start : start + 10_000]
        collection.upsert(np.arange(start, start + len(part)), part)
    collection.build_index()
    statement = b"SELECT id FROM qvec.search('docs', %b, %b, %b)"

    def configure(oversampling: float) -> Search:
        def search(query: Vectors) -> list[int]:
            rows = connection.execute(statement, [Vector(query), K, oversampling], prepare=True).fetchall()
            return [int(row[0]) for row in rows]

        return search

    return Way("qvec.search", searching.OVERSAMPLING, configure, 0, 0)


def prepared_way(connection: psycopg.Connection, queries: Vectors, candidates: int) -> Callable[[], object]:
    """The statement of a search, prepared on a session with its settings, over queries that are prepared too."""
    (statement,) = connection.execute(
        "SELECT qvec._search_sql(l, %s, %s, NULL) FROM qvec._layout('docs') AS l", [K, candidates]
    ).fetchone()  # type: ignore[misc]
    connection.execute("DEALLOCATE ALL")
    connection.execute(f"SELECT set_config('hnsw.ef_search', '{max(candidates, 40)}', false)".encode())
    connection.execute("SET hnsw.iterative_scan = relaxed_order")
    types = "bit varying[], vector[], float8[], float8[], bit varying[]"
    connection.execute(f"PREPARE by_hand ({types}) AS {statement}".encode())
    connection.execute(
        "CREATE TEMP TABLE asked AS SELECT n, q.* FROM unnest(%s::vector[]) WITH ORDINALITY AS u (v, n),"
        " qvec._layout('docs') AS l, qvec._query(v, l.calibration, l.prefilter, l.planes) AS q",
        [[Vector(query).to_text() for query in queries]],
    )
    calls = [
        connection.execute(
            "SELECT format('EXECUTE by_hand (ARRAY[%%L]::bit varying[], ARRAY[%%L]::vector[], ARRAY[%%L]::float8[],"
            " ARRAY[%%L]::float8[], ARRAY[%%L]::bit varying[])', bits, floats, base, scale, digits)"
            " FROM asked WHERE n = %s",
            [n + 1],
        ).fetchone()[0]  # type: ignore[index]
        for n in range(len(queries))
    ]
    return lambda: [connection.execute(call.encode()).fetchall() for call in calls]


def milliseconds(work: Callable[[], object], count: int) -> float:
    return 1e3 * alternate({"work": work}, REPETITIONS)["work"] / count


def line(title: str, figure: float, unit: str, wanted: str = "") -> None:
    print(f"{title:<66} {figure:>11,.3f} {'':>11} {unit:<7} {'':7}  {wanted}")


def quantizing(connection: psycopg.Connection, queries: Vectors) -> None:
    calibration = connection.execute("SELECT calibration FROM qvec.collection WHERE name = 'docs'").fetchone()
    assert calibration
    for name, length in (("at unit length", 1), ("of any length", 3)):
        connection.execute("DROP TABLE IF EXISTS lengths; CREATE TEMP TABLE lengths (v vector)")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO lengths VALUES (%b)", [[Vector(length * query)] for query in queries])
        work = b"SELECT sum(length(qvec.quantize(v, %s))) FROM lengths"
        figure = milliseconds(lambda work=work: connection.execute(work, calibration).fetchall(), len(queries))
        line(f"quantizing a vector {name} to 8 planes", figure, "ms", "under 1")


def overhead(connection: psycopg.Connection, own: Way, queries: Vectors) -> None:
    search = own.configure(4)
    by_hand = prepared_way(connection, queries, 4 * K)
    seconds = alternate({"qvec": lambda: [search(query) for query in queries], "by hand": by_hand}, REPETITIONS)
    ours, theirs = (1e3 * seconds[name] / len(queries) for name in ("qvec", "by hand"))
    line("qvec.search, 40 candidates", ours, "ms")
    line("its statement, prepared, planes precomputed", theirs, "ms")
    line("overhead of a call", ours - theirs, "ms", "under 1.5")


def at_equal_recall(
    ways: list[Way], queries: Vectors, truth: list[set[int]], wanted: float, bounds: list[float]
) -> None:
    half = len(queries) // 2
    searches: dict[str, Search] = {}
    for way in ways:
        setting = smallest_setting(way, wanted, queries[:half], truth[:half])
        if setting is None:
            print(f"  {way.name} does not reach {wanted:.0%}")
            continue
        searches[way.name] = way.configure(setting)
        reached = recall(searches[way.name], queries[half:], truth[half:])
        print(f"  recall@10 {wanted:.0%}: {way.name} at {setting:g}, {reached:.1%} on the other half")
    works = {
        name: lambda search=search: [search(query) for query in queries[half:]] for name, search in searches.items()
    }
    rate = {name: half / seconds for name, seconds in alternate(works, REPETITIONS).items()}
    for other, bound in zip(ways[1:], bounds, strict=True):
        if ways[0].name in rate and other.name in rate:
            compare(
                f"searches at {wanted:.0%}, against {other.name}", rate[ways[0].name], rate[other.name], bound, "1/s"
            )


def inserting(connection: psycopg.Connection, vectors: Vectors) -> None:
    connection.execute("SELECT qvec.create_collection('written', calibration) FROM qvec.collection LIMIT 1")
    connection.execute(f"CREATE TABLE plain (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}))".encode())
    connection.execute(f"CREATE TABLE given (id bigint, v vector({DIMENSIONS}))".encode())
    with connection.cursor().copy("COPY given FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "vector"])
        for row, vector in enumerate(vectors[:INSERTED]):
            copy.write_row([row, Vector(vector)])

    def insert(table: str, column: str) -> Callable[[], object]:
        statement = f"INSERT INTO {table} (id, {column}) SELECT id, v FROM given WHERE id >= %s AND id < %s".encode()

        def work() -> None:
            connection.execute(f"TRUNCATE {table}".encode())
            for start in range(0, INSERTED, 1000):
                connection.execute(statement, [start, start + 1000])

        return work

    works = {"trigger": insert("written", "embedding_in"), "plain": insert("plain", "embedding")}
    seconds = alternate(works, REPETITIONS)
    compare(
        "inserts through the trigger, against a plain insert",
        INSERTED / seconds["trigger"],
        INSERTED / seconds["plain"],
        0.1,
        "rows/s",
    )


def attaching(connection: psycopg.Connection) -> None:
    connection.execute("SELECT qvec.attach('plain', 'embedding', calibration) FROM qvec.collection LIMIT 1")
    started = time.perf_counter()
    connection.execute("CALL qvec.backfill('plain')")
    line("attach: backfill of int8 codes", INSERTED / (time.perf_counter() - started), "rows/s")
    started = time.perf_counter()
    connection.execute("SELECT qvec.calibrate('given', 'v')")
    line(f"calibrating on {INSERTED:,} rows", time.perf_counter() - started, "s")


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    searching.ROWS = rows
    vectors, queries = realistic_vectors(rows, DIMENSIONS), realistic_queries(QUERIES, DIMENSIONS)
    with scratch_database() as database:
        own_connection, other_connection = plain_connection(database), plain_connection(database)
        own = sql_way(database, own_connection, vectors)
        print_header()
        quantizing(own_connection, queries)
        overhead(own_connection, own, queries)
        inserting(own_connection, vectors)
        attaching(own_connection)
        own_connection.execute("DEALLOCATE ALL; RESET ALL")
        truth = nearest_ids(vectors, queries)
        ways = [own, halfvec_way(other_connection, vectors), handwritten_way(other_connection, vectors)]
        for wanted in (0.97, 0.99):
            at_equal_recall(ways, queries, truth, wanted, [1.0, 1.0])
        own_connection.close()
        other_connection.close()


if __name__ == "__main__":
    main()
