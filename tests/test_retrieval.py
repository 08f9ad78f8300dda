"""Rankings out of hits, apart from any database: diversity, groups, pages, fusion, reranking."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from psycopg.sql import SQL, Literal
from qdrant_client import models

from qvec import Hit, InputError
from qvec.filters import CombinedFilter, matches, parse
from qvec.retrieval import group, mmr, reciprocal_rank, rerank, weighted_scores
from qvec.retrieval.diversity import diverse
from qvec.retrieval.grouping import grouped
from qvec.retrieval.hybrid import hybrid
from qvec.retrieval.paging import page, search_mark
from qvec.retrieval.steps import run


def hits(*ids: int | str, scores: Sequence[float] | None = None) -> list[Hit]:
    return [Hit(id, score) for id, score in zip(ids, scores or [1 / n for n in range(1, len(ids) + 1)], strict=True)]


# Diversity


def by_definition(query: NDArray[Any], vectors: NDArray[Any], k: int, balance: float) -> list[int]:
    """Maximal marginal relevance as the paper writes it, without anything kept between steps."""
    chosen: list[int] = []
    while len(chosen) < min(k, len(vectors)):
        left = [i for i in range(len(vectors)) if i not in chosen]
        gains = [
            balance * float(vectors[i] @ query)
            - (1 - balance) * max((float(vectors[i] @ vectors[j]) for j in chosen), default=0.0)
            if chosen
            else float(vectors[i] @ query)
            for i in left
        ]
        chosen.append(left[int(np.argmax(gains))])
    return chosen


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_mmr_is_its_definition(seed: int, k: int, balance: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-4, 5, (9, 5)).astype(np.float32)  # exact in any order of summation, and full of ties
    query = rng.integers(-4, 5, 5).astype(np.float32)
    assert mmr(query, vectors, k, balance) == by_definition(query, vectors, k, balance)


def test_mmr_takes_the_duplicate_last() -> None:
    vectors = np.array([[1, 0], [1, 0], [0.6, 0.8]], np.float32)
    assert mmr([1, 0], vectors, 3, 1.0) == [0, 1, 2]
    assert mmr([1, 0], vectors, 3, 0.4) == [0, 2, 1]


def test_mmr_leaves_out_a_row_that_is_gone() -> None:
    assert mmr([1, 0], [[0, 1], [np.nan, np.nan], [1, 0]], 3) == [2, 0]
    assert mmr([1, 0], np.empty((0, 2)), 3) == []


@pytest.mark.parametrize(
    ("k", "balance", "message"),
    [
        (0, 0.5, "k is 0, expected at least 1"),
        (1, 1.5, r"balance is 1.5, expected 0 \(novelty\) to 1"),
        (1, np.nan, "balance is nan"),
    ],
)
def test_mmr_refuses(k: int, balance: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mmr([1.0], [[1.0]], k, balance)


# Groups


def test_hits_are_grouped_in_the_order_of_their_best() -> None:
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


def test_numbers_that_are_equal_are_one_group() -> None:
    found = [Hit(1, 0.9, None, {"v": 1}), Hit(2, 0.8, None, {"v": 1.0}), Hit(3, 0.7, None, {"v": "1"})]
    assert [[hit.id for hit in one.hits] for one in group(found, "v")] == [[1, 2], [3]]


class Filtered:
    """A collection of rows 0, 1, … with the values given, in this order; it counts the hits that it gave.

    A filter of the database's own kind is a function of a row.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self.rows = [
            Hit(id, -id, None, None if value is None else {"a": {"b": value}}) for id, value in enumerate(values)
        ]
        self.given = 0

    def search(self, query: Any, k: int, *, filter: Any = None) -> list[Hit]:  # noqa: ARG002
        found = [row for row in self.rows if passes(row, filter)][:k]
        self.given += len(found)
        return found


def passes(row: Hit, filter: Any) -> bool:
    if isinstance(filter, CombinedFilter):
        return passes(row, filter.native) and passes(row, filter.conditions)
    return bool(filter(row)) if callable(filter) else matches(parse(filter or {}), row.metadata)


