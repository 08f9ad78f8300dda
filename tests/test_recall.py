"""Recall measured in production: by the client on all stores, by `qvec recall`, and by qvec.recall in SQL."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from command_line import invoke, succeed
from conftest import low_rank, unit
from databases import Store, ids
from numpy.typing import NDArray
from sql_helpers import import_calibration, install_schema, vector_text

import qvec
from qvec import Calibration, CollectionError, InputError
from qvec.client import Collection, Database
from qvec.client.recall import mean_recall, recall_at_k, usable_rows
from qvec.evaluation.metrics import confidence_intervals
from qvec.results import Hit, Recall
from qvec.training.learned_bits import AdaptOptions, adapt

Floats = NDArray[np.float32]
Connection = psycopg.Connection[Any]

ROWS = 1000


@pytest.fixture(scope="module")
def docs(store: Store, calibration: Calibration, vectors: Floats) -> Collection:
    """A collection of a thousand rows, whose sign bits find the nearest rows only with many candidates."""
    found = store.create(calibration, rescore="float16", prefilter="binary")
    found.upsert(range(ROWS), vectors, metadata=[{"tenth": row % 10} for row in range(ROWS)])
    found.build_index()
    return found


def without(row: int | str | None, found: list[Hit], k: int) -> list[int | str]:
    return [hit.id for hit in found if hit.id != row][:k]


def share_found(found: Sequence[Sequence[int | str]], nearest: Sequence[Sequence[int | str]]) -> float:
    """Return the mean share of the nearest rows that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, nearest, strict=True)]))


def best(scores: NDArray[np.floating], k: int) -> list[list[int | str]]:
    return [line[:k] for line in np.argsort(-scores, axis=1, kind="stable").tolist()]


# All stores


def test_recall_of_given_queries_equals_that_of_numpy(
    store: Store, docs: Collection, vectors: Floats, queries: Floats, calibration: Calibration
) -> None:
    measured = docs.recall(queries, oversampling=1)
    nearest = best(store.scores(unit(queries), unit(vectors), calibration, "float16"), 10)
    found = [ids(hits) for hits in docs.search(queries, oversampling=1)]
    assert measured.recall == pytest.approx(share_found(found, nearest), abs=0.003)
    assert measured.recall < 0.95
    assert measured.low < measured.recall < measured.high
    assert (measured.k, measured.queries, measured.rows_as_queries) == (10, 50, False)
    assert (measured.oversampling, measured.rows_scanned) == (1, ROWS)
    assert measured.truth == "exact search of the collection's own float16 vectors"
    assert measured.p50_ms > 0


def test_own_rows_are_left_out(store: Store, docs: Collection, vectors: Floats, calibration: Calibration) -> None:
    """Each row is the nearest to itself: if it counted, recall@1 would be 1."""
    measured = docs.recall(k=1, oversampling=1, sample=40, seed=3)
    drawn: Any = docs.stored.sample_ids(40, 3)
    scores = store.scores(unit(vectors[drawn]), unit(vectors), calibration, "float16")
    scores[np.arange(len(drawn)), drawn] = -1
    found = [
        without(row, hits, 1) for row, hits in zip(drawn, docs.search(vectors[drawn], 2, oversampling=1), strict=True)
    ]
    assert measured.recall == pytest.approx(share_found(found, best(scores, 1)), abs=0.03)
    assert measured.recall < 0.8
    assert (measured.queries, measured.rows_as_queries) == (40, True)


def test_more_candidates_find_more(docs: Collection) -> None:
    few, more, most = (docs.recall(sample=30, oversampling=factor) for factor in (1, 4, 50))
    assert few.recall < more.recall <= most.recall
    assert most.recall > 0.99
    assert most.low < most.high == 1
    assert docs.recall(sample=30).oversampling == docs.oversampling


def test_seed_draws_the_same_rows(docs: Collection) -> None:
    first, again, other = (docs.recall(sample=20, oversampling=1, seed=seed) for seed in (1, 1, 2))
    assert (first.recall, first.low) == (again.recall, again.low)
    assert set(docs.stored.sample_ids(20, 1)) != set(docs.stored.sample_ids(20, 2))
    assert other.queries == 20
    with pytest.raises(InputError, match=r"^seed is -1, expected a whole number from 0 to 2147483647$"):
        docs.recall(seed=-1)


