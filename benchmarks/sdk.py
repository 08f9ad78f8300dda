"""What the client costs above the bare driver: time of a search, concurrent searches, memory of an idle client.

Run: python benchmarks/sdk.py
The bare driver takes the same two steps by hand: psycopg with the same prefilter, whose candidates `qvec.score` scores
and whose hits' texts are fetched by id, through psycopg's own pool where there are several callers; qdrant-client's
query_points over gRPC. Both sides take turns, search by search or round by round. Qdrant is the server that
QVEC_TEST_QDRANT_URL names, or else the tests' fake server in a separate process, slower but with the same answers.
Goals: a median search at most 0.3 ms above the bare driver's with the sync client and 0.5 ms with the async one; at 1,
8 and 64 callers at least 0.8 times the searches per second; at most 2 MB for an idle client with a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import psycopg
from harness import Session, Sizes, Table, Vectors, embedded_postgres, open_session, size_options
from numpy.typing import NDArray
from pgvector import Bit
from pgvector.psycopg import register_vector_async
from psycopg_pool import AsyncConnectionPool
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from realistic import realistic_data

import qvec
from qvec import AsyncCollection, Calibration, Collection, Database, Hit
from qvec.defaults import ef_search
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS

K, CANDIDATES = 10, 40
_LEVELS = LEVELS[DEFAULT_PREFILTER]
POOL = 8
CALLERS = (1, 8, 64)
MAX_KILOBYTES = 2048
TESTS = Path(__file__).parent.parent / "tests"

Query = NDArray[np.float32]
Search = Callable[[Query], list[Hit]]
AsyncSearch = Callable[[Query], Awaitable[list[Hit]]]


@dataclass(frozen=True)
class Concurrency:
    """How concurrent searches and idle clients are measured."""

    rounds: int = 7
    searches: int = 256
    """Searches per round."""
    clients: int = 60
    """Idle clients that memory is averaged over."""


@click.command(help=__doc__)
@size_options(Sizes(rows=20_000, dimensions=1024, queries=400))
def main(sizes: Sizes) -> None:
    vectors, queries = realistic_data(sizes)
    concurrency = Concurrency(2, 16, 3) if sizes.smoke else Concurrency()
    with embedded_postgres() as (database, postgres_url), qdrant_server() as qdrant_url:
        with qvec.connect(qdrant_url) as qdrant:
            if qdrant.has_collection("docs"):
                qdrant.drop_collection("docs")
            fill(qdrant, vectors)
        fill(database, vectors)
        table = Table(sizes)
        compare_postgres(database, postgres_url, queries, table, concurrency)
        compare_qdrant(qdrant_url, queries, table, concurrency)
        show_idle_clients("Postgres", postgres_url, queries[0], table, concurrency)
        show_idle_clients("Qdrant", qdrant_url, queries[0], table, concurrency)


def fill(database: Database, vectors: Vectors) -> None:
    docs = database.create_collection("docs", calibration=Calibration.fit(vectors))
    for start in range(0, len(vectors), 10_000):
        batch = np.arange(start, min(start + 10_000, len(vectors)))
        docs.upsert(batch, vectors[batch], [f"text {row}" for row in batch])
    docs.build_index()


# One search after the other


@dataclass
class Times:
    """Milliseconds of single searches."""

    clock: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    """Processor time of this process, which depends less on what else the machine does."""

    @contextlib.contextmanager
    def measure(self) -> Iterator[None]:
        clock, process = time.perf_counter(), time.process_time()
        yield
        self.clock.append((time.perf_counter() - clock) * 1e3)
        self.process.append((time.process_time() - process) * 1e3)


def compare_searches(title: str, ours: Search, theirs: Search, queries: Vectors, goal: float, table: Table) -> None:
    """Compare single searches that take turns; each side is the first for every second query.

    Every query is asked once before: what a database reads from disk for one is in memory when it comes again.
    """
    mine, bare = Times(), Times()
    for query in queries:
        ours(query)
        theirs(query)
    for number, query in enumerate(queries):
        turns = ((mine, ours), (bare, theirs))
        for times, search in turns[:: 1 if number % 2 else -1]:
            with times.measure():
                search(query)
    print_searches(title, mine, bare, goal, table)


async def compare_async_searches(
    title: str, ours: AsyncSearch, theirs: AsyncSearch, queries: Vectors, goal: float, table: Table
) -> None:
    """Do the same as `compare_searches` with searches that are awaited."""
    mine, bare = Times(), Times()
    for query in queries:
        await ours(query)
        await theirs(query)
    for number, query in enumerate(queries):
        turns = ((mine, ours), (bare, theirs))
        for times, search in turns[:: 1 if number % 2 else -1]:
            with times.measure():
                await search(query)
    print_searches(title, mine, bare, goal, table)


def print_searches(title: str, mine: Times, bare: Times, goal: float, table: Table) -> None:
    for name, ours, theirs in ((title, mine.clock, bare.clock), (f"{title}, CPU", mine.process, bare.process)):
        here, there = statistics.median(ours), statistics.median(theirs)
        table.compare(name, [here], [there], "ms", f"at most {goal:g} ms more")


# Many at once


async def searches_per_second(search: AsyncSearch, queries: Sequence[Query], callers: int) -> float:
    """Return the rate of concurrent callers, each of which asks again as soon as it is answered."""
    waiting = iter(queries)

    async def ask() -> None:
        for query in waiting:
            await search(query)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(callers)))
    return len(queries) / (time.perf_counter() - began)


async def compare_concurrent(
    kind: str, ours: AsyncSearch, theirs: AsyncSearch, queries: Vectors, table: Table, concurrency: Concurrency
) -> None:
    asked = [queries[number % len(queries)] for number in range(concurrency.searches)]
    for callers in CALLERS:
        mine, bare = [], []
        for _ in range(concurrency.rounds):
            mine.append(await searches_per_second(ours, asked, callers))
            bare.append(await searches_per_second(theirs, asked, callers))
        table.compare(f"{kind}: searches of {callers} concurrent callers", mine, bare, "1/s", "at least 0.8")


# Postgres


class ByHand:
    """The two steps on psycopg's connections, as one writes them with pgvector and qvec's functions."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        bits = 8 * -(-calibration.dimensions // 8)
        self.prefilter = (
            f"SELECT candidate.* FROM (SELECT set_config('hnsw.ef_search', '{ef_search(K, CANDIDATES)}', true)"
            " || set_config('hnsw.iterative_scan', 'relaxed_order', true) AS done OFFSET 0) AS settings"
            " CROSS JOIN LATERAL (SELECT id, codes FROM docs WHERE settings.done IS NOT NULL"
            f" ORDER BY (qvec.{DEFAULT_PREFILTER}(codes, {bits})::bit({(_LEVELS - 1) * bits})) <~> %(bits)b"
            f" LIMIT {CANDIDATES}) AS candidate"
        ).encode()
        self.texts = b"SELECT id, document, metadata FROM docs WHERE id = ANY(%s)"

    def parameters(self, query: Query) -> tuple[Query, dict[str, Any]]:
        unit = query / np.linalg.norm(query)
        bits = qvec.levels(qvec.quantize(unit[None], self.calibration, 4), self.calibration, _LEVELS)
        return unit, {"bits": Bit(bits.tobytes())}

    def best(self, rows: list[Any], query: Query) -> dict[int, float]:
        codes = np.frombuffer(b"".join(row[1][4:] for row in rows), np.uint8).reshape(len(rows), -1)
        scores = qvec.score(codes, query[None], self.calibration)[0]
        return {rows[row][0]: float(scores[row]) for row in np.argsort(-scores)[:K]}

    def search(self, session: Session, query: Query) -> list[Hit]:
        unit, parameters = self.parameters(query)
        with session.cursor(binary=True) as cursor:
            best = self.best(cursor.execute(self.prefilter, parameters).fetchall(), unit)
            texts = {row[0]: row for row in cursor.execute(self.texts, [list(best)]).fetchall()}
        return [Hit(id, score, *texts[id][1:]) for id, score in best.items()]

    async def search_async(self, session: psycopg.AsyncConnection[Any], query: Query) -> list[Hit]:
        unit, parameters = self.parameters(query)
        async with session.cursor(binary=True) as cursor:
            await cursor.execute(self.prefilter, parameters)
            best = self.best(await cursor.fetchall(), unit)
            await cursor.execute(self.texts, [list(best)])
            texts = {row[0]: row for row in await cursor.fetchall()}
        return [Hit(id, score, *texts[id][1:]) for id, score in best.items()]


