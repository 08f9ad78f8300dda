"""The two steps of a search: prefilter in Postgres, rescore in Rust or in SQL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pgvector import Bit, Vector
from psycopg.sql import SQL, Composable, Composed

from qvec.calibration import Calibration
from qvec.codes import by_length, hamming, score, ternary
from qvec.errors import InputError
from qvec.filters import CombinedFilter, is_none, parse
from qvec.hits import Hit
from qvec.postgres import filters, statements
from qvec.postgres.layout import Table
from qvec.postgres.rows import query_bits
from qvec.postgres.scoring import QUERY_PLANES, SlicedQuery
from qvec.postgres.steps import Fetch, FetchEach, Rows, Scan, Steps
from qvec.stores import MOST_ROWS
from qvec.tracing import span

if TYPE_CHECKING:
    from qvec.filters import FilterLike

RescoreIn = Literal["client", "sql"]
_CHUNK = 4096


@dataclass(frozen=True)
class Where:
    """Which rows a search may find: a condition in SQL, and the parameters it names."""

    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def composed(self) -> SQL:
        return SQL(self.text)


EVERY_ROW = Where("true")


def where(filter: FilterLike | CombinedFilter | None) -> Where:
    """The rows that a filter lets pass; what psycopg composed is taken as it is.

    Raises InputError for a filter of neither kind.
    """
    if is_none(filter):
        return EVERY_ROW
    if isinstance(filter, CombinedFilter):
        native, conditions = where(filter.native), where(filter.conditions)
        return Where(f"{native.text} AND {conditions.text}", conditions.parameters)
    if isinstance(filter, Mapping):
        condition, parameters = filters.compile(parse(filter))
        return Where(condition.as_string(None), parameters)
    if isinstance(filter, Composable):
        return Where(f"({filter.as_string(None)})".replace("%", "%%"))
    raise InputError(f"filter is a {type(filter).__name__}; expected a dict, or a condition of psycopg.sql")


@dataclass(frozen=True)
class Plan:
    """How to search one table: how many hits and candidates, whether to rescore and where. `candidates` None: all."""

    table: Table
    calibration: Calibration
    k: int
    candidates: int | None
    rescore_in: RescoreIn = "client"
    texts: bool = True
    rescore: bool = True
    where: Where = EVERY_ROW
    planes: int | None = None
    """How many of the codes' planes rescoring reads, in this process; None: all."""
    collection: str | None = None
    """Whose table it is: where it has another calibration by now, nothing is found."""

    @property
    def in_client(self) -> bool:
        """Whether rows are ranked in this process, from their codes."""
        return not self.rescore or (self.table.layout.planes is not None and self.rescore_in == "client")

    @property
    def ranked(self) -> str:
        """The column that ranks rows in this process."""
        return "learned" if not self.rescore and self.table.layout.has_learned_column else "codes"

    def of_all_rows(self) -> Plan:
        """The same search without the prefilter."""
        return replace(self, candidates=None)

    def source(self, columns: tuple[str, ...]) -> Composed:
        """The statement that gives the rows to rescore."""
        where, still = self.where.composed(), self._still()
        if self.candidates is None:
            return statements.all_rows(self.table, columns, SQL("{} AND {}").format(still, where))
        return statements.candidates(self.table, columns, self.candidates, where, still)

    def _still(self) -> Composable:
        if self.collection is None:
            return statements.EVERY_ROW
        return statements.still(self.collection, self.calibration.id)

    def statement(self) -> bytes:
        """The statement that a search runs; rescoring in the client takes over from its rows."""
        return _statement(self)

    def composed(self) -> Composed:
        """The statement before it is rendered."""
        if self.in_client:
            return self.source(("id", self.ranked))
        if self.table.layout.planes:
            codes = self.source(("id", "codes", "document", "metadata"))
            calibration = self.calibration.id if by_length(self.calibration, self.table.layout.planes) else None
            return statements.rescore_codes(self.table, codes, QUERY_PLANES, self.k, calibration)
        return statements.rescore_floats(self.table, self.source(("id", "embedding", "document", "metadata")), self.k)

    def parameters(self, query: NDArray[np.float32]) -> dict[str, Any]:
        """The parameters of the statement for a prepared query (d,)."""
        parameters: dict[str, Any] = dict(self.where.parameters)
        layout = self.table.layout
        if self.candidates is not None:
            parameters["bits"] = Bit(query_bits(query[None], self.calibration, layout).tobytes())
        if self.in_client:
            return parameters
        if not layout.planes:
            parameters["query"] = Vector(query).to_text()
        else:
            sliced = SlicedQuery.of(query, self.calibration, layout.planes)
            parameters |= {"constant": sliced.constant, "scale": sliced.scale}
            parameters |= {f"q{b}": Bit(plane) for b, plane in enumerate(sliced.planes)}
        return parameters


@lru_cache(maxsize=256)
def _statement(plan: Plan) -> bytes:
    """Rendered once for each plan: rendering takes as long as a fast search's rescoring."""
    return plan.composed().as_bytes(None)


@lru_cache(maxsize=256)
def _texts_statement(table: Table) -> bytes:
    return statements.by_ids(table, ("id", "document", "metadata")).as_bytes(None)


def candidate_count(k: int, oversampling: float) -> int:
    return max(k, math.ceil(min(k * oversampling, MOST_ROWS)))