def groups_of(collection: Filtered, k: int, per_group: int = 1, filter: Any = None) -> list[tuple[Any, list[Any]]]:
    found = run(collection, grouped(np.zeros(2, np.float32), k, "a.b", per_group, {"filter": filter}))
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
def test_groups_are_those_of_all_rows(
    seed: int, kinds: list[Any], rows: int, k: int, per_group: int, filter: Any
) -> None:
    """Some values are common, so that a first search meets few."""
    random = np.random.default_rng(seed)
    values = [kinds[min(place, len(kinds) - 1)] for place in random.geometric(0.4, rows) - 1]
    everything = group(Filtered(values).search(None, rows, filter=filter), "a.b")
    assert all(one.value != [] for one in everything)
    expected = [(one.value, [hit.id for hit in one.hits[:per_group]]) for one in everything[:k]]
    assert groups_of(Filtered(values), k, per_group, filter) == expected


def test_groups_end_where_a_filter_does_not_tell_them_apart() -> None:
    class Unfiltered(Filtered):
        def search(self, query: Any, k: int, *, filter: Any = None) -> list[Hit]:  # noqa: ARG002
            return super().search(query, k)

    values = ["x"] * 50 + ["y", "z"]
    assert [value for value, _ in groups_of(Unfiltered(values), 4)] == ["x", "y", "z"]
    assert [value for value, _ in groups_of(Unfiltered(values), 2)] == ["x", "y"]


