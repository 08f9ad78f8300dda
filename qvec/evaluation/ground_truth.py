"""The ground truth of recall: the rows that are nearest to each query by exact search in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.client import Collection
from qvec.client.diversity import unit_length
from qvec.codes import divides_by_length
from qvec.errors import InputError
from qvec.evaluation.dataset import Block, Queries, Rows, rows_of_collection
from qvec.ingest.load_options import Reporter

Floats = NDArray[np.float32]
Ids = Sequence[int | str]

TIE = 1e-6
"""Scores tie if they differ by less than this share of |query| * |row|: the order of summation alone can do that."""
MAX_TIES = 10_000
"""Limit for the rows kept for a query; `GroundTruth.capped` tells if more rows are equally near."""
_BLOCK_SCORES = 4 << 20
_GET_ROWS = 1000


@dataclass(frozen=True)
class GroundTruth:
    """The k nearest rows of each query.

    `nearer` holds the ids of the rows that are nearer than the k-th, best first, and `tied` those that are as near as
    the k-th: any of them may fill the remaining places.
    """

    k: int
    rows: int
    nearer: tuple[tuple[int | str, ...], ...]
    tied: tuple[frozenset[int | str], ...]
    capped: bool = False

    def recalls(self, found: Sequence[Ids]) -> NDArray[np.float64]:
        """Return recall@k of each query (m,) for the ids that a search found, best first.

        Tied rows count in the search's favour. Ids after the first k do not count (in `RecallTable.recalls` they do),
        nor do repeated ids. With fewer than k rows, recall is the share of all rows.
        """
        recalls = [self._recall(*each) for each in zip(found, self.nearer, self.tied, strict=True)]
        return np.array(recalls, np.float64)

    def _recall(self, found: Ids, nearer: tuple[int | str, ...], tied: frozenset[int | str]) -> float:
        first = set(found[: self.k])
        wanted = min(self.k, len(nearer) + len(tied))
        return (len(first.intersection(nearer)) + min(len(first & tied), wanted - len(nearer))) / wanted

    def nearest(self) -> list[list[int | str]]:
        """Return k nearest rows of each query, best first; ties are broken by id."""
        pairs = zip(self.nearer, self.tied, strict=True)
        return [[*nearer, *sorted(tied, key=str)][: self.k] for nearer, tied in pairs]

    def ids(self) -> set[int | str]:
        """Return the ids of all rows that are among the nearest of some query."""
        return set().union(*self.nearer, *self.tied)


@dataclass(frozen=True, eq=False)
class RecallTable:
    """A `GroundTruth` over rows whose ids are their positions, as a table (queries, rows) for fast lookup.

    The table holds 1 for rows that are nearer than the k-th and 2 for rows tied with it. `nearer` and `wanted` (m,)
    count the former and the rows that a search should find.
    """

    k: int
    table: NDArray[np.uint8]
    nearer: NDArray[np.int64]
    wanted: NDArray[np.int64]

    @classmethod
    def of(cls, truth: GroundTruth) -> RecallTable:
        """Build the table of a ground truth."""
        table = np.zeros((len(truth.nearer), truth.rows), np.uint8)
        for query, (nearer, tied) in enumerate(zip(truth.nearer, truth.tied, strict=True)):
            table[query, np.array(nearer, np.int64)] = 1
            table[query, np.array(list(tied), np.int64)] = 2
        nearer_rows, tied_rows = (table == 1).sum(axis=1), (table == 2).sum(axis=1)
        return cls(truth.k, table, nearer_rows, np.minimum(truth.k, nearer_rows + tied_rows))

    def recalls(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the recall of each query (m,) for distinct rows found (m, n).

        All n count, not the first k only as in `GroundTruth.recalls`. So the recall of candidates is the share of
        nearest rows that rescoring can still find; pass k rows for recall@k.
        """
        kinds = np.take_along_axis(self.table, found, axis=1)
        tied = np.minimum((kinds == 2).sum(axis=1), self.wanted - self.nearer)
        return np.asarray(((kinds == 1).sum(axis=1) + tied) / self.wanted, np.float64)


