"""Filters in every kind of search, on all stores, with operators that Qdrant cannot express as a condition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import realistic
from databases import Store, ids
from numpy.typing import NDArray

import qvec
from qvec import Calibration, InputError
from qvec.filters import matches, parse
from qvec.integrations.adapters import delete_matching
from qvec.qdrant import filters as qdrant_filters

Vectors = NDArray[np.float32]

ROWS = 1200
"""More than one request to a server returns."""
NAMES = ["Anna", "anna", "Bob", "Ärger", "50% off", None]


def metadata(row: int) -> dict[str, Any] | None:
    source = {"name": NAMES[row % 6], "tags": [f"t{row % 4}", "all"]}
    return None if row % 100 == 0 else {"source": source, "n": row, "code": f"c{row:04}"}


FILTERS: list[dict[str, Any]] = [
    {"source.name": {"$ilike": "ANN%"}},
    {"source.name": {"$like": "_n%a"}},
    {"source.name": {"$gte": "B"}},
    {"code": {"$between": ["c0100", "c0119"]}},
    {"source.tags": {"$ilike": "T1"}},
    {"$not": {"source.name": {"$ilike": "%N%"}}},
    {"$or": [{"source.name": {"$ilike": "bob"}}, {"n": {"$lt": 20}}]},
    {"n": {"$lt": 600}, "source.name": {"$ilike": "bob"}},
    {"code": {"$ilike": "no such"}},
]


with_both_id_types = pytest.mark.parametrize(
    ("docs", "filter"),
    [("bigint", filter) for filter in FILTERS] + [("text", filter) for filter in FILTERS[::7]],
    indirect=["docs"],
    ids=str,
)


def matching_rows(filter: dict[str, Any]) -> list[int]:
    condition = parse(filter)
    return [row for row in range(ROWS) if matches(condition, metadata(row))]


@pytest.fixture(scope="module", params=["bigint"])
def docs(store: Store, request: pytest.FixtureRequest) -> Any:
    """A collection whose ids have the type of the parameter."""
    vectors = realistic(ROWS, 16)
    collection: Any = store.create(Calibration.fit(vectors), id_type=request.param, rescore="float16")
    rows = [row if request.param == "bigint" else f"{row:04}" for row in range(ROWS)]
    texts = ["the fox" if row % 2 else "a hen" for row in range(ROWS)]
    collection.upsert(rows, vectors, texts, [metadata(row) for row in range(ROWS)])
    if store.ranks_texts:
        collection.index_texts("simple")
    return collection


def row_numbers(hits: list[Any]) -> list[int]:
    return sorted(int(hit.id) for hit in hits)


@pytest.mark.sampled(3)
@with_both_id_types
def test_searches_find_the_matching_rows(store: Store, docs: Any, filter: dict[str, Any]) -> None:
    expected = matching_rows(filter)
    query = realistic(3, 16, seed=1)
    for options in ({}, {"exact": True}, {"texts": False}):
        assert row_numbers(docs.search(query[0], ROWS, filter=filter, **options)) == expected
    assert [row_numbers(hits) for hits in docs.search(query, ROWS, filter=filter)] == [expected] * 3
    explained = docs.explain(query[0], 5, filter=filter)
    assert ids(explained.hits) == ids(docs.search(query[0], 5, filter=filter))
    if store.ranks_texts:
        odd_rows = [row for row in expected if row % 2]
        assert row_numbers(docs.search_text("fox", ROWS, filter=filter)) == odd_rows
        assert row_numbers(docs.search_hybrid("fox", ROWS, vector=query[0], filter=filter)) == expected


@pytest.mark.sampled(3)
@with_both_id_types
def test_scroll_returns_the_matching_rows(docs: Any, filter: dict[str, Any]) -> None:
    found = docs.scroll(filter)
    assert row_numbers(found) == matching_rows(filter)
    assert [hit.metadata for hit in found] == [metadata(int(hit.id)) for hit in found]
    assert docs.count(filter) == len(found)
    for limit in (1, 7, 1000):
        assert ids(docs.scroll(filter, limit)) == ids(found)[:limit]


def test_diverse_grouped_and_paged_searches_find_only_matching_rows(docs: Any) -> None:
    query, filter = realistic(1, 16, seed=1)[0], {"source.name": {"$ilike": "ann%"}}
    expected = set(matching_rows(filter))
    assert set(row_numbers(docs.search_diverse(query, 20, filter=filter))) <= expected
    groups = docs.search_groups(query, "source.name", 5, group_size=3, filter=filter)
    assert {group.value for group in groups} == {"Anna", "anna"}
    assert [len(group.hits) for group in groups] == [3, 3]
    first = docs.search_page(query, 10, filter=filter)
    second = docs.search_page(query, 10, after=first.cursor, filter=filter)
    assert ids(first.hits + second.hits) == ids(docs.search(query, 20, filter=filter))


@pytest.mark.parametrize("filter", FILTERS[:2], ids=str)
def test_async_searches_find_the_same_rows(store: Store, docs: Any, filter: dict[str, Any]) -> None:
    query = realistic(2, 16, seed=1)

    async def search() -> None:
        async with await qvec.connect_async(store.url) as db:
            other: Any = await db.collection(docs.name)
            assert await other.search(query, 9, filter=filter) == docs.search(query, 9, filter=filter)
            if store.ranks_texts:
                assert await other.search_text("fox", 9, filter=filter) == docs.search_text("fox", 9, filter=filter)
            assert ids(await other.scroll(filter, 9)) == ids(docs.scroll(filter, 9))

    asyncio.run(search())


def test_groups_with_a_native_filter(store: Store, docs: Any) -> None:
    query = realistic(1, 16, seed=1)[0]
    groups = docs.search_groups(query, "code", 3, group_size=2, filter=store.native_filter("code", "c0007"))
    assert [group.value for group in groups] == ["c0007"]


def test_matching_rows_are_deleted(store: Store) -> None:
    vectors = realistic(ROWS, 16)
    docs: Any = store.create(Calibration.fit(vectors))
    docs.upsert(range(ROWS), vectors, None, [metadata(row) for row in range(ROWS)])
    assert delete_matching(docs, {"source.name": {"$ilike": "ANNA"}}) == len(
        matching_rows({"source.name": {"$ilike": "anna"}})
    )
    assert docs.scroll({"source.name": {"$ilike": "ANNA"}}) == []


# Qdrant filters by the ids of matching rows if it has no condition


def test_qdrant_refuses_filters_that_match_too_many_rows_to_list_their_ids(
    store: Store, docs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_filters, "MAX_IDS", 100)
    query, many, few = realistic(1, 16)[0], {"code": {"$ilike": "C%"}}, {"code": {"$ilike": "C000_"}}
    searches: list[Callable[[], Any]] = [lambda: docs.search(query, filter=many)]
    if store.ranks_texts:
        searches.append(lambda: docs.search_text("fox", filter=many))
    for search in searches:
        if store.is_postgres:
            assert len(search()) == 10
        else:
            with pytest.raises(InputError, match=r"more than 100 rows pass, .* no condition for \$ilike 'C%' in field"):
                search()
    assert len(docs.scroll(many)) == len(matching_rows(many))
    assert len(docs.search(query, filter={**many, "n": {"$lt": 50}})) == 10
    assert [len(hits) for hits in docs.search(realistic(40, 16), 50, filter=few)] == [9] * 40