def test_groups_of_few_values_do_not_read_all_rows() -> None:
    few = Filtered([row % 3 for row in range(10_000)])
    assert [value for value, _ in groups_of(few, 10)] == [0, 1, 2]
    assert few.given == 2 * 10
    unlike = Filtered(["many"] * 5000 + [str(n // 100) for n in range(1000)])
    assert [value for value, _ in groups_of(unlike, 5, 2)] == ["many", "0", "1", "2", "3"]
    assert unlike.given == 5 * 2 * 5 * 2
    whole = Filtered([row % 3 for row in range(10)])
    assert groups_of(whole, 3, 4) == [(0, [0, 3, 6, 9]), (1, [1, 4, 7]), (2, [2, 5, 8])]
    assert whole.given == 10


def test_a_field_that_no_row_has_is_not_looked_for_in_all_rows() -> None:
    misspelt = Filtered([None] * 10_000)
    assert groups_of(misspelt, 8, 2) == []
    assert misspelt.given == 2 * 8 * 2


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("", "field '': an empty name found"),
        ("a.", r"field 'a\.': an empty name found"),
        (".", r"field '\.': an empty name found"),
        ("$a", r"'\$a' is not an operator"),
        (None, "by is None, expected the name of a metadata field"),
        (["a"], r"by is \['a'\], expected the name"),
    ],
)
def test_what_is_no_field_groups_nothing(by: Any, message: str) -> None:
    collection = Filtered(["x"] * 30)
    with pytest.raises(InputError, match=message):
        run(collection, grouped(np.zeros(2, np.float32), 2, by, 1, {}))
    assert collection.given == 0


def test_values_that_no_filter_is_for_are_read_until_their_groups_are_full() -> None:
    class Unfilterable(Filtered):
        def search(self, query: Any, k: int, *, filter: Any = None) -> list[Hit]:
            if filter:
                raise InputError("there is no filter for such names")
            return super().search(query, k)

    values = ["x"] * 50 + ["y"] * 3
    assert groups_of(Unfilterable(values), 2, 2) == [("x", [0, 1]), ("y", [50, 51])]
    assert groups_of(Unfilterable(["x", *["y"] * 50, "x"]), 2, 2) == [("x", [0, 51]), ("y", [1, 2])]

    class Broken(Filtered):
        def search(self, query: Any, k: int, *, filter: Any = None) -> list[Hit]:  # noqa: ARG002
            raise InputError("query: NaN found")

    with pytest.raises(InputError, match="query: NaN found"):
        groups_of(Broken(values), 2)


def test_a_group_that_was_overlooked_at_first_takes_its_place() -> None:
    class Approximate(Filtered):
        def search(self, query: Any, k: int, *, filter: Any = None) -> list[Hit]:
            found = super().search(query, k + 1, filter=filter)
            return found[:k] if filter else found[1:]

    assert groups_of(Approximate(["best"] + ["many"] * 50), 3) == [("best", [0]), ("many", [1])]


def test_rows_of_a_group_are_looked_for_past_lists_that_hold_its_value() -> None:
    values = ["x", *[["x", str(n)] for n in range(50)], "x", "x"]
    assert groups_of(Filtered(values), 1, 3) == [("x", [0, 51, 52])]


# Pages


class Ranked:
    """A collection of given hits, which a search may give in any order among equals."""

    def __init__(self, found: list[Hit]) -> None:
        self.found = found

    def search(self, query: Any, k: int, **options: Any) -> list[Hit]:  # noqa: ARG002
        return sorted(self.found, key=lambda hit: -hit.score)[:k]


@given(st.lists(st.sampled_from([0.1, 0.5, 0.9]), max_size=40), st.integers(1, 7))
def test_pages_hold_every_row_once_in_order(scores: list[float], k: int) -> None:
    collection = Ranked([Hit(id, score) for id, score in enumerate(scores)])
    shown, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        found = run(collection, page(np.zeros(2, np.float32), k, cursor, "", {}))
        assert len(found.hits) == k or found.cursor is None
        shown += found.hits
        cursor, pages = found.cursor, pages + 1
    assert shown == sorted(collection.found, key=lambda hit: (-hit.score, hit.id))


def test_pages_hold_ids_of_both_kinds() -> None:
    collection = Ranked(hits("a", 1, "b", 2, scores=[0.5] * 4))
    first = run(collection, page(np.zeros(2, np.float32), 2, None, "", {}))
    second = run(collection, page(np.zeros(2, np.float32), 2, first.cursor, "", {}))
    assert [hit.id for hit in first.hits + second.hits] == [1, 2, "a", "b"]


def test_a_row_written_between_pages_repeats_none() -> None:
    collection = Ranked(hits("a", "b", "c", "d", scores=[0.9, 0.8, 0.7, 0.6]))
    first = run(collection, page(np.zeros(2, np.float32), 2, None, "", {}))
    collection.found.append(Hit("new", 0.95))
    second = run(collection, page(np.zeros(2, np.float32), 2, first.cursor, "", {}))
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
def test_what_is_no_cursor_is_refused(cursor: Any) -> None:
    with pytest.raises(InputError, match="is no cursor; expected the one of the page before"):
        run(Ranked([]), page(np.zeros(2, np.float32), 2, cursor, "", {}))


def test_a_search_is_known_by_collection_query_and_filter() -> None:
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
    assert len({search_mark(*search) for search in searches}) == len(searches)
    assert search_mark("docs", "fox", {}) == search_mark("docs", "fox", None)
    assert search_mark("docs", "fox", {"b": 2, "a": 1}) == search_mark("docs", "fox", {"a": 1, "b": 2})
    assert search_mark("docs", [1, 2], None) == search_mark("docs", np.array([1.0, 2.0]), None)
    assert len(search_mark("docs", "half a pair \ud83d", None)) == 16


# Texts


class Rows:
    """A collection of rows 0 to 99, nearest first; every other one holds the words. It tells which texts it gave."""

    def __init__(self) -> None:
        self.texts: list[int] = []
        self.gone: set[int] = set()

    def search(self, query: Any, k: int, *, texts: bool, **options: Any) -> list[Hit]:  # noqa: ARG002
        return self._given([Hit(id, 1 - id / 100) for id in range(100)][:k], texts)

    def search_text(self, question: str, k: int, *, texts: bool, **options: Any) -> list[Hit]:  # noqa: ARG002
        return self._given([Hit(id, 9 - id / 100) for id in range(0, 100, 2)][:k], texts)

    def get(self, ids: Sequence[int]) -> list[Hit | None]:
        self.texts += ids
        return [None if id in self.gone else Hit(id, float("nan"), f"text {id}", {"n": id}) for id in ids]

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        return np.eye(100, dtype=np.float32)[list(ids)]

    def _given(self, found: list[Hit], texts: bool) -> list[Hit]:
        self.texts += [hit.id for hit in found if texts and isinstance(hit.id, int)]
        return found


QUERY = np.ones(100, np.float32)


def test_texts_of_fused_rows_are_fetched_when_they_are_returned() -> None:
    rows = Rows()
    found = run(rows, hybrid("words", QUERY, 3, None, "ranks", (1, 1), None, {}))
    assert [(hit.id, hit.document, hit.metadata) for hit in found] == [(n, f"text {n}", {"n": n}) for n in (0, 2, 4)]
    assert rows.texts == [0, 2, 4]
    rows.gone = {2}
    left = run(rows, hybrid("words", QUERY, 3, None, "ranks", (1, 1), None, {}))
    assert [(hit.id, hit.document, hit.score) for hit in left] == [
        (hit.id, None if hit.id == 2 else hit.document, hit.score) for hit in found
    ]


def test_texts_of_fused_rows_are_fetched_when_they_are_reranked() -> None:
    rows, judged = Rows(), []

    def judge(question: str, texts: Sequence[str]) -> list[float]:
        judged.append((question, list(texts)))
        return [float(text.split()[1]) for text in texts]

    found = run(rows, hybrid("words", QUERY, 2, 5, "ranks", (1, 1), judge, {}))
    assert len(rows.texts) == 5
    assert judged == [("words", [f"text {id}" for id in rows.texts])]
    assert [hit.id for hit in found] == sorted(rows.texts)[:-3:-1]


def test_texts_of_diverse_rows_are_fetched_when_they_are_returned() -> None:
    rows = Rows()
    found = run(rows, diverse(QUERY, 3, 20, 0.5, "ip", {}))
    assert [hit.document for hit in found] == ["text 0", "text 1", "text 2"]
    assert rows.texts == [0, 1, 2]


def test_lengths_count_for_diversity_only_under_inner_product() -> None:
    class Long(Rows):
        """The first row is the longest and points away."""

        def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
            return np.array([[9, 12], [1, 0], [0.8, 0.6]], np.float32)[list(ids)]

    query = np.array([2, 0], np.float32)
    found = {metric: run(Long(), diverse(query, 2, 3, 0.9, metric, {})) for metric in ("cosine", "ip")}
    assert [hit.id for hit in found["cosine"]] == [1, 2]
    assert [hit.id for hit in found["ip"]] == [0, 1]


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


def test_equal_scores_count_as_the_best() -> None:
    assert weighted_scores([hits(7, 8, scores=[3.0, 3.0])])[0].score == 1.0
    assert weighted_scores([[], []]) == []


@pytest.mark.parametrize("weights", [[1.0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_are_checked(weights: list[float]) -> None:
    with pytest.raises(InputError, match="expected 2 numbers of at least 0"):
        reciprocal_rank([hits(1), hits(2)], weights)


def test_a_row_keeps_the_texts_of_where_it_was_first_met() -> None:
    dense = [Hit(1, 0.5, "text", {"a": 1})]
    assert reciprocal_rank([dense, hits(1)])[0].document == "text"


# Reranking


def test_reranking_orders_by_the_second_judge() -> None:
    found = [Hit(1, 0.9, "cat"), Hit(2, 0.8), Hit(3, 0.7, "catalogue")]
    ordered = rerank("cats?", found, lambda question, texts: [len(text) / len(question) for text in texts])
    assert [(hit.id, hit.score) for hit in ordered] == [(3, 1.8), (1, 0.6), (2, 0.8)]


def test_a_reranker_that_gives_too_few_scores_is_named() -> None:
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
def test_a_reranker_that_gives_no_numbers_is_named(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        rerank("q", [Hit(1, 1.0, "a"), Hit(2, 1.0, "b")], lambda *_: given)


def test_a_reranker_may_rule_texts_out() -> None:
    found = rerank("q", [Hit(1, 1.0, "a"), Hit(2, 1.0, "b")], lambda *_: [float("-inf"), 0.0])
    assert [hit.id for hit in found] == [2, 1]
