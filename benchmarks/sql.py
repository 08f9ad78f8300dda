"""What SQL alone costs: quantizing, searching, inserting and backfilling with nothing but Postgres and pgvector.

Run: python benchmarks/sql.py
A search by qvec.search is compared with the statement that it runs, prepared, with the query's bits computed
beforehand (goal: under 1.5 ms more). At equal recall it is compared with the methods of benchmarks/search_methods.py.
Inserts through the trigger are compared with plain inserts of the same vectors, a thousand rows per statement.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial

import click
import numpy as np
from harness import (
    Session,
    Sizes,
    Table,
    Vectors,
    Work,
    alternate,
    embedded_postgres,
    open_session,
    rates,
    size_options,
)
from numpy.typing import NDArray
from pgvector import Vector
from realistic import realistic_data
from search_methods import BitsAndHalfvec, HalfvecHnsw, Int8Codes, K, Search, compare_at_recall, nearest_ids

from qvec import Database
from qvec.defaults import ef_search

CANDIDATES = 4 * K
INSERTED = 5_000
_PER_STATEMENT = 1000


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=400, repeat=7))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    with (
        embedded_postgres() as (database, url),
        open_session(url) as session,
        open_session(url) as first,
        open_session(url) as second,
    ):
        ours = SqlSearch(database, session)
        ours.fill(vectors)
        table = Table(sizes)
        measure_quantizing(session, queries, sizes, table)
        measure_overhead(session, ours.configure(CANDIDATES / K), queries, sizes, table)
        compare_inserts(session, vectors[:INSERTED], sizes, table)
        measure_attaching(session, len(vectors[:INSERTED]), table)
        session.execute("DEALLOCATE ALL; RESET ALL")
        others = (HalfvecHnsw(first), BitsAndHalfvec(second))
        for method in others:
            method.fill(vectors)
        truth = nearest_ids(vectors, queries)
        for wanted in (0.97, 0.99):
            compare_at_recall(table, wanted, (ours, *others), (1.0, 1.0), queries, truth, sizes)


class SqlSearch(Int8Codes):
    """A collection that is searched by the SQL function."""

    def __init__(self, database: Database, session: Session) -> None:
        super().__init__(database)
        self.name = "qvec.search"
        self.collection = "docs"
        self._session = session

    def configure(self, setting: float) -> Search:
        statement = b"SELECT id FROM qvec.search('docs', %b, %b, %b)"

        def search(query: NDArray[np.float32]) -> list[int]:
            rows = self._session.execute(statement, [Vector(query), K, setting], prepare=True).fetchall()
            return [int(row[0]) for row in rows]

        return search


def measure_quantizing(session: Session, queries: Vectors, sizes: Sizes, table: Table) -> None:
    calibration = session.execute("SELECT calibration FROM qvec.collection WHERE name = 'docs'").fetchone()
    for name, length in (("of length 1", 1), ("of another length", 3)):
        session.execute("DROP TABLE IF EXISTS quantized; CREATE TEMP TABLE quantized (v vector)")
        with session.cursor() as cursor:
            cursor.executemany("INSERT INTO quantized VALUES (%b)", [[Vector(length * query)] for query in queries])
        statement = b"SELECT sum(length(qvec.quantize(v, %s))) FROM quantized"
        seconds = alternate({"": partial(session.execute, statement, calibration)}, sizes.repeat)[""]
        milliseconds = 1e3 * statistics.median(seconds) / len(queries)
        table.show(f"quantizing a vector {name} to 8 planes", milliseconds, "ms", "under 1")


def measure_overhead(session: Session, search: Search, queries: Vectors, sizes: Sizes, table: Table) -> None:
    works: dict[str, Work] = {
        "qvec.search": lambda: [search(query) for query in queries],
        "statement": prepared_search(session, queries),
    }
    seconds = alternate(works, sizes.repeat)
    ours, theirs = ([1e3 * each / len(queries) for each in seconds[side]] for side in works)
    table.compare(f"qvec.search, {CANDIDATES} candidates, against its statement", ours, theirs, "ms")
    table.show("time added by qvec.search", statistics.median(ours) - statistics.median(theirs), "ms", "under 1.5")


def prepared_search(session: Session, queries: Vectors) -> Work:
    """Return the search for all queries by the statement of qvec.search, prepared, with the settings of the session.

    The statement and the queries' bits come from the functions that qvec.search calls. They are not public, but no
    other statement shows what the call adds.
    """
    (statement,) = _row(
        session, "SELECT qvec._search_sql(l, %s, %s, NULL) FROM qvec._layout('docs') AS l", [K, CANDIDATES]
    )
    session.execute("DEALLOCATE ALL")
    settings = f"SET hnsw.ef_search = {ef_search(K, CANDIDATES)}; SET hnsw.iterative_scan = relaxed_order"
    session.execute(settings.encode())
    types = "bit varying[], vector[], float8[], float8[], bit varying[]"
    session.execute(f"PREPARE by_hand ({types}) AS {statement}".encode())
    session.execute(
        "CREATE TEMP TABLE asked AS SELECT n, q.* FROM unnest(%s::vector[]) WITH ORDINALITY AS u (v, n),"
        " qvec._layout('docs') AS l, qvec._query(v, l.calibration, l.prefilter, l.planes) AS q",
        [[Vector(query).to_text() for query in queries]],
    )
    calls = session.execute(
        "SELECT format('EXECUTE by_hand (ARRAY[%L]::bit varying[], ARRAY[%L]::vector[], ARRAY[%L]::float8[],"
        " ARRAY[%L]::float8[], ARRAY[%L]::bit varying[])', bits, floats, base, scale, digits) FROM asked ORDER BY n"
    ).fetchall()
    return lambda: [session.execute(call.encode()).fetchall() for (call,) in calls]


def compare_inserts(session: Session, vectors: Vectors, sizes: Sizes, table: Table) -> None:
    dimensions = vectors.shape[1]
    session.execute("SELECT qvec.create_collection('written', calibration) FROM qvec.collection LIMIT 1")
    session.execute(f"CREATE TABLE plain (id bigint PRIMARY KEY, embedding vector({dimensions}))".encode())
    session.execute(f"CREATE TABLE given (id bigint, v vector({dimensions}))".encode())
    with session.cursor().copy("COPY given FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int8", "vector"])
        for row, vector in enumerate(vectors):
            copy.write_row([row, Vector(vector)])
    works = {
        "trigger": partial(insert, session, "written", "embedding_in", len(vectors)),
        "plain": partial(insert, session, "plain", "embedding", len(vectors)),
    }
    rate = rates(len(vectors), alternate(works, sizes.repeat))
    title = "inserts through the trigger, against plain ones"
    table.compare(title, rate["trigger"], rate["plain"], "rows/s", "at least 0.1")


def insert(session: Session, name: str, column: str, rows: int) -> None:
    """Replace the rows of a table by those of the table `given`."""
    statement = f"INSERT INTO {name} (id, {column}) SELECT id, v FROM given WHERE id >= %s AND id < %s".encode()
    session.execute(f"TRUNCATE {name}".encode())
    for start in range(0, rows, _PER_STATEMENT):
        session.execute(statement, [start, start + _PER_STATEMENT])


def measure_attaching(session: Session, rows: int, table: Table) -> None:
    session.execute("SELECT qvec.attach('plain', 'embedding', calibration) FROM qvec.collection LIMIT 1")
    started = time.perf_counter()
    session.execute("CALL qvec.backfill('plain')")
    table.show("backfill of int8 codes into an attached table", rows / (time.perf_counter() - started), "rows/s")
    started = time.perf_counter()
    session.execute("SELECT qvec.calibrate('given', 'v')")
    table.show(f"calibrating by {rows:,} rows", time.perf_counter() - started, "s")


def _row(session: Session, statement: str, parameters: Sequence[object]) -> tuple[str, ...]:
    row = session.execute(statement.encode(), parameters).fetchone()
    assert row
    return tuple(row)


if __name__ == "__main__":
    main()
