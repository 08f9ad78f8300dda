"""The contract of all stores: text questions, word and hybrid searches, diversity, groups and pages."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from databases import Store, ids
from numpy.typing import NDArray
from psycopg.sql import SQL
from qdrant_client import models

from qvec import Calibration, CollectionError, InputError
from qvec.embedding import CachedQueries

WORDS = ["fox", "dog", "cat", "tree", "river", "stone", "cloud", "rain"]
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a dog sleeps beside the river",
    "foxes and dogs rarely meet",
    "rain falls from a dark cloud",
    "the cat climbs the tree to watch the rain",
    "a stone lies in the river, an old grey stone",
]


class WordEmbedder:
    """Embed a text as counts of some words, a question as twice those counts; `questions` records the questions."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = [[sum(part.startswith(word) for part in text.split()) for word in WORDS] for text in texts]
        return np.array(counts, np.float32).reshape(len(texts), len(WORDS)) + np.float32(0.01)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.questions.append(list(texts))
        return self.embed_documents(texts) * 2


@pytest.fixture
def embedder() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture
def docs(store: Store, embedder: WordEmbedder) -> Any:
    """A collection of the texts, with text ids and the word embedder."""
    calibration = Calibration.from_ranges(np.array([[-1.0], [1.0]]).repeat(len(WORDS), axis=1))
    collection: Any = store.create(calibration, id_type="text")
    collection.embedder = embedder
    collection.add(TEXTS, [{"n": n, "kind": "even" if n % 2 == 0 else "odd"} for n in range(6)], list("abcdef"))
    return collection


# Questions and texts


def test_question_finds_the_same_hits_as_its_vector(docs: Any, embedder: WordEmbedder) -> None:
    found = docs.search("a fox and a dog", 3)
    assert found == docs.search(embedder.embed_queries(["a fox and a dog"])[0], 3)
    assert {hit.document for hit in found} >= {TEXTS[0], TEXTS[2]}
    assert found[0].metadata["n"] in (0, 2)


def test_several_questions_are_embedded_in_one_call(docs: Any, embedder: WordEmbedder) -> None:
    embedder.questions.clear()
    found = docs.search(["fox", "rain"], 2)
    assert embedder.questions == [["fox", "rain"]]
    assert found == [docs.search("fox", 2), docs.search("rain", 2)]
    assert docs.explain("fox", 2).hits == found[0]


def test_texts_without_ids_get_random_ids(docs: Any, store: Store, embedder: WordEmbedder) -> None:
    new_ids = docs.add(["a cloud", "a stone"])
    assert [hit.document for hit in docs.get(new_ids)] == ["a cloud", "a stone"]
    numbered: Any = store.create(docs.calibration)
    numbered.embedder = embedder
    random_ids = numbered.add(["a cloud", "a stone"])
    assert all(isinstance(id, int) and 0 <= id < 2**63 for id in random_ids)
    assert numbered.count() == 2


def test_texts_replace_rows_with_their_ids(docs: Any) -> None:
    assert docs.add(["a cat"], ids=["a"]) == ["a"]
    assert (docs.get(["a"])[0].document, docs.count()) == ("a cat", 6)
    with pytest.raises(CollectionError, match=r"\ba\b.* exists already; to replace or skip such rows, set "):
        docs.add(["another"], ids=["a"], on_duplicate="error")
    assert docs.get(["a"])[0].document == "a cat"


def test_invalid_texts_are_refused(docs: Any) -> None:
    with pytest.raises(InputError, match="texts is one string; wanted a sequence"):
        docs.add("a text")
    with pytest.raises(InputError, match="text 1 is int, wanted a string"):
        docs.add(["a", 1])
    with pytest.raises(InputError, match="there are 1 metadata for 2 vectors"):
        docs.add(["a", "b"], [{}])
    assert docs.add([]) == []
    assert docs.count() == 6


def test_question_without_an_embedder_is_refused(store: Store, docs: Any) -> None:
    bare: Any = store.create(docs.calibration)
    with pytest.raises(InputError, match="was loaded as vectors and names no model; set its `embedder`"):
        bare.search("fox")


def test_repeated_questions_are_embedded_once(docs: Any, embedder: WordEmbedder) -> None:
    docs.embedder = CachedQueries(embedder, size=2)
    embedder.questions.clear()
    first = docs.search("fox", 2)
    assert docs.search(["rain", "fox"], 2)[1] == first
    assert docs.search("fox", 2) == first
    assert embedder.questions == [["fox"], ["rain"]]
    docs.search("dog", 2)  # rain is the least recently used
    docs.search("fox", 2)
    docs.search("rain", 2)
    assert embedder.questions[2:] == [["dog"], ["rain"]]


