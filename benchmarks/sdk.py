"""What the SDK costs above the bare driver: time of a search, searches at once, memory of an idle client.

Run: python benchmarks/sdk.py [--rows N]
The bare driver does the same two steps by hand: psycopg with the same prefilter, its candidates scored by `qvec.score`
and its hits' texts fetched by id, over psycopg's own pool where there are several callers; qdrant-client's
query_points over gRPC. Both sides take turns, search by search or round by round. Qdrant is the server that
QVEC_TEST_QDRANT_URL names, or else the tests' stand-in for it in a process of its own, which answers slowly but alike.
Wanted: a median search at most 0.3 ms above the bare driver's when it is waited for and 0.5 ms when it is awaited; at
1, 8 and 64 callers at least 0.8 times the searches per second; at most 2 MB for an idle client with a connection.
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
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import numpy as np
import psycopg
from measure import compare, print_header, scratch_database
from numpy.typing import NDArray
from pgvector import Bit
from pgvector.psycopg import register_vector, register_vector_async
from psycopg_pool import AsyncConnectionPool
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from realistic import realistic_queries, realistic_vectors

import qvec
from qvec import Calibration, Hit
from qvec.client import Collection, Database
from qvec.postgres import statements

DIMENSIONS, K, CANDIDATES = 1024, 10, 40
TIMED, ROUNDS, POOL, PER_ROUND = 400, 7, 8, 256
CLIENTS = 60
CALLERS = (1, 8, 64)
MOST_KB = 2048
TESTS = Path(__file__).parent.parent / "tests"

Query = NDArray[np.float32]
Search = Callable[[Query], Any]
AsyncSearch = Callable[[Query], Awaitable[Any]]


class ByHand:
    """The two steps on psycopg's connections, as one writes them with pgvector and qvec's functions."""

    def __init__(self, docs: Collection) -> None:
        self.calibration = docs.calibration
        self.prefilter = statements.candidates(docs.stored.table, ("id", "codes"), CANDIDATES).as_bytes(None)
        self.texts = b"SELECT id, document, metadata FROM docs WHERE id = ANY(%s)"

    def parameters(self, query: Query) -> tuple[Query, dict[str, Any]]:
        unit = query / np.linalg.norm(query)
        bits = qvec.ternary(qvec.quantize(unit[None], self.calibration, 4), self.calibration)
        return unit, {"bits": Bit(bits.tobytes())}

    def best(self, rows: list[Any], query: Query) -> dict[int, float]:
        codes = np.frombuffer(b"".join(row[1][4:] for row in rows), np.uint8).reshape(len(rows), -1)
        scores = qvec.score(codes, query[None], self.calibration)[0]
        return {rows[row][0]: float(scores[row]) for row in np.argsort(-scores)[:K]}

    def search(self, connection: psycopg.Connection[Any], query: Query) -> list[Hit]:
        unit, parameters = self.parameters(query)
        with connection.cursor(binary=True) as cursor:
            best = self.best(cursor.execute(self.prefilter, parameters).fetchall(), unit)
            texts = {row[0]: row for row in cursor.execute(self.texts, [list(best)]).fetchall()}
        return [Hit(id, score, *texts[id][1:]) for id, score in best.items()]

    async def search_async(self, connection: psycopg.AsyncConnection[Any], query: Query) -> list[Hit]:
        unit, parameters = self.parameters(query)
        async with connection.cursor(binary=True) as cursor:
            await cursor.execute(self.prefilter, parameters)
            best = self.best(await cursor.fetchall(), unit)
            await cursor.execute(self.texts, [list(best)])
            texts = {row[0]: row for row in await cursor.fetchall()}
        return [Hit(id, score, *texts[id][1:]) for id, score in best.items()]


def fill(database: Any, vectors: NDArray[np.float32]) -> Any:
    docs = database.create_collection("docs", calibration=Calibration.fit(vectors))
    for start in range(0, len(vectors), 10_000):
        batch = np.arange(start, min(start + 10_000, len(vectors)))
        docs.upsert(batch, vectors[batch], [f"text {row}" for row in batch])
    docs.build_index()
    return docs


# One search after the other


class Times:
    """Milliseconds of single searches: by the clock, and of this process's own work, which a busy machine changes
    less."""

    def __init__(self) -> None:
        self.clock: list[float] = []
        self.own: list[float] = []

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        clock, own = time.perf_counter(), time.process_time()
        yield
        self.clock.append((time.perf_counter() - clock) * 1e3)
        self.own.append((time.process_time() - own) * 1e3)


def overhead(title: str, ours: Search, theirs: Search, queries: Query, most: float) -> None:
    """Medians of single searches, in turns, of which each side has the first of a query as often as the second. Every
    query is asked before: what a database reads from disk for one is there when it comes again."""
    mine, bare = Times(), Times()
    for query in queries:
        ours(query)
        theirs(query)
    for number, query in enumerate(queries):
        turns = ((mine, ours), (bare, theirs))
        for times, search in turns[:: 1 if number % 2 else -1]:
            with times.one():
                search(query)
    print_overhead(title, mine, bare, most)


async def overhead_async(title: str, ours: AsyncSearch, theirs: AsyncSearch, queries: Query, most: float) -> None:
    mine, bare = Times(), Times()
    for query in queries:
        await ours(query)
        await theirs(query)
    for number, query in enumerate(queries):
        turns = ((mine, ours), (bare, theirs))
        for times, search in turns[:: 1 if number % 2 else -1]:
            with times.one():
                await search(query)
    print_overhead(title, mine, bare, most)


def print_overhead(title: str, mine: Times, bare: Times, most: float) -> None:
    for what, ours, theirs in ((title, mine.clock, bare.clock), (title + ", own work", mine.own, bare.own)):
        here, there = statistics.median(ours), statistics.median(theirs)
        verdict = "met" if here - there <= most else "NOT MET"
        print(f"{what:<66} {here:11.3f} {there:11.3f} ms      {here - there:+6.3f}   at most {most:<6g} {verdict}")


# Many at once


async def rate(search: AsyncSearch, queries: Sequence[Query], callers: int) -> float:
    """Searches per second of so many callers, each of which asks again as soon as it is answered."""
    waiting = iter(queries)

    async def ask() -> None:
        for query in waiting:
            await search(query)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(callers)))
    return len(queries) / (time.perf_counter() - began)


async def throughput(where: str, ours: AsyncSearch, theirs: AsyncSearch, queries: Query) -> None:
    asked = [queries[number % len(queries)] for number in range(PER_ROUND)]
    for callers in CALLERS:
        rates = [(await rate(ours, asked, callers), await rate(theirs, asked, callers)) for _ in range(ROUNDS)]
        mine, bare = (statistics.median(side) for side in zip(*rates, strict=True))
        compare(f"{where}: searches of {callers} callers at once", mine, bare, 0.8, "1/s")


# Postgres


def postgres(database: Database, queries: Query) -> None:
    docs = database.collection("docs")
    by_hand, url = ByHand(docs), database._connections.url
    with psycopg.connect(url, autocommit=True) as connection:
        register_vector(connection)
        assert [hit.id for hit in docs.search(queries[0])] == [hit.id for hit in by_hand.search(connection, queries[0])]
        overhead(
            "Postgres: a search, waited for", docs.search, lambda query: by_hand.search(connection, query), queries, 0.3
        )
    asyncio.run(postgres_async(url, by_hand, queries))


async def postgres_async(url: str, by_hand: ByHand, queries: Query) -> None:
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

        async def pooled(query: Query) -> list[Hit]:
            async with pool.connection() as connection:
                return await by_hand.search_async(connection, query)

        async with pool.connection() as connection:
            await overhead_async(
                "Postgres: a search, awaited",
                docs.search,
                lambda query: by_hand.search_async(connection, query),
                queries,
                0.5,
            )
        await throughput("Postgres", docs.search, pooled, queries)


# Qdrant


@contextlib.contextmanager
def qdrant_server() -> Iterator[str]:
    """The URL of a server: the one that is named, or the tests' stand-in."""
    if named := os.environ.get("QVEC_TEST_QDRANT_URL"):
        yield named
        return
    program = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from pathlib import Path\nfrom qdrant_wire import WireServer\n"
        "with WireServer(Path(sys.argv[1])) as server: print(server.port, flush=True); sys.stdin.read()"
    )
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-c", program, directory]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            yield f"qdrant://127.0.0.1:{process.stdout.readline().strip()}"
            process.communicate()


