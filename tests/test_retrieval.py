"""Searches that the client derives from a store's, on a fake store: diversity, groups, pages, fusion, reranking."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from psycopg.sql import SQL, Literal
from qdrant_client import models

from qvec import Calibration, Collection, Hit, InputError
from qvec.calibration import Metric
from qvec.client import group, mmr, reciprocal_rank, rerank, weighted_scores
from qvec.client.embedders import Embedders
from qvec.client.pages import search_fingerprint
from qvec.filters import matches, parse
from qvec.store.connect_options import ConnectOptions
from qvec.store.requests import RowFilter, SearchRequest, TextRequest


class FakeStore:
    """A store whose native filters are functions of a hit."""

    kind, name = "Fake", "fake:"
    options = ConnectOptions()
    search_options: frozenset[str] = frozenset()
    native_filter = "a function of a hit"

    def check_open(self) -> None: ...

    def wrap_errors(self, _doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    def is_native_filter(self, filter: object) -> bool:
        return callable(filter)


class FakeCollection:
    """A stored collection that accepts vectors of some dimensions; subclasses answer its searches."""

    name, id_type, accepts_any_id = "docs", "bigint", False
    settings: Mapping[str, Any] = {"rescore": "int8"}

    def __init__(self, dimensions: int = 2, metric: Metric = "ip") -> None:
        self.calibration = Calibration.from_ranges(np.array([[-1.0], [1.0]]).repeat(dimensions, axis=1), metric=metric)


def client(stored: Any) -> Collection:
    """Return the client's collection over a fake stored collection."""
    return Collection(FakeStore(), stored, Embedders())  # type: ignore[arg-type]


def hits(*ids: int | str, scores: Sequence[float] | None = None) -> list[Hit]:
    return [Hit(id, score) for id, score in zip(ids, scores or [1 / n for n in range(1, len(ids) + 1)], strict=True)]


QUERY = np.zeros(2, np.float32)

# Diversity


def mmr_by_definition(query: NDArray[Any], vectors: NDArray[Any], k: int, lambda_mult: float) -> list[int]:
    """Return maximal marginal relevance by the definition in the paper, recomputed in each step."""
    chosen: list[int] = []
    while len(chosen) < min(k, len(vectors)):
        left = [i for i in range(len(vectors)) if i not in chosen]
        gains = [
            lambda_mult * float(vectors[i] @ query)
            - (1 - lambda_mult) * max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            if chosen
            else float(vectors[i] @ query)
            for i in left
        ]
        chosen.append(left[int(np.argmax(gains))])
    return chosen


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_mmr_equals_its_definition(seed: int, k: int, lambda_mult: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-4, 5, (9, 5)).astype(np.float32)  # sums are exact in any order, with many ties
    query = rng.integers(-4, 5, 5).astype(np.float32)
    assert mmr(query, vectors, k, lambda_mult) == mmr_by_definition(query, vectors, k, lambda_mult)


def test_mmr_ranks_the_duplicate_last() -> None:
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8]], np.float32)
    assert mmr([1, 0], vectors, 3, 1.0) == [0, 1, 2]
    assert mmr([1, 0], vectors, 3, 0.4) == [0, 2, 1]


def test_mmr_omits_deleted_rows() -> None:
    assert mmr([1, 0], [[0, 1], [np.nan, np.nan], [1, 0]], 3) == [2, 0]
    assert mmr([1, 0], np.empty((0, 2)), 3) == []