# Vectors


def test_vectors_are_returned_as_stored(docs: Any, embedder: WordEmbedder) -> None:
    found = docs.vectors(["c", "missing", "a"])
    given = embedder.embed_documents([TEXTS[2], TEXTS[0]])
    given /= np.linalg.norm(given, axis=1, keepdims=True)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[[0, 2]], given, atol=1 / 128)
    assert docs.vectors([]).shape == (0, len(WORDS))


# Diversity, groups, pages


def test_diverse_search_avoids_duplicates(docs: Any) -> None:
    docs.add([TEXTS[0]], [None], ["copy"])
    near = ids(docs.search("fox dog", 2))
    assert set(near) <= {"a", "c", "copy"}
    diverse = docs.search_diverse("fox dog river", 3, lambda_mult=0.3)
    assert all(hit.document in TEXTS for hit in diverse)
    assert "b" in ids(diverse) or "f" in ids(diverse)
    assert not {"a", "copy"} <= set(ids(diverse))
    relevant = [hit.score for hit in docs.search("dog rain", 3)]
    assert [hit.score for hit in docs.search_diverse("dog rain", 3, lambda_mult=1)] == pytest.approx(relevant, abs=0.01)
    with pytest.raises(InputError, match="fetch_k is 2, expected at least k, 3"):
        docs.search_diverse("fox", 3, fetch_k=2)


def test_groups_contain_their_best_rows(docs: Any) -> None:
    all_hits = docs.search("dog river", 6)
    groups = docs.search_groups("dog river", "kind", 2, group_size=2)
    for group in groups:
        expected = [hit for hit in all_hits if hit.metadata["kind"] == group.value][:2]
        assert group.hits == expected
    assert [group.value for group in groups] == list(dict.fromkeys(hit.metadata["kind"] for hit in all_hits))
    assert [group.score for group in docs.search_groups("dog", "n", 3)] == [hit.score for hit in docs.search("dog", 3)]
    assert docs.search_groups("dog", "nothing") == []


def test_groups_with_low_scores_are_found(docs: Any) -> None:
    docs.add(["dog"] * 40, [{"kind": "many"}] * 40)
    groups = docs.search_groups("dog", "kind", 3, group_size=2)
    assert groups[0].value == "many"
    assert {group.value for group in groups} == {"many", "odd", "even"}
    assert all(len(group.hits) == 2 for group in groups)


