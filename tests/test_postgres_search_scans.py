"""Searches in Postgres whose index scan ends before it has found all candidates, as with a rare filter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from conftest import realistic
from databases import ids
from numpy.typing import NDArray
from pgvector import Bit

import qvec
from qvec import Calibration
from qvec.client import Database
from qvec.filters import parse
from qvec.postgres import statements
from qvec.postgres.rows import prefilter_bits
from qvec.postgres.search_plan import Where
from qvec.store.requests import RowFilter

Vectors = NDArray[np.float32]

ROWS = 3000
RARE = {"rare": True}
PASSING = set(range(7, ROWS, 300))
SHORT_SCANS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off", "hnsw.max_scan_tuples": "1"}
"""The index is used, and its iterative scan ends after the first tuples."""
K = 12


@pytest.fixture(scope="module")
def short_url(new_database: Callable[..., str]) -> str:
    """The URL of an empty database whose index scans end at once."""
    settings = " ".join(f"-c {name}={value}" for name, value in SHORT_SCANS.items())
    return f"{new_database()}&options={quote(settings)}"


@pytest.fixture(scope="module")
def short(short_url: str) -> Iterator[Database]:
    with qvec.connect(short_url) as database:
        yield database


@pytest.fixture(scope="module", params=["int8", "binary", "float16"])
def docs(request: pytest.FixtureRequest, short: Database) -> Any:
    vectors = realistic(ROWS)
    docs: Any = short.create_collection(request.param, calibration=Calibration.fit(vectors), rescore=request.param)
    docs.upsert(np.arange(ROWS), vectors, metadata=[{"rare": row in PASSING} for row in range(ROWS)])
    docs.build_index()
    return docs


def found_by_index(short: Database, docs: Any, query: Vectors, candidates: int) -> int:
    """Return how many of the wanted candidates the index scan finds among the rows that pass."""
    where = Where.of(RowFilter(parse(RARE)))
    statement = statements.candidates(docs.stored.table, ("id",), candidates, where.composed())
    bits = prefilter_bits(docs.calibration.prepared(query[None]), docs.calibration, docs.stored.table.layout)
    with short.store.connection() as connection:
        rows = connection.execute(statement, {**where.parameters, "bits": Bit(bits.tobytes())}).fetchall()
    return len(rows)


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
def test_all_rows_that_pass_are_ranked(
    short: Database, docs: Any, short_url: str, queries: Vectors, rescore_in: str
) -> None:
    assert all(found_by_index(short, docs, query, K) < len(PASSING) for query in queries[:5])
    options: dict[str, Any] = {"k": K, "filter": RARE, "rescore_in": rescore_in}

    async def awaited(query: Vectors) -> Any:
        async with await qvec.connect_async(short_url) as database:
            return await (await database.collection(docs.name)).search(query, **options)

    exact = docs.search(queries[:5], **options, exact=True)
    for found in (docs.search(queries[:5], **options), asyncio.run(awaited(queries[:5]))):
        assert found == exact
    for found in (docs.search(queries[0], **options), asyncio.run(awaited(queries[0]))):
        assert found == exact[0]
        assert set(ids(found)) == PASSING


def test_one_call_mixes_queries_with_enough_candidates_and_without(short: Database, docs: Any) -> None:
    passing = sorted(PASSING)[:3]
    mixed = realistic(ROWS)[[*range(10), *passing, *range(10, 20)]]
    assert {found_by_index(short, docs, query, 1) for query in mixed} == {0, 1}
    options: dict[str, Any] = {"k": 1, "oversampling": 1, "filter": RARE}
    found = docs.search(mixed, **options)
    assert found == [docs.search(query, **options) for query in mixed]
    assert all(len(hits) == 1 for hits in found)
    assert [ids(hits) for hits in found[10:13]] == [[id] for id in passing]


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
def test_explanations_hold_the_hits_of_the_search(docs: Any, queries: Vectors, rescore_in: str) -> None:
    options: dict[str, Any] = {"k": K, "filter": RARE, "rescore_in": rescore_in}
    explained = docs.explain(queries[0], **options)
    assert explained.hits == docs.search(queries[0], **options)
    assert any(docs.stored.table.index in line for line in explained.plan)
    if rescore_in == "client" and docs.stored.table.layout.planes:
        assert set(explained.milliseconds) == {"prepare", "prefilter", "all rows that pass"}