@pytest.mark.parametrize(
    ("k", "lambda_mult", "message"),
    [
        (0, 0.5, "k is 0, expected at least 1"),
        (1, 1.5, r"lambda_mult is 1.5, expected 0 \(novelty\) to 1"),
        (1, np.nan, "lambda_mult is nan"),
    ],
)
def test_mmr_refuses_invalid_arguments(k: int, lambda_mult: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mmr([1.0], [[1.0]], k, lambda_mult)


# Groups


def test_groups_are_ordered_by_their_best_hit() -> None:
    found = [
        Hit(1, 0.9, None, {"doc": {"name": "b"}}),
        Hit(2, 0.8, None, {"doc": {"name": "a"}}),
        Hit(3, 0.7, None, None),
        Hit(4, 0.6, None, {"doc": "a"}),
        Hit(5, 0.5, None, {"doc": {"name": "b"}}),
    ]
    groups = group(found, "doc.name")
    assert [(one.value, one.score, [hit.id for hit in one.hits]) for one in groups] == [
        ("b", 0.9, [1, 5]),
        ("a", 0.8, [2]),
    ]


def test_one_and_true_are_different_groups() -> None:
    found = [Hit(1, 0.9, None, {"v": 1}), Hit(2, 0.8, None, {"v": True}), Hit(3, 0.7, None, {"v": [1]})]
    assert [one.value for one in group(found, "v")] == [1, True, [1]]


def test_equal_numbers_are_one_group() -> None:
    found = [Hit(1, 0.9, None, {"v": 1}), Hit(2, 0.8, None, {"v": 1.0}), Hit(3, 0.7, None, {"v": "1"})]
    assert [[hit.id for hit in one.hits] for one in group(found, "v")] == [[1, 2], [3]]


class FilterableRows(FakeCollection):
    """A collection of rows 0, 1, … with these values, ranked in this order; `returned` counts the returned hits."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__()
        self.rows = [
            Hit(id, -id, None, None if value is None else {"a": {"b": value}}) for id, value in enumerate(values)
        ]
        self.returned = 0

    def search(self, _queries: Any, request: SearchRequest) -> list[list[Hit]]:
        return [self.find(request.k, request.filter)]

    def find(self, k: int, filter: RowFilter) -> list[Hit]:
        found = [row for row in self.rows if passes(row, filter)][:k]
        self.returned += len(found)
        return found


def passes(row: Hit, filter: RowFilter) -> bool:
    native = filter.native is None or filter.native(row)
    return bool(native) and (filter.tree is None or matches(filter.tree, row.metadata))


def groups_of(
    collection: FilterableRows, k: int, group_size: int = 1, filter: Any = None
) -> list[tuple[Any, list[Any]]]:
    found = client(collection).search_groups(QUERY, "a.b", k, group_size=group_size, filter=filter)
    return [(one.value, [hit.id for hit in one.hits]) for one in found]


KINDS: list[list[Any]] = [
    [None, "x", "y", "1", 1, 1.0, 2.5, True, False],
    [None, ["x"], ["x", "y"], [1], {"c": 1}, [["x"]], []],
]
FILTERS: list[Any] = [None, {"a.b": {"$ne": "x"}}, lambda row: row.id % 3 > 0]


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(KINDS),
    st.integers(0, 60),
    st.integers(1, 8),
    st.integers(1, 3),
    st.sampled_from(FILTERS),
)
def test_groups_equal_those_of_all_rows(
    seed: int, kinds: list[Any], rows: int, k: int, group_size: int, filter: Any
) -> None:
    """Some values are so common that the first search finds few other values."""
    random = np.random.default_rng(seed)
    values = [kinds[min(place, len(kinds) - 1)] for place in random.geometric(0.4, rows) - 1]
    filters = RowFilter(native=filter) if callable(filter) else RowFilter(parse(filter)) if filter else RowFilter()
    all_groups = group(FilterableRows(values).find(rows, filters), "a.b")
    assert all(one.value != [] for one in all_groups)
    expected = [(one.value, [hit.id for hit in one.hits[:group_size]]) for one in all_groups[:k]]
    assert groups_of(FilterableRows(values), k, group_size, filter) == expected


def test_grouping_ends_if_the_store_ignores_filters() -> None:
    class Unfiltered(FilterableRows):
        def find(self, k: int, filter: RowFilter) -> list[Hit]:  # noqa: ARG002
            return super().find(k, RowFilter())

    values = ["x"] * 50 + ["y", "z"]
    assert [value for value, _ in groups_of(Unfiltered(values), 4)] == ["x", "y", "z"]
    assert [value for value, _ in groups_of(Unfiltered(values), 2)] == ["x", "y"]


def test_grouping_by_a_field_of_few_values_reads_few_rows() -> None:
    three_values = FilterableRows([row % 3 for row in range(10_000)])
    assert [value for value, _ in groups_of(three_values, 10)] == [0, 1, 2]
    assert three_values.returned == 2 * 10
    unbalanced = FilterableRows(["many"] * 5000 + [str(n // 100) for n in range(1000)])
    assert [value for value, _ in groups_of(unbalanced, 5, 2)] == ["many", "0", "1", "2", "3"]
    assert unbalanced.returned == 5 * 2 * 5 * 2
    small = FilterableRows([row % 3 for row in range(10)])
    assert groups_of(small, 3, 4) == [(0, [0, 3, 6, 9]), (1, [1, 4, 7]), (2, [2, 5, 8])]
    assert small.returned == 10


def test_grouping_by_a_missing_field_reads_few_rows() -> None:
    misspelt = FilterableRows([None] * 10_000)
    assert groups_of(misspelt, 8, 2) == []
    assert misspelt.returned == 2 * 8 * 2


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ("", "field '': an empty name found"),
        ("a.", r"field 'a\.': an empty name found"),
        (".", r"field '\.': an empty name found"),
        ("$a", r"'\$a' is not an operator"),
        (None, "group_by is None, expected the name of a metadata field"),
        (["a"], r"group_by is \['a'\], expected the name"),
    ],
)
def test_invalid_group_field_is_refused_before_any_search(group_by: Any, message: str) -> None:
    collection = FilterableRows(["x"] * 30)
    with pytest.raises(InputError, match=message):
        client(collection).search_groups(QUERY, group_by, 2)
    assert collection.returned == 0


def test_groups_of_unfilterable_values_are_complete() -> None:
    class Unfilterable(FilterableRows):
        def find(self, k: int, filter: RowFilter) -> list[Hit]:
            if filter:
                raise InputError("there is no filter for such names")
            return super().find(k, filter)

    values = ["x"] * 50 + ["y"] * 3
    assert groups_of(Unfilterable(values), 2, 2) == [("x", [0, 1]), ("y", [50, 51])]
    assert groups_of(Unfilterable(["x", *["y"] * 50, "x"]), 2, 2) == [("x", [0, 51]), ("y", [1, 2])]

    class Broken(FilterableRows):
        def find(self, k: int, filter: RowFilter) -> list[Hit]:  # noqa: ARG002
            raise InputError("query: NaN found")

    with pytest.raises(InputError, match="query: NaN found"):
        groups_of(Broken(values), 2)


def test_group_missed_by_the_first_search_is_ranked_correctly() -> None:
    class Approximate(FilterableRows):
        def find(self, k: int, filter: RowFilter) -> list[Hit]:
            found = super().find(k + 1, filter)
            return found[:k] if filter else found[1:]

    assert groups_of(Approximate(["best"] + ["many"] * 50), 3) == [("best", [0]), ("many", [1])]


def test_group_skips_lists_that_contain_its_value() -> None:
    values = ["x", *[["x", str(n)] for n in range(50)], "x", "x"]
    assert groups_of(FilterableRows(values), 1, 3) == [("x", [0, 51, 52])]


# Pages


class RankedRows(FakeCollection):
    """A collection with these hits; equal scores keep the given order."""

    def __init__(self, found: list[Hit]) -> None:
        super().__init__()
        self.found = found

    def search(self, _queries: Any, request: SearchRequest) -> list[list[Hit]]:
        return [sorted(self.found, key=lambda hit: -hit.score)[: request.k]]


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9]), max_size=40), st.integers(1, 7))
def test_pages_contain_every_row_once_in_order(scores: list[float], k: int) -> None:
    collection = RankedRows([Hit(id, score) for id, score in enumerate(scores)])
    shown, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        found = client(collection).search_page(QUERY, k, cursor)
        assert len(found.hits) == k or found.cursor is None
        shown += found.hits
        cursor, pages = found.cursor, pages + 1
    assert shown == sorted(collection.found, key=lambda hit: (-hit.score, hit.id))


def test_pages_with_integer_and_text_ids() -> None:
    collection = RankedRows(hits("a", 1, "b", 2, scores=[0.5] * 4))
    first = client(collection).search_page(QUERY, 2)
    second = client(collection).search_page(QUERY, 2, first.cursor)
    assert [hit.id for hit in first.hits + second.hits] == [1, 2, "a", "b"]


def test_row_written_between_pages_repeats_no_row() -> None:
    collection = RankedRows(hits("a", "b", "c", "d", scores=[0.9, 0.8, 0.7, 0.6]))
    first = client(collection).search_page(QUERY, 2)
    collection.found.append(Hit("new", 0.95))
    second = client(collection).search_page(QUERY, 2, first.cursor)
    assert [hit.id for hit in second.hits] == ["c", "d"]


def cursor_of(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "é",
        5,
        "bnVsbA==",
        "WzEsMl0=",
        cursor_of("", None, 1.0, 1),
        cursor_of("", 1, "1", 1),
        cursor_of("", 1, 1.0, None),
        cursor_of("", 1, float("nan"), 1),
        cursor_of("", -5, 1.0, 1),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_malformed_cursor_is_refused(cursor: Any) -> None:
    with pytest.raises(InputError, match="is not a cursor; expected that of the page before"):
        client(RankedRows([])).search_page(QUERY, 2, cursor)


def test_search_fingerprint_depends_on_collection_query_and_filter() -> None:
    searches: list[tuple[str, Any, Any]] = [
        ("docs", "fox", None),
        ("other", "fox", None),
        ("docs", "dog", None),
        ("docs", [1.0, 2.0], None),
        ("docs", [2.0, 1.0], None),
        ("docs", "fox", {"a": 1, "b": 2}),
        ("docs", "fox", {"a": 2, "b": 1}),
        ("docs", "fox", {"a": "1", "b": 2}),
        ("docs", "fox", {"a": {"$in": [1, 2]}}),
        ("docs", "fox", {"a": {"$in": [2, 1]}}),
        ("docs", "fox", {"day": {"$gte": date(2020, 1, 1)}}),
        ("docs", "fox", {"day": {"$gte": date(2021, 1, 1)}}),
        ("docs", "fox", SQL("a = {}").format(Literal(1))),
        ("docs", "fox", SQL("a = {}").format(Literal(2))),
        ("docs", "fox", models.Filter(must=[models.HasIdCondition(has_id=[1])])),
        ("docs", "fox", models.Filter(must=[models.HasIdCondition(has_id=[2])])),
    ]
    assert len({search_fingerprint(*search) for search in searches}) == len(searches)
    assert search_fingerprint("docs", "fox", {}) == search_fingerprint("docs", "fox", None)
    assert search_fingerprint("docs", "fox", {"b": 2, "a": 1}) == search_fingerprint("docs", "fox", {"a": 1, "b": 2})
    assert search_fingerprint("docs", [1, 2], None) == search_fingerprint("docs", np.array([1.0, 2.0]), None)
    assert len(search_fingerprint("docs", "half a pair \ud83d", None)) == 16


# Fetching texts


class RowsWithTexts(FakeCollection):
    """A collection of rows 0 to 99, nearest first; even rows contain the words. `texts` lists the rows whose texts were
    read, `gone` deleted rows."""

    def __init__(self, dimensions: int = 100, metric: Metric = "ip") -> None:
        super().__init__(dimensions, metric)
        self.texts: list[int] = []
        self.gone: set[int] = set()

    def search(self, _queries: Any, request: SearchRequest) -> list[list[Hit]]:
        return [self._first_hits([Hit(id, 1 - id / 100) for id in range(100)], request)]

    def search_text(self, request: TextRequest) -> list[Hit]:
        return self._first_hits([Hit(id, 9 - id / 100) for id in range(0, 100, 2)], request)

    def get(self, ids: Sequence[int]) -> list[Hit | None]:
        self.texts += ids
        return [None if id in self.gone else Hit(id, float("nan"), f"text {id}", {"n": id}) for id in ids]

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return np.eye(100, dtype=np.float32)[list(ids)]

    def _first_hits(self, ranking: list[Hit], request: SearchRequest | TextRequest) -> list[Hit]:
        found = ranking[: request.k]
        self.texts += [hit.id for hit in found if request.texts and isinstance(hit.id, int)]
        return found


LONG_QUERY = np.ones(100, np.float32)


def test_hybrid_search_fetches_texts_of_returned_rows_only() -> None:
    rows = RowsWithTexts()
    found = client(rows).search_hybrid("words", 3, vector=LONG_QUERY)
    assert [(hit.id, hit.document, hit.metadata) for hit in found] == [(n, f"text {n}", {"n": n}) for n in (0, 2, 4)]
    assert rows.texts == [0, 2, 4]
    rows.gone = {2}
    left = client(rows).search_hybrid("words", 3, vector=LONG_QUERY)
    assert [(hit.id, hit.document, hit.score) for hit in left] == [
        (hit.id, None if hit.id == 2 else hit.document, hit.score) for hit in found
    ]


def test_hybrid_search_fetches_texts_of_reranked_rows() -> None:
    rows, evaluated = RowsWithTexts(), []

    def evaluate(question: str, texts: Sequence[str]) -> list[float]:
        evaluated.append((question, list(texts)))
        return [float(text.split()[1]) for text in texts]

    found = client(rows).search_hybrid("words", 2, vector=LONG_QUERY, fetch_k=5, reranker=evaluate)
    assert len(rows.texts) == 5
    assert evaluated == [("words", [f"text {id}" for id in rows.texts])]
    assert [hit.id for hit in found] == sorted(rows.texts)[:-3:-1]


def test_diverse_search_fetches_texts_of_returned_rows_only() -> None:
    rows = RowsWithTexts()
    found = client(rows).search_diverse(LONG_QUERY, 3, fetch_k=20, lambda_mult=0.5)
    assert [hit.document for hit in found] == ["text 0", "text 1", "text 2"]
    assert rows.texts == [0, 1, 2]


def test_vector_lengths_affect_diversity_only_under_inner_product() -> None:
    class Long(RowsWithTexts):
        """The first row is the longest and has another direction."""

        def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
            return np.array([[9, 12], [1, 0], [0.8, 0.6]], np.float32)[list(ids)]

    def found(metric: Metric) -> list[Any]:
        hits = client(Long(2, metric)).search_diverse([2.0, 0.0], 2, fetch_k=3, lambda_mult=0.9)
        return [hit.id for hit in hits]

    assert found("cosine") == [1, 2]
    assert found("ip") == [0, 1]


# Fusion


def test_reciprocal_rank_by_hand() -> None:
    fused = reciprocal_rank([hits(1, 2, 3), hits(3, 4)])
    assert [hit.id for hit in fused] == [3, 1, 2, 4]
    assert fused[0].score == pytest.approx(1 / 63 + 1 / 61)
    assert fused[1].score == pytest.approx(1 / 61)
    assert fused[3].score == pytest.approx(1 / 62)


def test_weights_of_reciprocal_rank() -> None:
    assert [hit.id for hit in reciprocal_rank([hits(1, 2), hits(2, 1)], [2, 1])] == [1, 2]
    assert [hit.id for hit in reciprocal_rank([hits(1, 2), hits(2, 1)], [1, 2])] == [2, 1]


def test_weighted_scores_by_hand() -> None:
    dense = hits(1, 2, 3, scores=[0.9, 0.8, 0.7])
    text = hits(2, 4, scores=[12.0, 2.0])
    fused = weighted_scores([dense, text], [0.5, 0.5])
    assert [hit.id for hit in fused] == [2, 1, 3, 4]
    assert [hit.score for hit in fused] == pytest.approx([0.75, 0.5, 0, 0])


def test_equal_scores_count_as_the_best_score() -> None:
    assert weighted_scores([hits(7, 8, scores=[3.0, 3.0])])[0].score == 1.0
    assert weighted_scores([[], []]) == []


@pytest.mark.parametrize("weights", [[1.0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_invalid_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(InputError, match="expected 2 numbers of at least 0"):
        reciprocal_rank([hits(1), hits(2)], weights)


def test_fused_row_keeps_the_texts_of_its_first_ranking() -> None:
    dense = [Hit(1, 0.5, "text", {"a": 1})]
    assert reciprocal_rank([dense, hits(1)])[0].document == "text"


# Reranking


def test_reranking_orders_by_the_rerankers_scores() -> None:
    found = [Hit(1, 0.9, "cat"), Hit(2, 0.8), Hit(3, 0.7, "catalogue")]
    ordered = rerank("cats?", found, lambda question, texts: [len(text) / len(question) for text in texts])
    assert [(hit.id, hit.score) for hit in ordered] == [(3, 1.8), (1, 0.6), (2, 0.8)]


def test_too_few_scores_from_a_reranker_are_an_error() -> None:
    with pytest.raises(InputError, match="the reranker gave 1 scores for 2 texts"):
        rerank("q", [Hit(1, 1.0, "a"), Hit(2, 1.0, "b")], lambda *_: [1.0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, float("nan")], "the reranker gave NaN for text 1, expected a number"),
        (np.array([np.nan, 1]), "the reranker gave NaN for text 0, expected a number"),
        (None, "the reranker gave None, expected a number for each text"),
        (["high", "low"], r"the reranker gave \['high', 'low'\], expected a number for each text"),
        (np.ones((2, 3)), r"the reranker gave array\(\[\[1"),
    ],
)
def test_invalid_scores_from_a_reranker_are_an_error(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rerank("q", [Hit(1, 1.0, "a"), Hit(2, 1.0, "b")], lambda *_: given)


def test_reranker_may_return_minus_infinity() -> None:
    found = rerank("q", [Hit(1, 1.0, "a"), Hit(2, 1.0, "b")], lambda *_: [float("-inf"), 0.0])
    assert [hit.id for hit in found] == [2, 1]