def test_grouping_by_a_field_of_few_values_reads_few_rows(docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    docs.add(["dog"] * 300, [{"kind": ["many", True, 1, 2.5][n % 4], "n": n} for n in range(300)])
    docs.add(["rain"] * 8, [{"kind": "few"}] * 8)
    all_hits, search, given = docs.search("dog", 400), docs.stored.search, []

    def counting(*arguments: Any) -> list[list[Any]]:
        found: list[list[Any]] = search(*arguments)
        given.append(sum(map(len, found)))
        return found

    monkeypatch.setattr(docs.stored, "search", counting)
    groups = docs.search_groups("dog", "kind", 9)
    assert sum(given) < 60
    best = {repr(hit.metadata["kind"]): hit.score for hit in reversed(all_hits)}
    assert {repr(group.value): group.score for group in groups} == best
    assert [group.score for group in groups] == sorted(best.values(), reverse=True)
    assert len(groups) == 7


@pytest.mark.parametrize("field", ["", "kind.", 5])
def test_invalid_group_fields_are_refused(docs: Any, field: Any) -> None:
    refused = f"^(field {field!r}: an empty name found|group_by is {field!r}, expected the name)"
    with pytest.raises(InputError, match=refused):
        docs.search_groups("dog", field)


def test_groups_with_a_native_filter(docs: Any, store: Store) -> None:
    docs.add(["dog"] * 40, [{"kind": "many", "n": n} for n in range(40)])
    docs.add(["rain"] * 4, [{"kind": kind, "n": 50} for kind in ["odd", "few"] * 2])
    few: Any = models.Filter(must=[models.FieldCondition(key="metadata.n", range=models.Range(gte=3))])
    if store.is_postgres:
        few = SQL("(metadata ->> 'n')::int % 100 >= 3")
    groups = docs.search_groups("dog", "kind", 5, group_size=2, filter=few)
    alike = docs.search_groups("dog", "kind", 5, group_size=2, filter={"n": {"$gte": 3}})
    assert groups == alike
    assert {group.value: len(group.hits) for group in groups} == {"many": 2, "odd": 2, "few": 2, "even": 1}
    assert all(hit.metadata["n"] >= 3 for group in groups for hit in group.hits)


@pytest.mark.parametrize("values", [[["a"], ["a", "b"], [1]], [{"x": 1}, {"x": 2}, {"y": [1]}]])
def test_groups_by_lists_and_objects_are_complete(docs: Any, values: list[Any]) -> None:
    docs.add(["dog"] * 30, [{"of": values[0]}] * 30)
    docs.add(["dog cat rain"] * 6, [{"of": value} for value in values[1:] * 3])
    groups = docs.search_groups("dog", "of", 3, group_size=3)
    assert sorted((repr(group.value), len(group.hits)) for group in groups) == sorted((repr(v), 3) for v in values)
    assert all(hit.metadata["of"] == group.value for group in groups for hit in group.hits)


def test_pages_follow_each_other(docs: Any) -> None:
    all_hits = docs.search("dog rain", 6)
    first = docs.search_page("dog rain", 4)
    last = docs.search_page("dog rain", 4, first.cursor)
    assert sorted(ids(first.hits + last.hits)) == sorted(ids(all_hits))
    assert last.cursor is None
    assert [hit.score for hit in first.hits + last.hits] == [hit.score for hit in all_hits]


def pages(docs: Any, question: str, k: int) -> list[list[Any]]:
    """Return the ids of each page."""
    found, cursor = [], None
    while not found or cursor is not None:
        page = docs.search_page(question, k, cursor)
        found.append(ids(page.hits))
        cursor = page.cursor
    return found


def test_pages_contain_every_row_of_equal_score_once(docs: Any) -> None:
    copies = [f"copy{n:02}" for n in range(20)]
    docs.add(["dog"] * 20, ids=copies[::-1])
    found = pages(docs, "dog", 3)
    rows = [id for page in found for id in page]
    assert rows[:20] == copies
    assert sorted(rows) == sorted([*copies, *"abcdef"])
    assert all(len(page) == 3 for page in found[:-1])


def test_exact_pages_contain_every_matching_row(store: Store) -> None:
    vectors = np.random.default_rng(7).standard_normal((900, 16)).astype(np.float32)
    vectors[300:340] = vectors[300]
    rows: Any = store.create(Calibration.fit(vectors))
    rows.upsert(range(900), vectors, None, [{"third": n % 3} for n in range(900)])
    query = vectors[5] + vectors[300]

    def all_pages(**options: Any) -> list[int]:
        page = rows.search_page(query, 120, oversampling=1, **options)
        found = ids(page.hits)
        while page.cursor is not None:
            page = rows.search_page(query, 120, page.cursor, oversampling=1, **options)
            found += ids(page.hits)
        return found

    for filter, expected in ((None, range(900)), ({"third": 1}, range(1, 900, 3))):
        found = all_pages(filter=filter, exact=True)
        assert sorted(found) == list(expected)
        scores = {hit.id: hit.score for hit in rows.search(query, 900, filter=filter, exact=True)}
        assert found == sorted(found, key=lambda id: (-scores[id], id))
    if store.is_postgres:
        assert len(all_pages()) < 900  # the prefilter misses some rows


def test_rows_written_between_pages_do_not_end_paging(docs: Any) -> None:
    first = docs.search_page("rain", 2)
    docs.add(["rain"] * 8)
    second = docs.search_page("rain", 2, first.cursor)
    assert len(second.hits) == 2
    assert second.cursor is not None
    assert not set(ids(first.hits)) & set(ids(second.hits))


def test_cursor_belongs_to_one_search(store: Store, docs: Any, embedder: WordEmbedder) -> None:
    cursor = docs.search_page("dog rain", 2, filter={"kind": "odd", "n": {"$lt": 6}}).cursor
    same = docs.search_page("dog rain", 1, cursor, filter={"n": {"$lt": 6}, "kind": "odd"})
    assert len(same.hits) == 1
    other: Any = store.create(docs.calibration, id_type="text")
    other.embedder = embedder
    vector = embedder.embed_queries(["dog rain"])[0]
    by_vector = docs.search_page(vector, 2)
    assert docs.search_page(vector.tolist(), 2, by_vector.cursor).hits
    searches: list[tuple[Any, Any, str | None, Any]] = [
        (docs, "dog cloud", cursor, {"kind": "odd", "n": {"$lt": 6}}),
        (docs, "dog rain", cursor, {"kind": "even", "n": {"$lt": 6}}),
        (docs, "dog rain", cursor, None),
        (docs, vector + 1, by_vector.cursor, None),
        (other, vector, by_vector.cursor, None),
    ]
    for collection, query, of_another, filter in searches:
        with pytest.raises(
            InputError, match="the cursor belongs to another search; expected one of the same collection"
        ):
            collection.search_page(query, 2, of_another, filter=filter)


@pytest.mark.parametrize("seen", [0, -1, 10**8, 10**22, 2**31])
def test_cursor_beyond_the_number_of_rows_is_refused(docs: Any, seen: int) -> None:
    cursor = docs.search_page("dog rain", 2).cursor
    fingerprint, shown, *last = json.loads(base64.urlsafe_b64decode(cursor))
    assert shown == 2
    forged = base64.urlsafe_b64encode(json.dumps([fingerprint, seen, *last]).encode()).decode()
    refused = r"is not a cursor; expected|the cursor is behind 100000000 rows, but there are 6; begin"
    with pytest.raises(InputError, match=refused):
        docs.search_page("dog rain", 2, forged)


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k is 0, expected at least 1"),
        (-1, "k is -1, expected at least 1"),
        (2.5, "k is 2.5, expected a whole number of at least 1"),
        (None, "k is None, expected a whole number of at least 1"),
        (10**20, "k is 100000000000000000000, expected at most 2147483647"),
    ],
)
@pytest.mark.usefixtures("ranks_texts")
def test_every_search_refuses_an_invalid_k(docs: Any, k: Any, message: str) -> None:
    docs.index_texts()
    searches = {
        "search": lambda: docs.search("dog", k),
        "text": lambda: docs.search_text("dog", k),
        "hybrid": lambda: docs.search_hybrid("dog", k),
        "diverse": lambda: docs.search_diverse("dog", k),
        "groups": lambda: docs.search_groups("dog", "kind", k),
        "page": lambda: docs.search_page("dog", k),
        "explain": lambda: docs.explain("dog", k),
    }
    for search in searches.values():
        with pytest.raises(InputError) as refused:
            search()
        assert str(refused.value) == message