def test_rows_are_drawn_uniformly(store: Store, vectors: Floats, calibration: Calibration) -> None:
    few = store.create(calibration, id_type="text")
    names = [f"row {n}" for n in range(40)]
    few.upsert(names, vectors[:40])
    drawn = Counter(id for seed in range(40) for id in few.stored.sample_ids(10, seed))
    assert set(drawn) == set(names)
    assert max(drawn.values()) < 24  # 10 on average, with a standard deviation of 2.7
    assert sorted(map(str, few.stored.sample_ids(100, 0))) == sorted(names)


def test_ids_that_points_cannot_have_are_left_out_too(store: Store, vectors: Floats, calibration: Calibration) -> None:
    for id_type, row_ids in (("text", [f"a{n}" for n in range(60)]), ("bigint", list(range(-60, 0)))):
        some = store.create(calibration, id_type=id_type)
        some.upsert(row_ids, vectors[:60])
        measured = some.recall(k=3, oversampling=30, sample=200)
        assert (measured.recall, measured.queries, measured.rows_scanned) == (1, 60, 60)


def test_filter_limits_hits_and_not_queries(docs: Collection, queries: Floats) -> None:
    measured = docs.recall(queries, filter={"tenth": 3}, oversampling=1)
    found, exact = (docs.search(queries, filter={"tenth": 3}, oversampling=1, exact=way) for way in (False, True))
    assert measured.recall == pytest.approx(share_found(list(map(ids, found)), list(map(ids, exact))))
    assert docs.recall(sample=20, filter={"tenth": 3}, oversampling=20).queries == 20
    with pytest.raises(InputError, match=r"^no row of collection .* passes the filter: there is no recall to measure$"):
        docs.recall(queries, filter={"tenth": 11})


def test_too_few_rows_raise(store: Store, vectors: Floats, calibration: Calibration) -> None:
    small = store.create(calibration)
    with pytest.raises(InputError, match=r"has 0 rows, expected at least 11 to measure recall@10: a search for k of"):
        small.recall()
    small.upsert(range(10), vectors[:10])
    with pytest.raises(InputError, match=r"has 10 rows, expected at least 11 to measure recall@10"):
        small.recall(vectors[:3])
    assert small.recall(k=9).recall == 1
    assert small.recall(k=9).queries == 10


