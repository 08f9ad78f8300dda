"""How to search one table: the statement, its parameters, and the ranking of what it returns. Nothing here does I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import Bit, Vector
from psycopg.sql import SQL, Composable, Composed

from qvec.calibration import Calibration
from qvec.codes import divides_by_length, hamming, levels, score
from qvec.postgres import filters, rescoring, statements
from qvec.postgres.layout import Table
from qvec.postgres.rows import query_bits
from qvec.store.requests import RescoreIn, RowFilter

QUERY_PLANES = 13
"""Bits of a query component in SQL scoring: the error is about 2e-5 of |q| |x|, at most 8e-5, at 384 dimensions and
more; up to 2e-4 at a few, and 2e-3 where one dimension weighs 30 times as much as any other."""


@dataclass(frozen=True)
class Where:
    """A condition in SQL, and the parameters it names."""

    text: str
    parameters: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, filter: RowFilter) -> Where:
        """Compile a filter. Raise InputError for a condition that Postgres does not have."""
        if not filter:
            return EVERY_ROW
        native = None if filter.native is None else f"({filter.native.as_string(None)})".replace("%", "%%")
        if filter.tree is None:
            return cls(native or "true")
        condition, parameters = filters.compile(filter.tree)
        text = condition.as_string(None)
        return cls(f"{native} AND {text}" if native else text, parameters)

    def composed(self) -> SQL:
        return SQL(self.text)


EVERY_ROW = Where("true")


@dataclass(frozen=True)
class SlicedQuery:
    """A query for `rescoring.rescore_codes`: <q, x> = constant + scale * (weighted counts of common bits)."""

    constant: float
    scale: float
    planes: tuple[bytes, ...]

    @classmethod
    def of(cls, query: NDArray[np.float32], calibration: Calibration, planes: int) -> SlicedQuery:
        """Slice a float32 query (d,) against codes of `planes` planes.

        With u_i = q_i r_i / 2^(p-1), or 2 q_i deviation_i for p = 1, and the code's p bits as an integer c_i, <q, x> is
        estimated by <q, threshold> + sum u_i (c_i + 1/2 - 2^(p-1)); u is rounded to signed integers of QUERY_PLANES
        bits.
        """
        half = 1 << (planes - 1)
        step = 2 * calibration.deviation if planes == 1 else calibration.radius / half
        weights = query.astype(np.float64) * step
        limit = (1 << (QUERY_PLANES - 1)) - 1
        scale = float(np.abs(weights).max(initial=0)) / limit or 1.0
        levels = np.rint(weights / scale).astype(np.int32) + limit + 1
        sliced = [np.packbits(levels >> bit & 1).tobytes() for bit in reversed(range(QUERY_PLANES))]
        # Take the sum of the rounded weights: their errors then multiply c_i + 1/2 - 2^(p-1), which is small, not c_i.
        rounded = scale * float(np.sum(levels - limit - 1))
        constant = float(query.astype(np.float64) @ calibration.threshold) + (0.5 - half) * rounded
        return cls(constant, scale, tuple(sliced))


@dataclass(frozen=True)
class SearchPlan:
    """The number of hits and candidates, the rows to search, and where to rescore. `candidates` None: all rows."""

    table: Table
    calibration: Calibration
    k: int
    candidates: int | None
    rescore_in: RescoreIn = "client"
    texts: bool = True
    rescore: bool = True
    where: Where = EVERY_ROW
    planes: int | None = None
    """Planes of the codes that rescoring in this process reads; None: all."""
    collection: str | None = None
    """The table's collection: once it has another calibration, the statement finds nothing."""

    @property
    def ranks_here(self) -> bool:
        """Whether this process ranks rows, by their codes."""
        return not self.rescore or (self.table.layout.planes is not None and self.rescore_in == "client")

    @property
    def ranked_column(self) -> str:
        """The column by which this process ranks rows."""
        return "learned" if not self.rescore and self.table.layout.has_learned_column else "codes"

    def of_all_rows(self) -> SearchPlan:
        """Return the same search without the prefilter."""
        return replace(self, candidates=None)

    def rows_statement(self, columns: tuple[str, ...]) -> Composed:
        """Return the statement that gives the rows to rescore."""
        where, unchanged = self.where.composed(), self._unchanged()
        if self.candidates is None:
            return statements.all_rows(self.table, columns, SQL("{} AND {}").format(unchanged, where))
        return statements.candidates(self.table, columns, self.k, self.candidates, where, unchanged)

    def _unchanged(self) -> Composable:
        if self.collection is None:
            return statements.EVERY_ROW
        return statements.unchanged(self.collection, self.calibration.id)

    def statement(self) -> bytes:
        """Return the statement of the search; rescoring in the client continues with its rows."""
        return _statement(self)

    def composed(self) -> Composed:
        """Return the statement before it is rendered."""
        if self.ranks_here:
            return self.rows_statement(("id", self.ranked_column))
        if self.table.layout.planes:
            codes = self.rows_statement(("id", "codes", "document", "metadata"))
            calibration = self.calibration.id if divides_by_length(self.calibration) else None
            return rescoring.rescore_codes(self.table, codes, QUERY_PLANES, self.k, calibration)
        return rescoring.rescore_floats(
            self.table, self.rows_statement(("id", "embedding", "document", "metadata")), self.k
        )

    def parameters(self, query: NDArray[np.float32]) -> dict[str, Any]:
        """Return the parameters of the statement for a prepared query (d,)."""
        parameters: dict[str, Any] = dict(self.where.parameters)
        layout = self.table.layout
        if self.candidates is not None:
            parameters["bits"] = Bit(query_bits(query[None], self.calibration, layout).tobytes())
        if self.ranks_here:
            return parameters
        if not layout.planes:
            parameters["query"] = Vector(query).to_text()
        else:
            sliced = SlicedQuery.of(query, self.calibration, layout.planes)
            parameters |= {"constant": sliced.constant, "scale": sliced.scale}
            parameters |= {f"q{b}": Bit(plane) for b, plane in enumerate(sliced.planes)}
        return parameters

    def has_enough(self, rows: int) -> bool:
        """Return whether the statement gave one query as many rows as wanted; a filter may leave it fewer."""
        filtered = self.where != EVERY_ROW and self.candidates is not None
        wanted = (self.candidates or 0) if self.ranks_here else self.k
        return not filtered or rows >= wanted

    def span_name(self) -> str:
        """Return the name of the span around the statement."""
        if self.candidates is None:
            return "scan"
        return "prefilter" if self.ranks_here else "prefilter_rescore"

    def best_of(self, rows: list[tuple[Any, ...]], queries: NDArray[np.float32]) -> list[list[tuple[float, Any]]]:
        """Return the k best (score, id) of (id, codes) rows for each query, best first, ties in the rows' order."""
        if not rows:
            return [[] for _ in queries]
        codes = np.frombuffer(b"".join(row[1] for row in rows), np.uint8).reshape(len(rows), -1)
        scores = self._scores(codes, queries)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        return [[(float(line[i]), rows[i][0]) for i in chosen] for line, chosen in zip(scores, order, strict=True)]

    def _scores(self, codes: NDArray[np.uint8], queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scores (m, n): estimates of the metric or, without rescoring, the share of equal bits in -1 to 1."""
        layout = self.table.layout
        if self.rescore:
            return score(codes, queries, self.calibration, self.planes or layout.planes)
        bits = levels(codes, self.calibration, layout.levels) if layout.planes and layout.levels else codes
        distances = hamming(bits, query_bits(queries, self.calibration, layout))
        return (1 - distances * (2 / layout.prefilter_bits)).astype(np.float32)


@lru_cache(maxsize=256)
def _statement(plan: SearchPlan) -> bytes:
    """Render once for each plan: rendering takes as long as the rescoring of a fast search."""
    return plan.composed().as_bytes(None)


@lru_cache(maxsize=256)
def texts_statement(table: Table) -> bytes:
    """Return the statement that fetches documents and metadata by id."""
    return statements.by_ids(table, ("id", "document", "metadata")).as_bytes(None)