def test_invalid_group_size_fetch_k_and_lambda_mult_are_refused(docs: Any) -> None:
    with pytest.raises(InputError, match=r"^group_size is 0, expected at least 1$"):
        docs.search_groups("dog", "kind", 2, group_size=0)
    with pytest.raises(InputError, match=r"^fetch_k is 2\.5, expected a whole number of at least 1$"):
        docs.search_diverse("dog", 2, fetch_k=2.5)
    with pytest.raises(InputError, match=r"^lambda_mult is '1', expected 0 \(novelty\) to 1 \(relevance\)$"):
        docs.search_diverse("dog", 2, lambda_mult="1")


# Word and hybrid searches


@pytest.mark.usefixtures("ranks_texts")
def test_word_search_uses_stems_and_rarity(docs: Any) -> None:
    docs.index_texts("english")
    assert ids(docs.search_text("foxes", 5)) == ["c", "a"] or set(ids(docs.search_text("foxes", 5))) == {"a", "c"}
    assert ids(docs.search_text("stones in a river"))[0] == "f"
    assert ids(docs.search_text("dog cloud"))[0] == "d"  # the rarer word
    assert docs.search_text("the of and") == []
    assert docs.search_text("") == []
    assert docs.search_text("it's \\ 'x' & | ! (y:*) \0 %s %") == []
    hit = docs.search_text("cloud", 1)[0]
    assert (hit.id, hit.document, hit.metadata) == ("d", TEXTS[3], {"n": 3, "kind": "odd"})
    assert hit.score > 0
    bare = docs.search_text("cloud", 1, texts=False)[0]
    assert (bare.id, bare.score, bare.document, bare.metadata) == ("d", hit.score, None, None)


@pytest.mark.usefixtures("ranks_texts")
def test_word_search_accepts_any_text_of_any_length(docs: Any) -> None:
    docs.index_texts("english")
    assert ids(docs.search_text("half a pair \ud83d of a cloud")) == ["d"]
    assert ids(docs.search_hybrid("half a pair \ud83d of a cloud", 1, vector=np.ones(8), weights=(0, 1))) == ["d"]
    assert ids(docs.search_text("cloud " * 100_000)) == ["d"]