def compare_postgres(database: Database, url: str, queries: Vectors, table: Table, concurrency: Concurrency) -> None:
    docs = database.collection("docs")
    by_hand = ByHand(docs.calibration)
    with open_session(url) as session:
        check_same_hits(docs.search(queries[0]), by_hand.search(session, queries[0]))
        title = "Postgres: a search, sync"
        compare_searches(title, docs.search, lambda query: by_hand.search(session, query), queries, 0.3, table)
    asyncio.run(compare_async_postgres(url, by_hand, queries, table, concurrency))


async def compare_async_postgres(
    url: str, by_hand: ByHand, queries: Vectors, table: Table, concurrency: Concurrency
) -> None:
    async with (
        await qvec.connect_async(url, pool_size=POOL) as database,
        AsyncConnectionPool(
            url,
            min_size=POOL,
            max_size=POOL,
            kwargs={"autocommit": True},
            configure=register_vector_async,
            open=False,
        ) as pool,
    ):
        docs = await database.collection("docs")

        async def search_pooled(query: Query) -> list[Hit]:
            async with pool.connection() as session:
                return await by_hand.search_async(session, query)

        async with pool.connection() as session:
            await compare_async_searches(
                "Postgres: a search, async",
                docs.search,
                lambda query: by_hand.search_async(session, query),
                queries,
                0.5,
                table,
            )
        await compare_concurrent("Postgres", docs.search, search_pooled, queries, table, concurrency)