def request(docs: Any, query: Query) -> dict[str, Any]:
    """What is asked of query_points for the same search."""
    return {
        "collection_name": "docs",
        "query": (query / np.linalg.norm(query)).tolist(),
        "limit": K,
        "search_params": models.SearchParams(
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=docs.oversampling)
        ),
    }


def hits(answer: Any, shift: float) -> list[Hit]:
    """Scores of the metric: what the server has stored is x - threshold."""
    return [Hit(point.id, point.score + shift, (point.payload or {}).get("document")) for point in answer.points]


def qdrant(url: str, queries: Query) -> None:
    address = urlsplit(url)
    client_arguments: dict[str, Any] = {
        "host": address.hostname,
        "grpc_port": address.port,
        "prefer_grpc": True,
        "check_compatibility": False,
    }
    with qvec.connect(url) as database:
        docs = database.collection("docs")
        client = QdrantClient(**client_arguments)

        def by_hand(query: Query) -> list[Hit]:
            shift = float(query @ docs.calibration.threshold / np.linalg.norm(query))
            return hits(client.query_points(**request(docs, query)), shift)

        assert [hit.id for hit in docs.search(queries[0])] == [hit.id for hit in by_hand(queries[0])]
        overhead("Qdrant: a search, waited for", docs.search, by_hand, queries, 0.3)
        client.close()
    asyncio.run(qdrant_async(url, client_arguments, queries))