def test_invalid_arguments_raise(docs: Collection, vectors: Floats) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"sample": 0}, "sample is 0, expected at least 1"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"oversampling": 0.5}, "oversampling is 0.5, expected at least 1"),
        ({"queries": vectors[:2, :7]}, "query: 7 dimensions found, 64 wanted"),
        ({"queries": vectors[:0]}, "there are no queries to measure recall with"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            docs.recall(**arguments)


def test_questions_are_embedded(docs: Collection, queries: Floats) -> None:
    class Embedder:
        def embed_queries(self, texts: Sequence[str]) -> Floats:
            return queries[[int(text) for text in texts]]

    reopened: Any = docs
    reopened.embedder = Embedder()
    assert docs.recall(["4", "7"], oversampling=1).recall == docs.recall(queries[[4, 7]], oversampling=1).recall
    assert docs.recall("4", oversampling=1).queries == 1


def test_progress_counts_searches(docs: Collection, queries: Floats) -> None:
    seen: list[tuple[int, int | None]] = []
    docs.recall(queries[:3], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_async_twin_measures_the_same(store: Store, docs: Collection) -> None:
    async def measure() -> Recall:
        async with await qvec.connect_async(store.url) as database:
            return await (await database.collection(docs.name)).recall(sample=20, oversampling=1)

    found, expected = asyncio.run(measure()), docs.recall(sample=20, oversampling=1)
    assert (found.recall, found.low, found.high) == (expected.recall, expected.low, expected.high)


# Figures


def hits(*scores: float) -> list[Hit]:
    return [Hit(position, score) for position, score in enumerate(scores)]


def test_tied_hits_count_as_found() -> None:
    exact = hits(0.9, 0.8, 0.7, 0.7)
    assert recall_at_k([Hit(0, 0.9), Hit(1, 0.8), Hit(9, 0.7)], exact, 3, None) == 1
    assert recall_at_k([Hit(0, 0.9), Hit(1, 0.8), Hit(9, 0.69)], exact, 3, None) == pytest.approx(2 / 3)
    assert recall_at_k([Hit(0, 0.9)], exact, 3, 0) == 0
    assert recall_at_k([Hit(0, 0.9), Hit(1, 0.8), Hit(5, 0.1)], hits(0.9, 0.8), 3, None) == 1
    assert recall_at_k([], hits(0.9), 3, 0) is None


def test_interval_of_worked_example() -> None:
    mean = mean_recall([1, 1, 0.8, 0.9], 10)
    extended = np.array([1, 1, 0.8, 0.9, 0.8])
    margin = 1.96 * np.sqrt(((extended - extended.mean()) ** 2).sum() / 4 / 5)
    assert mean == pytest.approx((0.925, 0.9 - margin, 1))
    assert 0.99 < mean_recall([1] * 50, 10).low < 0.998
    assert mean_recall([1] * 50, 10).high == 1
    assert mean_recall([0.0], 10) == (0, 0, 0)


@pytest.mark.parametrize(("true", "spread"), [(0.999, 0.05), (0.99, 0.05), (0.97, 0.1)])
def test_interval_holds_the_true_recall_more_often_than_a_bootstrap(true: float, spread: float) -> None:
    """Lower bounds above the true recall of 50 queries: at most 8% of them, of a bootstrap 7% to 63%."""
    rng = np.random.default_rng(0)
    samples = rng.binomial(10, rng.beta(true / spread, (1 - true) / spread, (400, 50))) / 10
    found = [mean_recall(sample, 10) for sample in samples.tolist()]
    resampled = confidence_intervals(list(samples))
    too_high = np.mean([mean.low > true for mean in found])
    assert too_high <= 0.1
    assert too_high <= np.mean([interval.low > true for interval in resampled])
    assert np.mean([mean.high < true for mean in found]) < 0.02


def test_rows_that_cannot_be_queries_are_left_out() -> None:
    drawn = np.array([[1, 0], [np.nan, np.nan], [0, 0], [0, 2]], np.float32)
    found = usable_rows("docs", ["a", "b", "c", "d"], drawn)
    assert found.own_rows == ["a", "d"]
    assert found.vectors.tolist() == [[1, 0], [0, 2]]
    with pytest.raises(InputError, match=r"^none of the 2 rows drawn from collection 'docs' can serve as a query$"):
        usable_rows("docs", ["b", "c"], drawn[1:3])


def test_recall_is_printed_in_one_line() -> None:
    found = Recall("docs", 0.991, 0.984, 0.996, 10, 1050, True, 4.0, 2000, "exact search", 0.613)
    assert str(found) == "recall@10 99.1% (98.4–99.6), 1,050 rows as queries, 4 candidates a hit, 0.6 ms a search"


# Postgres


@pytest.fixture(scope="module")
def url(new_database: Callable[..., str]) -> str:
    return new_database()


@pytest.fixture(scope="module")
def db(url: str) -> Iterator[Database]:
    with qvec.connect(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def codes(db: Database, calibration: Calibration, vectors: Floats) -> Collection:
    """An indexed collection of codes without floats, whose prefilter loses some rows."""
    found = db.create_collection("docs", calibration=calibration, prefilter="binary", oversampling=2)
    found.upsert(range(ROWS), vectors)
    found.build_index()
    return found


@pytest.fixture(scope="module")
def sql(codes: Collection, url: str) -> Iterator[Connection]:
    assert codes.name
    with install_schema(url) as connection:
        yield connection


def decoded(vectors: Floats, calibration: Calibration) -> Floats:
    return qvec.dequantize(qvec.quantize(vectors, calibration, 8), calibration)


@pytest.mark.parametrize("k", [1, 10])
def test_recall_of_codes_equals_brute_force(
    codes: Collection, vectors: Floats, calibration: Calibration, k: int
) -> None:
    """Rows become queries by decoding; the nearest are those by numpy over all decoded codes."""
    drawn: Any = codes.stored.sample_ids(50, 0)
    rows = decoded(vectors, calibration).astype(np.float64)
    scores = unit(rows[drawn]) @ unit(rows).T  # type: ignore[arg-type]
    scores[np.arange(50), drawn] = -1
    candidates = codes.search(rows[drawn].astype(np.float32), k + 1, (2 * k + 0.5) / (k + 1))
    found = [without(row, hits, k) for row, hits in zip(drawn, candidates, strict=True)]
    measured = codes.recall(k=k)
    assert measured.recall == pytest.approx(share_found(found, best(scores, k)))
    assert measured.recall < 0.98
    assert measured.truth == "exact search of the collection's own int8 vectors"


def test_recall_with_learned_prefilter(db: Database) -> None:
    rows = low_rank(500, 20)
    learned = adapt(rows, Calibration.fit(rows), AdaptOptions(48, "itq")).calibration
    found = db.create_collection("learned", calibration=learned)
    found.upsert(range(500), rows)
    assert found.settings["prefilter"] == "learned"
    assert found.recall(sample=20, oversampling=1).recall < found.recall(sample=20, oversampling=40).recall


# SQL


def measure(sql: Connection, collection: str, **options: Any) -> dict[str, Any]:
    arguments = "".join(f", {name} => %({name})s" for name in options)
    statement = f"SELECT * FROM qvec.recall(%(c)s{arguments})"
    with sql.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        found = cursor.execute(statement.encode(), {"c": collection, **options}).fetchone()
    assert found is not None
    return found


@pytest.mark.parametrize("options", [{}, {"queries": 30, "k": 1, "seed": 3}, {"oversampling": 1.5}])
def test_sql_measures_what_python_measures(sql: Connection, codes: Collection, options: dict[str, Any]) -> None:
    found = measure(sql, "docs", **options)
    measured = codes.recall(sample=options.pop("queries", 50), **options)
    one_hit = 1 / (measured.queries * measured.k)  # of candidates at the same distance a search may leave out any
    for name in ("recall", "low", "high"):
        assert found[name] == pytest.approx(getattr(measured, name), abs=0.006 + one_hit), name
    assert found["recall"] < 0.98
    assert (found["queries"], found["k"], found["rows_scanned"]) == (measured.queries, measured.k, ROWS)
    assert found["candidates"] == measured.k * measured.oversampling


def test_sql_columns_are_in_order(sql: Connection) -> None:
    assert list(measure(sql, "docs", queries=2)) == [
        *("recall", "low", "high", "queries", "k", "candidates", "rows_scanned")
    ]


def test_sql_measures_floats_and_attached_tables(
    sql: Connection, db: Database, calibration: Calibration, vectors: Floats
) -> None:
    floats = db.create_collection("floats", calibration=calibration, rescore="float16", prefilter="binary")
    floats.upsert(range(200), vectors[:200])
    expected = floats.recall(sample=20, oversampling=1).recall
    assert measure(sql, "floats", queries=20, oversampling=1)["recall"] == pytest.approx(expected, abs=0.006)
    sql.execute("CREATE TABLE articles (key uuid PRIMARY KEY DEFAULT gen_random_uuid(), embedding halfvec(64))")
    with sql.cursor().copy("COPY articles (embedding) FROM STDIN") as copy:
        for vector in vectors[:200]:
            copy.write_row([vector_text(vector)])
    sql.execute("SELECT qvec.attach('articles', 'embedding', %s)", [import_calibration(sql, calibration)])
    sql.execute("CALL qvec.backfill('articles')")
    sql.execute("INSERT INTO articles (embedding) VALUES (NULL)")
    found = measure(sql, "articles", queries=20, oversampling=40)
    assert (found["recall"], found["rows_scanned"]) == (1, 200)
    assert measure(sql, "articles", queries=20, k=1, oversampling=1)["recall"] < 1
    with pytest.raises(CollectionError, match=r"is an application's table, attached in SQL"):
        db.collection("articles")


def test_sql_refuses_what_cannot_be_measured(sql: Connection, db: Database, calibration: Calibration) -> None:
    db.create_collection("empty", calibration=calibration)
    for arguments, message in (
        ("'empty'", "collection 'empty' has 0 rows, expected at least 11 to measure recall@10"),
        ("'docs', k => 1000", "collection 'docs' has 1000 rows, expected at least 1001 to measure recall@1000"),
        ("'docs', queries => 0", "queries is 0, expected at least 1"),
        ("'docs', k => NULL", "k is NULL, expected at least 1"),
        ("'docs', seed => NULL", "seed is NULL, expected a number"),
        ("'docs', oversampling => 0", "oversampling is 0, expected at least 1"),
        ("'none'", "no collection 'none'"),
    ):
        with pytest.raises(psycopg.Error, match=f"^{re.escape(message)}"):
            sql.execute(f"SELECT qvec.recall({arguments})".encode())


# The command


def test_command_prints_one_line(codes: Collection, url: str) -> None:
    result = succeed("recall", "--db", url, "-c", "docs", "--sample", 20)
    measured = codes.recall(sample=20)
    figures = str(measured).rsplit(",", 1)[0]
    assert re.fullmatch(rf"docs: {re.escape(figures)}, [\d.]+ ms a search\n", result.stdout)
    assert result.stderr == "the exact search scores 1,000 rows for each of up to 20 rows as queries\n"


def test_command_prints_json(codes: Collection, url: str) -> None:
    result = succeed("recall", "--db", url, "-c", "docs", "-k", 5, "--oversampling", 3, "--seed", 4, "--json")
    found = json.loads(result.stdout)
    expected = codes.recall(k=5, oversampling=3, seed=4).as_dict()
    assert {**expected, "p50_ms": found["p50_ms"], "at_least": None, "too_low": False} == found
    assert not result.stderr


def test_command_takes_queries_of_a_file(codes: Collection, url: str, queries: Floats, tmp_path: Path) -> None:
    np.save(tmp_path / "queries.npy", queries)
    arguments = ("recall", "--db", url, "-c", "docs", "--queries", tmp_path / "queries.npy", "--json")
    found = json.loads(succeed(*arguments).stdout)
    assert found["recall"] == codes.recall(queries).recall
    assert not found["rows_as_queries"]
    assert json.loads(succeed(*arguments, "--sample", 7).stdout)["queries"] == 7
    np.save(tmp_path / "queries.npy", queries[:, :9])
    refused = invoke(*arguments)
    assert refused.exit_code == 1
    assert "has 9 dimensions, expected 64 like the collection" in refused.output
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "one"}\n')
    refused = invoke(*arguments[:-2], tmp_path / "queries.jsonl")
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: collection 'docs' was loaded as vectors; name the model they are from")


def test_command_embeds_texts_of_a_file(
    codes: Collection, url: str, queries: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FakeModel:
        def embed_queries(self, texts: list[str]) -> Floats:
            return queries[[int(text) for text in texts]]

    monkeypatch.setattr("qvec.cli.measuring.load_embedder", lambda _: FakeModel())
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "4"}\n{"_id": "b", "text": "7"}\n')
    arguments = ("recall", "--db", url, "-c", "docs", "--queries", tmp_path / "queries.jsonl", "--model", "fake")
    result = succeed(*arguments)
    assert result.stdout.startswith(f"docs: {str(codes.recall(queries[[4, 7]])).rsplit(',', 1)[0]}, ")
    assert result.stderr.endswith(f"for each of 2 queries of {tmp_path / 'queries.jsonl'}\n")


@pytest.mark.parametrize(
    ("at_least", "code", "said"),
    [
        (0.5, 0, None),
        (0.999, 3, "Wanted is a recall of at least 99.9%: it is below."),
        (None, 0, None),
    ],
)
def test_exit_code_tells_that_recall_is_too_low(
    codes: Collection, url: str, at_least: float | None, code: int, said: str | None
) -> None:
    arguments = ["recall", "--db", url, "-c", "docs", "--oversampling", 1]
    arguments += [] if at_least is None else ["--at-least", at_least]
    result = invoke(*arguments)
    assert result.exit_code == code
    assert result.stdout.splitlines()[1:] == ([said] if said else [])
    found = json.loads(invoke(*arguments, "--json").stdout)
    assert (found["at_least"], found["too_low"]) == (at_least, code == 3)
    assert codes.name == "docs"


def test_interval_decides_the_exit_code(codes: Collection, url: str) -> None:
    """A recall that chance alone may have put below the limit raises no alarm."""
    measured = codes.recall(sample=20)
    between = (measured.recall + measured.high) / 2
    result = succeed("recall", "--db", url, "-c", "docs", "--sample", 20, "--at-least", between)
    assert "not surely below; a larger --sample tells" in result.stdout


def test_command_explains_mistakes(
    codes: Collection, url: str, db: Database, calibration: Calibration, vectors: Floats
) -> None:
    few = db.create_collection("few", calibration=calibration)
    few.upsert(range(4), vectors[:4])
    assert codes.name == "docs"
    for arguments, message in (
        (("-c", "few"), "Error: collection 'few' has 4 rows, expected at least 11 to measure recall@10"),
        (("-c", "other"), "Error: no collection 'other' in"),
        (("-c", "docs", "--queries", "missing.npy"), "Error: "),
    ):
        result = invoke("recall", "--db", url, "--quiet", *arguments)
        assert result.exit_code == 1
        assert result.output.startswith(message)
    assert invoke("recall", "--db", url, "-c", "docs", "--at-least", 2).exit_code == 2