def check_same_hits(ours: list[Hit], theirs: list[Hit]) -> None:
    """Raise SystemExit unless both sides search alike."""
    if [hit.id for hit in ours] != [hit.id for hit in theirs]:
        raise SystemExit(f"qvec found {ours}, the bare driver {theirs}: they do not search alike")


# Qdrant


@contextlib.contextmanager
def qdrant_server() -> Iterator[str]:
    """The URL of a server: QVEC_TEST_QDRANT_URL, or the tests' fake server."""
    if named := os.environ.get("QVEC_TEST_QDRANT_URL"):
        yield named
        return
    program = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\nfrom fake_qdrant import FakeQdrantServer\n"
        "with FakeQdrantServer(Path(sys.argv[1])) as server: print(server.port, flush=True); sys.stdin.read()"
    )
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", program, directory]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            yield f"qdrant://127.0.0.1:{process.stdout.readline().strip()}"
            process.communicate()


def compare_qdrant(url: str, queries: Vectors, table: Table, concurrency: Concurrency) -> None:
    with qvec.connect(url) as database:
        docs = database.collection("docs")
        client = QdrantClient(**client_arguments(url))

        def by_hand(query: Query) -> list[Hit]:
            return hits(client.query_points(**request(docs, query)), docs, query)

        check_same_hits(docs.search(queries[0]), by_hand(queries[0]))
        compare_searches("Qdrant: a search, sync", docs.search, by_hand, queries, 0.3, table)
        client.close()
    asyncio.run(compare_async_qdrant(url, queries, table, concurrency))


async def compare_async_qdrant(url: str, queries: Vectors, table: Table, concurrency: Concurrency) -> None:
    async with await qvec.connect_async(url) as database:
        docs = await database.collection("docs")
        client = AsyncQdrantClient(**client_arguments(url))

        async def by_hand(query: Query) -> list[Hit]:
            return hits(await client.query_points(**request(docs, query)), docs, query)

        await compare_async_searches("Qdrant: a search, async", docs.search, by_hand, queries, 0.5, table)
        await compare_concurrent("Qdrant", docs.search, by_hand, queries, table, concurrency)
        await client.close()


def client_arguments(url: str) -> dict[str, Any]:
    address = urlsplit(url)
    return {"host": address.hostname, "grpc_port": address.port, "prefer_grpc": True, "check_compatibility": False}


def request(docs: Collection | AsyncCollection, query: Query) -> dict[str, Any]:
    """Return the arguments of query_points for the same search."""
    return {
        "collection_name": "docs",
        "query": (query / np.linalg.norm(query)).tolist(),
        "limit": K,
        "search_params": models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=docs.oversampling)
        ),
    }


def hits(answer: models.QueryResponse, docs: Collection | AsyncCollection, query: Query) -> list[Hit]:
    """Return hits with scores of the metric: the server stores x - threshold."""
    constant = float(query @ docs.calibration.threshold / np.linalg.norm(query))
    return [
        Hit(int(point.id), point.score + constant, (point.payload or {}).get("document")) for point in answer.points
    ]


# Memory


def show_idle_clients(kind: str, url: str, query: Query, table: Table, concurrency: Concurrency) -> None:
    """Measure each kind of client in a new process, which has no memory left over."""
    for how, measure in (("sync", measure_sync_clients), ("async", measure_async_clients)):
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            kilobytes = executor.submit(measure, url, query, concurrency.clients).result()
        table.show(f"{kind}: an idle client, {how}", kilobytes, "kB", f"at most {MAX_KILOBYTES:,}")


def measure_sync_clients(url: str, query: Query, clients: int) -> float:
    """Return the kilobytes of each client that has opened a collection and searched."""

    def open_client() -> Database:
        database = qvec.connect(url)
        database.collection("docs").search(query)
        return database

    first = open_client()
    before = resident_kilobytes()
    databases = [open_client() for _ in range(clients)]
    taken = (resident_kilobytes() - before) / clients
    for database in (first, *databases):
        database.close()
    return taken


def measure_async_clients(url: str, query: Query, clients: int) -> float:
    """Return the same for the clients of one event loop."""

    async def open_client() -> qvec.AsyncDatabase:
        database = await qvec.connect_async(url)
        await (await database.collection("docs")).search(query)
        return database

    async def measure() -> float:
        first = await open_client()
        before = resident_kilobytes()
        databases = [await open_client() for _ in range(clients)]
        taken = (resident_kilobytes() - before) / clients
        for database in (first, *databases):
            await database.close()
        return taken

    return asyncio.run(measure())


def resident_kilobytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


if __name__ == "__main__":
    main()