@pytest.mark.parametrize("question", [5, None, ["cloud"], b"cloud"])
@pytest.mark.usefixtures("ranks_texts")
def test_question_that_is_not_a_string_is_refused(docs: Any, question: Any) -> None:
    docs.index_texts()
    with pytest.raises(InputError, match=r"^the question is .*, expected a string$"):
        docs.search_text(question)
    with pytest.raises(InputError, match=r"^the question is .*, expected a string$"):
        docs.search_hybrid(question, vector=np.ones(8))


@pytest.mark.usefixtures("ranks_texts")
def test_word_search_with_a_filter(docs: Any) -> None:
    docs.index_texts()
    assert ids(docs.search_text("dog river", filter={"kind": "odd"})) != []
    assert {hit.metadata["kind"] for hit in docs.search_text("dog river", filter={"kind": "odd"})} == {"odd"}


@pytest.mark.usefixtures("ranks_texts")
def test_rows_written_after_indexing_are_found_by_words(docs: Any) -> None:
    docs.index_texts()
    docs.index_texts()
    docs.add(["a hedgehog"], ids=["h"])
    assert ids(docs.search_text("hedgehogs")) == ["h"]
    docs.delete(["h"])
    assert docs.search_text("hedgehogs") == []


def test_word_search_needs_an_index(docs: Any) -> None:
    with pytest.raises(InputError, match=r"are not indexed; run: qvec index --collection .* --texts english"):
        docs.search_text("fox")
    with pytest.raises(InputError, match="language is 'klingon', expected one of: simple, arabic"):
        docs.index_texts("klingon")


@pytest.mark.parametrize(("first", "second"), [("english", "german"), ("simple", "english"), ("tamil", "simple")])
@pytest.mark.usefixtures("ranks_texts")
def test_language_of_a_text_index_cannot_change(docs: Any, first: str, second: str) -> None:
    docs.index_texts(first)
    docs.index_texts(first)
    with pytest.raises(
        InputError, match=f"texts of collection {docs.name!r} are indexed in {first!r} already, not in {second!r}"
    ):
        docs.index_texts(second)
    assert ids(docs.search_text("cloud")) == ["d"]


@pytest.mark.usefixtures("ranks_texts")
def test_language_without_stemming(docs: Any) -> None:
    docs.index_texts("simple")
    assert ids(docs.search_text("foxes")) == ["c"]


@pytest.mark.parametrize("fusion", ["ranks", "scores"])
@pytest.mark.usefixtures("ranks_texts")
def test_hybrid_search_fuses_vector_and_word_searches(docs: Any, fusion: str) -> None:
    docs.index_texts()
    nearest, by_words = docs.search("cat quick", 6), docs.search_text("cat quick", 6)
    assert ids(nearest)[0] == "e"
    assert set(ids(by_words)) == {"a", "e"}
    found = docs.search_hybrid("cat quick", fusion=fusion)
    assert ids(found)[0] == "e"
    assert [hit.document for hit in found] == [TEXTS["abcdef".index(hit.id)] for hit in found]
    assert [hit.metadata["n"] for hit in found] == ["abcdef".index(hit.id) for hit in found]
    assert set(ids(found)) == set("abcdef")
    assert ids(docs.search_hybrid("cat quick", 1, fusion=fusion, weights=(1, 0))) == ids(nearest)[:1]
    assert ids(docs.search_hybrid("cat quick", 1, fusion=fusion, weights=(0, 1))) == ids(by_words)[:1]
    assert {hit.metadata["kind"] for hit in docs.search_hybrid("cat quick", filter={"kind": "odd"})} == {"odd"}


@pytest.mark.usefixtures("ranks_texts")
def test_hybrid_search_accepts_a_vector_and_a_reranker(docs: Any, embedder: WordEmbedder) -> None:
    docs.index_texts()
    vector = embedder.embed_queries(["rain"])[0]
    embedder.questions.clear()
    found = docs.search_hybrid("stone", 3, vector=vector, reranker=lambda _, texts: [-len(text) for text in texts])
    assert embedder.questions == []
    assert [len(hit.document) for hit in found] == sorted(len(hit.document) for hit in found)
    with pytest.raises(InputError, match="fusion is 'best', expected one of: ranks, scores"):
        docs.search_hybrid("stone", fusion="best")
