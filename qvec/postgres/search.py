"""The two steps of a search on an open connection: prefilter in Postgres, rescore in Rust or in SQL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pgvector import Bit, Vector
from psycopg.sql import Composed

from qvec.calibration import Calibration
from qvec.codes import score
from qvec.errors import InputError
from qvec.hits import Hit
from qvec.postgres import statements
from qvec.postgres.layout import Table
from qvec.postgres.rows import prefilter_bits
from qvec.postgres.schema import Connection
from qvec.postgres.scoring import QUERY_PLANES, SlicedQuery

RescoreIn = Literal["client", "sql"]
_CHUNK = 4096


@dataclass(frozen=True)
class Plan:
    """How to search one table: how many hits and candidates, and where to rescore. `candidates` None: all rows."""

    table: Table
    calibration: Calibration
    k: int
    candidates: int | None
    rescore_in: RescoreIn = "client"
    texts: bool = True

    @property
    def in_client(self) -> bool:
        return self.table.layout.planes is not None and self.rescore_in == "client"

    def source(self, columns: tuple[str, ...]) -> Composed:
        """The statement that gives the rows to rescore."""
        if self.candidates is None:
            return statements.all_rows(self.table, columns)
        return statements.candidates(self.table, columns, self.candidates)

    def statement(self) -> bytes:
        """The statement that a search runs; rescoring in the client takes over from its rows."""
        return _statement(self)

    def composed(self) -> Composed:
        """The statement before it is rendered."""
        if self.in_client:
            return self.source(("id", "codes"))
        if self.table.layout.planes:
            codes = self.source(("id", "codes", "document", "metadata"))
            return statements.rescore_codes(self.table, codes, QUERY_PLANES, self.k)
        return statements.rescore_floats(self.table, self.source(("id", "embedding", "document", "metadata")), self.k)

    def parameters(self, query: NDArray[np.float32]) -> dict[str, Any]:
        """The parameters of the statement for a prepared query (d,)."""
        parameters: dict[str, Any] = {}
        layout = self.table.layout
        if self.candidates is not None:
            parameters["bits"] = Bit(prefilter_bits(query[None], self.calibration, layout).tobytes())
        if not layout.planes:
            parameters["query"] = Vector(query).to_text()
        elif not self.in_client:
            sliced = SlicedQuery.of(query, self.calibration, layout.planes)
            parameters |= {"constant": sliced.constant, "scale": sliced.scale}
            parameters |= {f"q{b}": Bit(plane) for b, plane in enumerate(sliced.planes)}
        return parameters


@lru_cache(maxsize=256)
def _statement(plan: Plan) -> bytes:
    """Rendered once for each plan: rendering takes as long as a fast search's rescoring."""
    return plan.composed().as_bytes(None)


def candidate_count(k: int, oversampling: float) -> int:
    return max(k, math.ceil(k * oversampling))


def check_oversampling(oversampling: float) -> None:
    """Raises InputError for what is no factor of at least 1."""
    if not 1 <= oversampling < math.inf:
        raise InputError(f"oversampling is {oversampling}, expected at least 1")


def run(connection: Connection, plan: Plan, queries: NDArray[np.float32]) -> list[list[Hit]]:
    """The hits of each prepared query (m, d), best first."""
    if not plan.in_client:
        return [_in_database(connection, plan, query) for query in queries]
    if plan.candidates is None:
        return _scan(connection, plan, queries)
    return [_rescored(connection, plan, query) for query in queries]


def _in_database(connection: Connection, plan: Plan, query: NDArray[np.float32]) -> list[Hit]:
    with connection.cursor(binary=True) as cursor:
        rows = cursor.execute(plan.statement(), plan.parameters(query)).fetchall()
    return [Hit(*row) if plan.texts else Hit(*row[:2]) for row in rows]


def fetch_candidates(connection: Connection, plan: Plan, query: NDArray[np.float32]) -> list[tuple[Any, bytes]]:
    """The prefilter's rows: ids and codes."""
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(plan.statement(), plan.parameters(query)).fetchall()


def _rescored(connection: Connection, plan: Plan, query: NDArray[np.float32]) -> list[Hit]:
    best = best_of(plan, fetch_candidates(connection, plan, query), query[None])[0]
    return with_texts(connection, plan, [best])[0]


def best_of(plan: Plan, rows: list[tuple[Any, bytes]], queries: NDArray[np.float32]) -> list[list[tuple[float, Any]]]:
    """The k best (score, id) of rows for each query, best first, equal scores in the order of the rows."""
    if not rows:
        return [[] for _ in queries]
    codes = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(len(rows), -1)
    scores = score(codes, queries, plan.calibration, plan.table.layout.planes)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : plan.k]
    return [[(float(line[i]), rows[i][0]) for i in chosen] for line, chosen in zip(scores, order, strict=True)]


def _scan(connection: Connection, plan: Plan, queries: NDArray[np.float32]) -> list[list[Hit]]:
    """Scores every row for all queries in one pass, holding one chunk of rows at a time."""
    best: list[list[tuple[float, Any]]] = [[] for _ in queries]
    for rows in _chunks(connection, plan):
        for kept, found in zip(best, best_of(plan, rows, queries), strict=True):
            kept += found
            kept.sort(key=lambda pair: -pair[0])
            del kept[plan.k :]
    return with_texts(connection, plan, best)


def _chunks(connection: Connection, plan: Plan) -> Iterator[list[tuple[Any, bytes]]]:
    with connection.transaction(), connection.cursor("qvec_scan", binary=True) as cursor:
        cursor.execute(plan.statement())
        while rows := cursor.fetchmany(_CHUNK):
            yield rows


def with_texts(connection: Connection, plan: Plan, best: Iterable[list[tuple[float, Any]]]) -> list[list[Hit]]:
    """Hits of (score, id) pairs, with the rows' documents and metadata where the plan asks for them."""
    best = list(best)
    if not plan.texts:
        return [[Hit(id, score) for score, id in pairs] for pairs in best]
    wanted = list({id for pairs in best for _, id in pairs})
    statement = statements.by_ids(plan.table, ("id", "document", "metadata"))
    with connection.cursor(binary=True) as cursor:
        texts = {id: rest for id, *rest in cursor.execute(statement, [wanted]).fetchall()}
    return [[Hit(id, score, *texts.get(id, (None, None))) for score, id in pairs] for pairs in best]
