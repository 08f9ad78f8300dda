"""Word searches: BM25 ranking on all stores, and its use of table statistics in Postgres."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from databases import Store, ids
from psycopg.sql import SQL

from qvec import Calibration
from qvec.client import Database

ROWS = 1000


def texts(random: np.random.Generator, rows: int) -> list[str]:
    """Return texts of 4 to 40 words out of 200; the n-th word is n times as rare as the first."""
    share = 1 / np.arange(1, 201)
    words = random.choice(200, (rows, 40), p=share / share.sum())
    lengths = random.integers(4, 41, rows)
    return [" ".join(f"w{word}" for word in row[:length]) for row, length in zip(words, lengths, strict=True)]


DOCUMENTS = texts(np.random.default_rng(0), ROWS)
QUESTIONS = [" ".join(f"w{word}" for word in words) for words in np.random.default_rng(1).integers(0, 200, (20, 3))]


def bm25(documents: list[str], question: str, distinct: bool) -> dict[int, float]:
    """Return the BM25 scores of documents with a word of the question, in Lucene's form with k1 = 1.2 and b = 0.75.

    The length of a document is its number of words, relative to the average of all documents. With `distinct` it is the
    number of distinct words, relative to the average of the documents that contain a word of the question.
    """
    words = [document.split() for document in documents]
    asked = set(question.split())
    sizes = [len(set(row)) if distinct else len(row) for row in words]
    matching = [position for position, row in enumerate(words) if asked & set(row)]
    average = np.mean([sizes[position] for position in matching] if distinct else sizes)
    holding = {word: sum(word in row for row in words) for word in asked}
    rarity = {word: np.log(1 + (len(words) - found + 0.5) / (found + 0.5)) for word, found in holding.items()}
    scores = {}
    for position in matching:
        times, length = Counter(words[position]), 1.2 * (0.25 + 0.75 * sizes[position] / average)
        scores[position] = sum(rarity[word] * times[word] * 2.2 / (times[word] + length) for word in asked)
    return scores


def check_ranking(docs: Any, distinct: bool) -> None:
    """Assert that a search for all rows ranks every row with a word of the question by its exact score."""
    for question in QUESTIONS:
        expected = bm25(DOCUMENTS, question, distinct)
        found = docs.search_text(question, ROWS)
        assert {hit.id for hit in found} == set(expected)
        np.testing.assert_allclose([hit.score for hit in found], [expected[hit.id] for hit in found], rtol=1e-6)
        np.testing.assert_allclose([hit.score for hit in found], sorted(expected.values(), reverse=True), rtol=1e-6)


def analyze(db: Database, docs: Any) -> None:
    with db.store.direct_connection() as connection:
        connection.execute(SQL("ANALYZE {}").format(docs.stored.table.identifier))


def test_words_rank_by_bm25(store: Store, calibration: Calibration, vectors: Any) -> None:
    store.need_ranking()
    docs: Any = store.create(calibration)
    docs.index_texts("simple")
    docs.upsert(np.arange(ROWS), vectors, DOCUMENTS)
    check_ranking(docs, distinct=store.is_postgres)


@pytest.fixture
def docs(db: Database, name: str, calibration: Calibration, vectors: Any) -> Any:
    """A collection of the documents; ANALYZE has last run on its empty table."""
    docs: Any = db.create_collection(name, calibration=calibration)
    docs.index_texts("simple")
    docs.upsert(np.arange(ROWS), vectors, DOCUMENTS)
    return docs


def test_words_rank_by_bm25_after_analyze(db: Database, docs: Any) -> None:
    analyze(db, docs)
    check_ranking(docs, distinct=True)


def test_rankings_are_the_same_before_and_after_analyze(db: Database, docs: Any) -> None:
    before = [docs.search_text(question) for question in QUESTIONS]
    analyze(db, docs)
    after = [docs.search_text(question) for question in QUESTIONS]
    assert [ids(hits) for hits in before] == [ids(hits) for hits in after]


def test_approximate_ranking_contains_the_best_rows(docs: Any) -> None:
    """Common words match more rows than the ranking scores."""
    shared = []
    for question in ("w0 w1 w2", "w0 w3 w150", "w1 w2 w80 w90"):
        best, found = docs.search_text(question, ROWS), docs.search_text(question, 10)
        assert len(best) > 400
        shared.append(len({*ids(best[:10])} & {*ids(found)}) / 10)
    assert np.mean(shared) > 0.85