async def qdrant_async(url: str, client_arguments: dict[str, Any], queries: Query) -> None:
    async with await qvec.connect_async(url) as database:
        docs = await database.collection("docs")
        client = AsyncQdrantClient(**client_arguments)

        async def by_hand(query: Query) -> list[Hit]:
            shift = float(query @ docs.calibration.threshold / np.linalg.norm(query))
            return hits(await client.query_points(**request(docs, query)), shift)

        await overhead_async("Qdrant: a search, awaited", docs.search, by_hand, queries, 0.5)
        await throughput("Qdrant", docs.search, by_hand, queries)
        await client.close()


# Memory


def kilobytes() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


def of_waiting_clients(url: str, query: Query) -> float:
    """Kilobytes that each of some clients takes that has opened a collection, searched, and does nothing."""

    def opened() -> Any:
        database = qvec.connect(url)
        database.collection("docs").search(query)
        return database

    first = opened()
    before = kilobytes()
    databases = [opened() for _ in range(CLIENTS)]
    taken = (kilobytes() - before) / CLIENTS
    for database in (first, *databases):
        database.close()
    return taken


def of_awaited_clients(url: str, query: Query) -> float:
    """The same of clients of one event loop."""

    async def opened() -> Any:
        database = await qvec.connect_async(url)
        await (await database.collection("docs")).search(query)
        return database

    async def measure() -> float:
        first = await opened()
        before = kilobytes()
        databases = [await opened() for _ in range(CLIENTS)]
        taken = (kilobytes() - before) / CLIENTS
        for database in (first, *databases):
            await database.close()
        return taken

    return asyncio.run(measure())


def idle_clients(where: str, url: str, query: Query) -> None:
    """Each kind in a process of its own, which has no memory left from before."""
    for how, measure in (("waited for", of_waiting_clients), ("awaited", of_awaited_clients)):
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            taken = executor.submit(measure, url, query).result()
        verdict = "met" if taken <= MOST_KB else "NOT MET"
        print(f"{where + ': an idle client, ' + how:<66} {taken:11,.0f} kB {'':25} at most {MOST_KB} {verdict}")


@click.command()
@click.option("--rows", default=20_000, show_default=True)
def main(rows: int) -> None:
    vectors, queries = realistic_vectors(rows, DIMENSIONS), realistic_queries(TIMED, DIMENSIONS)
    with scratch_database() as database, qdrant_server() as url:
        with qvec.connect(url) as other:
            if other.has_collection("docs"):
                other.drop_collection("docs")
            fill(other, vectors)
        fill(database, vectors)
        print_header()
        postgres(database, queries)
        qdrant(url, queries)
        idle_clients("Postgres", database._connections.url, queries[0])
        idle_clients("Qdrant", url, queries[0])


if __name__ == "__main__":
    main()
