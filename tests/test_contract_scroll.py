"""The contract of all stores: scrolling through all rows or those that match a filter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from databases import Store, ids
from numpy.typing import NDArray

from qvec import Calibration, InputError
from qvec.client import Collection

ROWS = 2500
"""More than one request to a server returns."""


@pytest.fixture(scope="module")
def docs(store: Store) -> Collection:
    """Rows with their number modulo 5 as metadata; every 100th row has no metadata."""
    vectors: NDArray[np.float32] = np.random.default_rng(0).normal(size=(ROWS, 8)).astype(np.float32)
    collection = store.create(Calibration.fit(vectors))
    metadata = [{"five": row % 5} if row % 100 else None for row in range(ROWS)]
    collection.upsert(range(ROWS), vectors, [f"row {row}" for row in range(ROWS)], metadata)
    return collection


def test_matching_rows_are_returned_in_order(docs: Collection) -> None:
    found = docs.scroll({"five": 3})
    assert ids(found) == [row for row in range(ROWS) if row % 5 == 3]
    assert [(hit.document, hit.metadata) for hit in found[:2]] == [("row 3", {"five": 3}), ("row 8", {"five": 3})]
    assert all(math.isnan(hit.score) for hit in found)


def test_scroll_without_a_filter_returns_all_rows(docs: Collection) -> None:
    assert ids(docs.scroll()) == ids(docs.scroll({})) == list(range(ROWS))
    assert docs.scroll({"five": 7}) == []


@pytest.mark.parametrize("limit", [1, 3, 1000, 1001, ROWS + 1])
def test_limit_on_the_number_of_rows(docs: Collection, limit: int) -> None:
    assert ids(docs.scroll(limit=limit)) == list(range(min(limit, ROWS)))
    assert ids(docs.scroll({"five": {"$exists": False}}, limit)) == list(range(0, ROWS, 100))[:limit]


def test_ids_without_texts(docs: Collection) -> None:
    assert [(hit.id, hit.document, hit.metadata) for hit in docs.scroll({"five": 4}, 2, texts=False)] == [
        (4, None, None),
        (9, None, None),
    ]


def test_native_filter(store: Store, docs: Collection) -> None:
    docs.upsert([ROWS], np.ones((1, 8)), None, [{"lang": "50% en"}])
    assert ids(docs.scroll(store.native_filter("lang", "50% en"))) == [ROWS]
    docs.delete([ROWS])


def test_invalid_limits_are_refused(docs: Collection) -> None:
    with pytest.raises(InputError, match=r"^limit is 0, expected at least 1, or None for all$"):
        docs.scroll(limit=0)
    with pytest.raises(InputError, match=r"^limit is 2\.5, expected a whole number of at least 1, or None for all$"):
        docs.scroll(limit=2.5)  # type: ignore[arg-type]
