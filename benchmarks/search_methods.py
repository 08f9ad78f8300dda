"""Methods of searching in Postgres with an index, compared by size, build time, and speed at equal recall.

Each method gets the smallest of its settings that reaches a recall on one half of the queries; recall and speed are
then measured on the other half.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import numpy as np
from harness import Session, Sizes, Table, Vectors, Work, alternate, open_session, rates
from numpy.typing import NDArray
from pgvector import Bit, HalfVector

from qvec import Calibration, Database, connect
from qvec.prefilter_levels import DEFAULT_PREFILTER

K = 10
EF = (10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 600)
OVERSAMPLING = (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 60)

Search = Callable[[NDArray[np.float32]], list[int]]
"""Returns the ids of the K rows nearest to a query (d,)."""


class SearchMethod(ABC):
    """A table with its index, and the searches that its settings give, from fast to thorough."""

    name: str
    settings: Sequence[float]
    build_seconds: float = 0

    @abstractmethod
    def fill(self, vectors: Vectors) -> None:
        """Create the table, fill it, and build its index. A table that exists is searched without this."""

    @abstractmethod
    def configure(self, setting: float) -> Search:
        """Return the search with a setting. Only the search that was configured last may be used."""

    @abstractmethod
    def total_bytes(self) -> int:
        """Return the bytes of the table and its index."""


class Int8Codes(SearchMethod):
    """A collection of qvec with int8 codes, rescored in the client."""

    settings = OVERSAMPLING

    def __init__(self, database: Database, prefilter: str = DEFAULT_PREFILTER) -> None:
        self.name = f"qvec int8, {prefilter}"
        self.collection = f"docs_{prefilter}"
        self._database = database
        self._prefilter = prefilter

    def fill(self, vectors: Vectors) -> None:
        collection = self._database.create_collection(
            self.collection, calibration=Calibration.fit(vectors), prefilter=self._prefilter
        )
        for start in range(0, len(vectors), 10_000):
            part = vectors[start : start + 10_000]
            collection.upsert(np.arange(start, start + len(part)), part)
        self.build_seconds = _seconds(collection.build_index)

    def configure(self, setting: float) -> Search:
        collection = self._database.collection(self.collection)
        return lambda query: [int(hit.id) for hit in collection.search(query, K, setting, texts=False)]

    def total_bytes(self) -> int:
        info = self._database.collection(self.collection).info()
        return (info.table_bytes or 0) + (info.index_bytes or 0)


class Pgvector(SearchMethod):
    """A table of pgvector's types. The session sets hnsw.ef_search for this method alone."""

    settings = EF
    table: str
    columns: ClassVar[Mapping[str, str]]
    """pgvector's type of each column but the id."""
    index: str

    def __init__(self, session: Session) -> None:
        self._session = session

    @abstractmethod
    def row(self, vector: NDArray[np.float32]) -> list[object]:
        """Return the values of a row's columns."""

    def fill(self, vectors: Vectors) -> None:
        size = vectors.shape[1]
        columns = ", ".join(f"{name} {kind}({size})" for name, kind in self.columns.items())
        self._session.execute(f"CREATE TABLE {self.table} (id bigint PRIMARY KEY, {columns})".encode())
        if len(self.columns) > 1:  # a search of the bits does not read the floats
            self._session.execute(f"ALTER TABLE {self.table} ALTER embedding SET STORAGE EXTERNAL".encode())
        names = ", ".join(self.columns)
        copied = f"COPY {self.table} (id, {names}) FROM STDIN WITH (FORMAT BINARY)".encode()
        with self._session.cursor().copy(copied) as copy:
            copy.set_types(["int8", *self.columns.values()])
            for number, vector in enumerate(vectors):
                copy.write_row([number, *self.row(vector)])
        self.build_seconds = self._build(f"CREATE INDEX ON {self.table} USING hnsw ({self.index})")
        self._session.execute(f"VACUUM ANALYZE {self.table}".encode())

    def total_bytes(self) -> int:
        row = self._session.execute("SELECT pg_total_relation_size(%s::regclass)", [self.table]).fetchone()
        assert row
        return int(row[0])

    def _build(self, statement: str) -> float:
        """Return the seconds of an index build with as many workers as qvec uses, and more memory than it needs."""
        self._session.execute("SET maintenance_work_mem = '3GB'")
        self._session.execute(f"SET max_parallel_maintenance_workers = {(os.cpu_count() or 1) - 1}".encode())
        return _seconds(lambda: self._session.execute(statement.encode()))

    def _set_ef(self, ef: float) -> None:
        self._session.execute(f"SET hnsw.ef_search = {int(ef)}".encode())

    def _ids(self, query: str, parameters: list[object]) -> list[int]:
        return [row[0] for row in self._session.execute(query.encode(), parameters, prepare=True).fetchall()]