class _NearestRows:
    """Accumulates the nearest rows of queries (m, d) over batches of rows, by inner product."""

    def __init__(self, queries: Floats, k: int, excluded: Ids) -> None:
        self._queries = np.ascontiguousarray(queries, np.float32)
        self._lengths = np.linalg.norm(self._queries.astype(np.float64), axis=1)
        self._k = k
        self._excluded: dict[int | str, list[int]] = {}
        for query, id in enumerate(excluded):
            self._excluded.setdefault(id, []).append(query)
        self._top = np.full((len(queries), k), -np.inf, np.float32)  # the best scores, ascending
        self._longest = 0.0
        self._kept_queries = np.empty(0, np.int64)
        self._kept_scores = np.empty(0, np.float32)
        self._kept_ids = np.empty(0, object)
        self._rows = 0
        self._capped = False

    def update(self, ids: NDArray[Any], vectors: Floats) -> None:
        names = np.array(ids.tolist(), object)
        size = max(_BLOCK_SCORES // len(self._queries), 1)
        for start in range(0, len(vectors), size):
            self._compare(names[start : start + size], vectors[start : start + size])
        self._rows += len(vectors)

    def _compare(self, ids: NDArray[Any], vectors: Floats) -> None:
        scores = self._queries @ vectors.T
        if not np.all(np.isfinite(scores)):
            raise InputError("a score is beyond float32, or a vector holds NaN or infinity")
        for column, id in enumerate(ids) if self._excluded else ():
            scores[self._excluded.get(id, ()), column] = -np.inf
        self._longest = max(self._longest, float(np.linalg.norm(vectors, axis=1).max()))
        best = scores if scores.shape[1] <= self._k else np.partition(scores, -self._k, axis=1)[:, -self._k :]
        self._top = np.sort(np.concatenate([self._top, best], axis=1), axis=1)[:, -self._k :]
        found = np.nonzero((scores >= self._lowest_kept()[:, None]) & np.isfinite(scores))
        self._keep(found[0], scores[found], ids[found[1]])

    def _tolerance(self) -> NDArray[np.float64]:
        return np.asarray(self._lengths * (TIE * self._longest), np.float64)

    def _lowest_kept(self) -> NDArray[np.float64]:
        """The lowest score (m,) that still ties with the k-th best so far."""
        return np.asarray(self._top[:, 0] - self._tolerance(), np.float64)

    def _keep(self, queries: NDArray[np.int64], scores: Floats, ids: NDArray[Any]) -> None:
        queries = np.concatenate([self._kept_queries, queries])
        scores = np.concatenate([self._kept_scores, scores])
        ids = np.concatenate([self._kept_ids, ids])
        order = np.lexsort((-scores, queries))
        order = order[scores[order] >= self._lowest_kept()[queries[order]]]
        first = np.searchsorted(queries[order], queries[order])
        within_limit = np.arange(len(order)) - first < max(MAX_TIES, self._k)
        self._capped |= not within_limit.all()
        order = order[within_limit]
        self._kept_queries, self._kept_scores, self._kept_ids = queries[order], scores[order], ids[order]

    def finish(self) -> GroundTruth:
        bounds = np.searchsorted(self._kept_queries, np.arange(len(self._queries) + 1))
        pairs = [self._split(query, slice(*bounds[query : query + 2])) for query in range(len(self._queries))]
        if not all(nearer or tied for nearer, tied in pairs):
            raise InputError("there are no rows to compare the queries with")
        nearer, tied = zip(*pairs, strict=True)
        return GroundTruth(self._k, self._rows, nearer, tied, self._capped)

    def _split(self, query: int, kept: slice) -> tuple[tuple[int | str, ...], frozenset[int | str]]:
        """The ids of a query's rows above its k-th score, and of those tied with it."""
        scores, ids = self._kept_scores[kept].astype(np.float64), self._kept_ids[kept]
        if not len(scores):
            return (), frozenset()
        last = scores[min(self._k, len(scores)) - 1]
        above = int((scores > last + self._tolerance()[query]).sum())
        return tuple(ids[:above]), frozenset(ids[above:])


def nearest_rows(
    batches: Iterable[tuple[NDArray[Any], Floats]], queries: Floats, k: int, excluded: Ids | None = None
) -> GroundTruth:
    """Find the k nearest rows of each query (m, d) in one pass over batches of ids (n,) and vectors float32 (n, d).

    Scores are inner products: under cosine, pass unit vectors. `excluded` names one row for each query that does not
    count for it, such as the row that the query is.
    """
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1")
    if not len(queries):
        raise InputError("there are no queries")
    nearest = _NearestRows(queries, k, excluded or ())
    for ids, vectors in batches:
        nearest.update(ids, vectors)
    return nearest.finish()


def find_ground_truth(
    collection: Collection, queries: Queries, rows: Rows | None, k: int, reporter: Reporter
) -> GroundTruth:
    """Find the k nearest among `rows`, the source of the collection, or among what the collection itself keeps.

    Raise InputError if `rows` are not the rows of the collection: recall would be wrong without notice.
    """
    compared = rows or _rows_as_scored(collection)
    vectors = queries.prepared(collection.calibration, compared.dimensions)
    reporter.stage("truth", collection.count())
    batches = compared.read(lambda done: reporter.advance("truth", done))
    truth = nearest_rows(batches, vectors, k, queries.row_ids)
    reporter.finish("truth")
    if rows is not None:
        _check_same_rows(collection, truth, rows.name)
    return truth


def _rows_as_scored(collection: Collection) -> Rows:
    """Return the rows of a collection as its exact search scores them."""
    rows = rows_of_collection(collection)
    scores_codes = collection.exposes_codes and not collection.keeps_floats
    if not scores_codes or not divides_by_length(collection.calibration):
        return rows

    def read(progress: Callable[[int], None]) -> Iterator[Block]:
        for ids, vectors in rows.read(progress):
            yield ids, unit_length(vectors if rows.offset is None else vectors + rows.offset)

    return Rows(rows.name, rows.dimensions, read)


def describe_ground_truth(collection: Collection, rows: Rows | None) -> str:
    """Describe what recall is measured against, for a report."""
    if rows is not None:
        return f"exact search of {rows.name} in float32, {rows.dimensions} dimensions"
    precision = collection.settings["rescore"]
    if precision in ("float16", "float32"):
        return f"exact search of the collection's own {precision} vectors"
    return (
        f"exact search of the collection's own {precision} vectors, because it keeps no floats: what {precision} "
        "itself loses is not included; to include it, name what the collection was loaded from (--truth SOURCE)"
    )


def _check_same_rows(collection: Collection, truth: GroundTruth, name: str) -> None:
    count = collection.count()
    if count > truth.rows:
        raise InputError(
            f"collection {collection.name!r} has {count:,} rows, but {name} has {truth.rows:,} usable rows; give "
            "everything that the collection was loaded from as --truth"
        )
    ids = iter(truth.ids())
    missing: list[int | str] = []
    while some := list(islice(ids, _GET_ROWS)):
        missing += [id for id, hit in zip(some, collection.get(some), strict=True) if hit is None]
    if missing:
        raise InputError(
            f"{len(missing):,} of the rows of {name} that are nearest to the queries are not in collection "
            f"{collection.name!r}, such as id {missing[0]!r}; give what it was loaded from as --truth, or omit --truth"
        )