def run(plan: Plan, queries: NDArray[np.float32]) -> Steps[list[list[Hit]]]:
    """The hits of each prepared query (m, d), best first.

    Where a filter leaves the prefilter fewer candidates than it was to find, all rows that pass it are ranked.
    """
    if plan.in_client and plan.candidates is None:
        return (yield from _scan(plan, queries))
    with span(_statement_span(plan), candidates=plan.candidates) as fetching:
        rows = yield from fetch(plan, queries)
        fetching.set_attribute("qvec.rows", sum(map(len, rows)))
    enough = np.array([found_enough(plan, found) for found in rows], bool)
    if enough.all():
        return (yield from _hits(plan, rows, queries))
    whole = [found for found, is_enough in zip(rows, enough, strict=True) if is_enough]
    hits = iter((yield from _hits(plan, whole, queries[enough])))
    again = iter((yield from run(plan.of_all_rows(), queries[~enough])))
    return [next(hits if is_enough else again) for is_enough in enough]


def _statement_span(plan: Plan) -> str:
    """What the plan's statement does, as its span is named."""
    if plan.candidates is None:
        return "scan"
    return "prefilter" if plan.in_client else "prefilter_rescore"


def found_enough(plan: Plan, rows: Rows) -> bool:
    """Whether the plan's statement gave one query as many rows as it was to find, where a filter may leave it fewer."""
    filtered = plan.where != EVERY_ROW and plan.candidates is not None
    wanted = (plan.candidates or 0) if plan.in_client else plan.k
    return not filtered or len(rows) >= wanted


def _hits(plan: Plan, rows: list[Rows], queries: NDArray[np.float32]) -> Steps[list[list[Hit]]]:
    """The hits among the rows that the plan's statement gave for each query."""
    if not plan.in_client:
        return [[Hit(*row) if plan.texts else Hit(*row[:2]) for row in found] for found in rows]
    if not rows:
        return []
    with span("rescore", rows=sum(map(len, rows))):
        best = [best_of(plan, found, query[None])[0] for found, query in zip(rows, queries, strict=True)]
    return (yield from with_texts(plan, best))


def fetch(plan: Plan, queries: NDArray[np.float32]) -> Steps[list[Rows]]:
    """The rows of the plan's statement for each query, of several in one round trip.

    With a filter it is planned each time: how many rows pass decides which index is best.
    """
    parameters = [plan.parameters(query) for query in queries]
    prepare = None if plan.where == EVERY_ROW else False
    if len(parameters) == 1:
        return [(yield Fetch(plan.statement(), parameters[0], binary=True, prepare=prepare))]
    rows: list[Rows] = yield FetchEach(plan.statement(), parameters, binary=True, prepare=prepare)
    return rows


def best_of(plan: Plan, rows: Rows, queries: NDArray[np.float32]) -> list[list[tuple[float, Any]]]:
    """The k best (score, id) of rows for each query, best first, equal scores in the order of the rows."""
    if not rows:
        return [[] for _ in queries]
    codes = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(len(rows), -1)
    scores = _scores(plan, codes, queries)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : plan.k]
    return [[(float(line[i]), rows[i][0]) for i in chosen] for line, chosen in zip(scores, order, strict=True)]


def _scores(plan: Plan, codes: NDArray[np.uint8], queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (m, n) of stored codes: estimates of the metric or, not rescored, the share of equal bits from -1 to 1."""
    layout = plan.table.layout
    if plan.rescore:
        return score(codes, queries, plan.calibration, plan.planes or layout.planes)
    bits = ternary(codes, plan.calibration) if layout.planes and layout.prefilter == "ternary" else codes
    distances = hamming(bits, query_bits(queries, plan.calibration, layout))
    return (1 - distances * (2 / layout.prefilter_bits)).astype(np.float32)


def _scan(plan: Plan, queries: NDArray[np.float32]) -> Steps[list[list[Hit]]]:
    """Scores every row for all queries in one pass, holding one chunk of rows at a time."""
    best: list[list[tuple[float, Any]]] = [[] for _ in queries]
    scored = 0

    def rank(rows: Rows) -> None:
        nonlocal scored
        scored += len(rows)
        for kept, found in zip(best, best_of(plan, rows, queries), strict=True):
            kept += found
            kept.sort(key=lambda pair: -pair[0])
            del kept[plan.k :]

    with span("scan") as scanning:
        yield Scan(plan.statement(), plan.where.parameters, _CHUNK, rank)
        scanning.set_attribute("qvec.rows", scored)
    return (yield from with_texts(plan, best))


def with_texts(plan: Plan, best: Iterable[list[tuple[float, Any]]]) -> Steps[list[list[Hit]]]:
    """Hits of (score, id) pairs, with the rows' documents and metadata where the plan asks for them.

    Those of all queries are one round trip more. It costs less than texts of all candidates in the first would: of 16
    queries with 40 candidates of 1 kB each, 0.9 ms against 2.2 ms, before any network has to carry four times as much.
    """
    best = list(best)
    if not plan.texts or not any(best):
        return [[Hit(id, score) for score, id in pairs] for pairs in best]
    wanted = list({id for pairs in best for _, id in pairs})
    with span("texts", rows=len(wanted)):
        rows = yield Fetch(_texts_statement(plan.table), [wanted], binary=True)
    texts = {id: rest for id, *rest in rows}
    return [[Hit(id, score, *texts.get(id, (None, None))) for score, id in pairs] for pairs in best]
