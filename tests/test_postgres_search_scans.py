"""Searches in Postgres whose index scan ends before it finds all candidates, as with a selective filter."""

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
from qvec.postgres.rows import query_bits
from qvec.postgres.search_plan import Where
from qvec.store.requests import RowFilter

Vectors = NDArray[np.float32]

ROWS = 1500
RARE = {"rare": True}
PASSING = set(range(7, ROWS, 150))
SHORT_SCANS = {"enable_seqscan": "off", "enable_bitmapscan": "off", "enable_sort": "off", "hnsw.max_scan_tuples": "1"}
"""Settings that force the use of the index and end its iterative scan after the first tuples."""
K = 12


@pytest.fixture(scope="module")
def short_scan_url(new_database: Callable[..., str]) -> str:
    """The URL of an empty database whose index scans end after the first tuples."""
    settings = " ".join(f"-c {name}={value}" for name, value in SHORT_SCANS.items())
    return f"{new_database()}&options={quote(settings)}"


@pytest.fixture(scope="module")
def short_scan_db(short_scan_url: str) -> Iterator[Database]:
    with qvec.connect(short_scan_url) as database:
        yield database


@pytest.fixture(scope="module", params=["int8", "binary", "float16"])
def docs(request: pytest.FixtureRequest, short_scan_db: Database) -> Any:
    vectors = realistic(ROWS)
    docs: Any = short_scan_db.create_collection(
        request.param, calibration=Calibration.fit(vectors), rescore=request.param
    )
    docs.upsert(np.arange(ROWS), vectors, metadata=[{"rare": row in PASSING} for row in range(ROWS)])
    docs.build_index()
    return docs


def count_found_by_index(short_scan_db: Database, docs: Any, query: Vectors, candidates: int) -> int:
    """Return how many candidates the index scan finds among the matching rows."""
    where = Where.of(RowFilter(parse(RARE)))
    statement = statements.candidates(docs.stored.table, ("id",), 10, candidates, where.composed())
    bits = query_bits(docs.calibration.prepared(query[None]), docs.calibration, docs.stored.table.layout)
    with short_scan_db.store.connection() as connection:
        rows = connection.execute(statement, {**where.parameters, "bits": Bit(bits.tobytes())}).fetchall()
    return len(rows)


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
def test_all_matching_rows_are_ranked(
    short_scan_db: Database, docs: Any, short_scan_url: str, queries: Vectors, rescore_in: str
) -> None:
    assert all(count_found_by_index(short_scan_db, docs, query, K) < len(PASSING) for query in queries[:5])
    options: dict[str, Any] = {"k": K, "filter": RARE, "rescore_in": rescore_in}

    async def search_async(query: Vectors) -> Any:
        async with await qvec.connect_async(short_scan_url) as database:
            return await (await database.collection(docs.name)).search(query, **options)

    exact = docs.search(queries[:5], **options, exact=True)
    for found in (docs.search(queries[:5], **options), asyncio.run(search_async(queries[:5]))):
        assert found == exact
    for found in (docs.search(queries[0], **options), asyncio.run(search_async(queries[0]))):
        assert found == exact[0]
        assert set(ids(found)) == PASSING


def test_batch_mixes_queries_with_enough_and_too_few_candidates(short_scan_db: Database, docs: Any) -> None:
    passing = sorted(PASSING)[:3]
    mixed = realistic(ROWS)[[*range(10), *passing, *range(10, 20)]]
    assert {count_found_by_index(short_scan_db, docs, query, 1) for query in mixed} == {0, 1}
    options: dict[str, Any] = {"k": 1, "oversampling": 1, "filter": RARE}
    found = docs.search(mixed, **options)
    assert found == [docs.search(query, **options) for query in mixed]
    assert all(len(hits) == 1 for hits in found)
    assert [ids(hits) for hits in found[10:13]] == [[id] for id in passing]


@pytest.mark.parametrize("rescore_in", ["client", "sql"])
def test_explain_returns_the_hits_of_the_search(docs: Any, queries: Vectors, rescore_in: str) -> None:
    options: dict[str, Any] = {"k": K, "filter": RARE, "rescore_in": rescore_in}
    explanation = docs.explain(queries[0], **options)
    assert explanation.hits == docs.search(queries[0], **options)
    assert any(docs.stored.table.index in line for line in explanation.plan)
    if rescore_in == "client" and docs.stored.table.layout.planes:
        assert set(explanation.milliseconds) == {"prepare", "prefilter", "all rows that pass"}