class HalfvecHnsw(Pgvector):
    """pgvector's HNSW index on halfvec."""

    name = "pgvector halfvec HNSW"
    table = "halves"
    columns: ClassVar[Mapping[str, str]] = {"embedding": "halfvec"}
    index = "embedding halfvec_ip_ops"

    def row(self, vector: NDArray[np.float32]) -> list[object]:
        return [HalfVector(vector)]

    def configure(self, setting: float) -> Search:
        self._set_ef(setting)
        query = f"SELECT id FROM {self.table} ORDER BY embedding <#> %b LIMIT {K}"
        return lambda vector: self._ids(query, [HalfVector(vector)])


class BitsAndHalfvec(Pgvector):
    """What is usually written by hand: HNSW on sign bits, and rescoring on a halfvec column in external storage."""

    name = "bit HNSW, halfvec rescoring"
    table = "bits_and_halves"
    columns: ClassVar[Mapping[str, str]] = {"bits": "bit", "embedding": "halfvec"}
    index = "bits bit_hamming_ops"

    def row(self, vector: NDArray[np.float32]) -> list[object]:
        return [Bit(vector > 0), HalfVector(vector)]

    def configure(self, setting: float) -> Search:
        self._set_ef(setting)
        query = (
            f"SELECT id FROM (SELECT id, embedding FROM {self.table}"
            f" ORDER BY bits <~> %b LIMIT {int(setting)}) AS nearest ORDER BY embedding <#> %b LIMIT {K}"
        )
        return lambda vector: self._ids(query, [Bit(vector > 0), HalfVector(vector)])


@contextmanager
def open_method(kind: type[SearchMethod], url: str) -> Iterator[SearchMethod]:
    """A method in a connection of its own, for tables that exist."""
    if issubclass(kind, Pgvector):
        with open_session(url) as session:
            yield kind(session)
    else:
        assert issubclass(kind, Int8Codes)
        with connect(url) as database:
            yield kind(database)


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


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
) -> dict[type[SearchMethod], float]:
    """Compare the searches per second of the first method with those of the others, at an equal recall.

    Return the setting of each method that reaches it.
    """
    half = len(queries) // 2
    searches: dict[str, Search] = {}
    settings: dict[type[SearchMethod], float] = {}
    for method in methods:
        setting = smallest_setting(method, wanted, queries[:half], truth[:half])
        if setting is None:
            print(f"  {method.name} does not reach {wanted:.0%} with {method.settings[-1]:g}")
            continue
        searches[method.name], settings[type(method)] = method.configure(setting), setting
        reached = recall(searches[method.name], queries[half:], truth[half:])
        print(f"  recall@{K} {wanted:.0%}: {method.name} at {setting:g}, {reached:.1%} on the other half")
    works = {name: partial(search_all, search, queries[half:]) for name, search in searches.items()}
    rate = rates(len(queries) - half, alternate(works, sizes.repeat))
    ours, *others = methods
    for other, goal in zip(others, goals, strict=True):
        if ours.name in rate and other.name in rate:
            title = f"searches at recall@{K} of {wanted:.0%}, against {other.name}"
            table.compare(title, rate[ours.name], rate[other.name], "1/s", f"at least {goal:g}")
    return settings
