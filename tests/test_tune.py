"""Tuning finds and stores the smallest sufficient oversampling; the commands `qvec eval` and `qvec tune`."""

from __future__ import annotations

import importlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import invoke
from conftest import realistic
from databases import Store, ids
from numpy.typing import NDArray
from psycopg import sql

import qvec
from qvec import Calibration, CollectionError, InputError
from qvec.client import Collection, Database
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.evaluation.dataset import Queries, Rows, rows_of_source
from qvec.evaluation.metrics import Interval
from qvec.evaluation.tuning import Alternative, Attempt, Tuning, advise, tune
from qvec.sources import open_source

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def shared(store: Store, calibration: Calibration, vectors: Floats) -> Collection:
    """A collection of a thousand rows, whose sign bits find the nearest rows only with many candidates."""
    found = store.create(calibration, rescore="float16", prefilter="binary")
    found.upsert(range(len(vectors)), vectors)
    found.build_index()
    return found


@pytest.fixture
def collection(shared: Collection) -> Collection:
    """The shared collection with the default oversampling."""
    shared.set_oversampling(DEFAULT_OVERSAMPLING)
    return shared


@pytest.fixture(scope="module")
def source(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "vectors.npy"
    np.save(path, vectors)
    return path


@pytest.fixture(scope="module")
def tuning_queries() -> Queries:
    drawn = realistic(120, seed=3)
    return Queries(tuple(map(str, range(len(drawn)))), drawn, "the test")


@pytest.fixture(scope="module")
def few_queries(tuning_queries: Queries) -> Queries:
    return tuning_queries.take(np.arange(50))


def rows_of(source: Path, calibration: Calibration) -> Rows:
    return rows_of_source(open_source(source), calibration, None, 0)


def at_least(tuning: Tuning) -> dict[float | None, float]:
    return {attempt.oversampling: attempt.at_least for attempt in tuning.attempts}


def test_smallest_sufficient_oversampling_is_stored(
    store: Store, collection: Collection, few_queries: Queries, source: Path, calibration: Calibration
) -> None:
    tuning = tune(collection, few_queries, rows_of(source, calibration), recall=0.97)
    found, measured = tuning.oversampling, at_least(tuning)
    assert found is not None
    assert measured[found] >= 0.97
    assert found == 1 or measured[found - 1] < 0.97
    assert tuning.chosen is not None
    assert tuning.chosen.at_least <= tuning.chosen.recall.value
    assert tuning.stored
    assert tuning.ef_search == (math.ceil(12.5 * found) if store.is_postgres else None)
    assert collection.oversampling == found
    again = store.database.collection(collection.name)
    assert again.oversampling == found
    assert again.info().oversampling == found
    assert again.explain(few_queries.vectors[0]).candidates == 10 * found


def test_nothing_is_stored_without_store(collection: Collection, store: Store, few_queries: Queries) -> None:
    tuning = tune(collection, few_queries, recall=0.8, store=False)
    assert tuning.oversampling is not None
    assert not tuning.stored
    assert store.database.collection(collection.name).oversampling == DEFAULT_OVERSAMPLING


def test_unreachable_target_gives_advice(collection: Collection, store: Store, few_queries: Queries) -> None:
    tuning = tune(collection, few_queries, recall=0.95, max_oversampling=1)
    assert tuning.oversampling is tuning.chosen is None
    assert not tuning.stored
    assert tuning.advice is not None
    assert tuning.advice.startswith("an oversampling of 1 finds ")
    if store.is_postgres:
        assert advised_options(tuning)["rescore"] in ("int10", "int8", "float16")
    else:
        assert tuning.advice.endswith(
            ": load it again with a more precise prefilter (qvec ingest --prefilter turbo1), or search "
            "every row (qvec search --exact)"
        )
    assert store.database.collection(collection.name).oversampling == DEFAULT_OVERSAMPLING


def test_stored_oversampling_is_read_by_other_connections(store: Store, collection: Collection) -> None:
    collection.set_oversampling(6.5)
    with qvec.connect(store.url) as elsewhere:
        again = elsewhere.collection(collection.name)
        assert again.oversampling == 6.5
        assert again.settings == collection.settings
        assert again.calibration == collection.calibration
        assert again.model == collection.model


def test_invalid_oversampling_raises(collection: Collection) -> None:
    for wrong in (0.5, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"^oversampling is .*, expected at least 1$"):
            collection.set_oversampling(wrong)
    assert collection.oversampling == DEFAULT_OVERSAMPLING


def test_tuning_dropped_collection_raises(store: Store, calibration: Calibration) -> None:
    collection = store.create(calibration)
    store.database.drop_collection(collection.name)
    with pytest.raises((CollectionError, qvec.DatabaseError)):
        collection.set_oversampling(8)


def test_ef_sets_width_of_graph_search(store: Store, collection: Collection, tuning_queries: Queries) -> None:
    if store.is_postgres:
        pytest.skip("Postgres searches as wide as there are candidates")
    wide: Any = collection
    assert [ids(hits) for hits in wide.search(tuning_queries.vectors, ef=1000)] == [
        ids(h) for h in collection.search(tuning_queries.vectors)
    ]
    with pytest.raises(InputError, match=r"^ef is 0, expected at least 1, or None for the engine's own$"):
        wide.search(tuning_queries.vectors, ef=0)


# Postgres


@pytest.fixture(scope="module")
def codes(db: Database, calibration: Calibration, vectors: Floats) -> Any:
    found = db.create_collection("tuned", calibration=calibration)
    found.upsert(range(len(vectors)), vectors)
    found.build_index()
    return found


def advised_options(tuning: Tuning) -> dict[str, str]:
    """Return the options of the command in the advice."""
    found = re.search(r"\(qvec ingest --rescore (\w+) --prefilter (\w+) --oversampling (\d+)\)$", tuning.advice or "")
    assert found, tuning.advice
    return dict(zip(("rescore", "prefilter", "oversampling"), found.groups(), strict=True))


@pytest.mark.slow
def test_advised_settings_reach_target(
    db: Database, codes: Any, tuning_queries: Queries, source: Path, calibration: Calibration, vectors: Floats
) -> None:
    """A collection loaded by the advised command has the recall that the advice promises."""
    tuning = tune(codes, tuning_queries, rows_of(source, calibration), recall=0.997)
    (only,) = tuning.attempts
    assert only.oversampling is None
    assert tuning.advice is not None
    assert tuning.advice.startswith(
        f"rescoring every row by int8 finds {only.recall.value:.2%} (at least {only.at_least:.2%} with 95% confidence)"
        ", and no oversampling finds more: load it again as float16 after "
    )
    wanted: Any = advised_options(tuning)
    factor = float(wanted.pop("oversampling"))
    promised = re.search(r"which finds (\S+)% ", tuning.advice)
    assert promised
    other = db.create_collection("advised", calibration=calibration, **wanted)
    other.upsert(range(len(vectors)), vectors)
    met = tune(other, tuning_queries, rows_of(source, calibration), recall=0.997, store=False)
    assert met.oversampling is not None
    assert factor // 2 < met.oversampling <= factor + 2  # ties among candidates may be broken differently
    (measured,) = [each.recall.value for each in met.attempts if each.oversampling == factor]
    assert measured == pytest.approx(float(promised[1]) / 100, abs=0.003)


def test_advice_names_closest_alternative(
    codes: Any, tuning_queries: Queries, source: Path, calibration: Calibration
) -> None:
    tuning = tune(codes, tuning_queries.take(np.arange(30)), rows_of(source, calibration), recall=0.9999)
    assert tuning.advice is not None
    assert "no other way to load it is sure to reach the target; the closest is int10 after " in tuning.advice
    assert tuning.advice.endswith(", without the loss of an index; more queries are needed to be sure of it")


@pytest.mark.parametrize(
    ("tried", "found", "expected"),
    [
        ((0.9,), 0.9, "keep floats and search every row (qvec ingest --rescore float32, qvec search --exact)"),
        ((0.99, 0.8), 0.9, "search every row (qvec search --exact)"),
        ((0.99, 0.8), 0.96, "more queries are needed to be sure of it"),
    ],
)
def test_advice_if_no_alternative_reaches_target(
    codes: Any, tried: tuple[float, ...], found: float, expected: str
) -> None:
    attempts = [
        Attempt(128.0 if at else None, Interval(recall, recall, recall), recall - 0.05, 1.0)
        for at, recall in enumerate(tried)
    ]
    others = [Alternative("levels6", "float16", 8, 900, found, found - 0.02)]
    assert advise(codes, attempts, 0.95, 0.95, others).endswith(f"without the loss of an index; {expected}")


def test_advice_asks_for_more_queries(
    codes: Any, tuning_queries: Queries, source: Path, calibration: Calibration
) -> None:
    few = tuning_queries.take(np.arange(20))
    exact = tune(codes, few, rows_of(source, calibration), recall=1e-9, store=False).attempts[0]
    tuning = tune(codes, few, rows_of(source, calibration), recall=exact.recall.value, store=False)
    assert tuning.advice is not None
    assert tuning.advice.endswith(f"more queries are needed to be sure of {exact.recall.value:.2%}")


def test_sql_search_uses_stored_oversampling(db: Database, codes: Any, tuning_queries: Queries) -> None:
    codes.set_oversampling(1)
    few = sql_hits(db, tuning_queries.vectors[:20])
    codes.set_oversampling(16)
    many = sql_hits(db, tuning_queries.vectors[:20])
    assert few == [ids(hits) for hits in codes.search(tuning_queries.vectors[:20], oversampling=1)]
    assert many == [ids(hits) for hits in codes.search(tuning_queries.vectors[:20])]
    assert few != many
    codes.set_oversampling(DEFAULT_OVERSAMPLING)


def sql_hits(db: Database, queries: Floats) -> list[list[int]]:
    statement = sql.SQL("SELECT id::bigint FROM qvec.search('tuned', %s::vector, 10)")
    with db.store.connection() as connection:
        return [[row[0] for row in connection.execute(statement, [str(query.tolist())])] for query in queries]


def test_search_with_fewer_planes_equals_coarser_collection(
    db: Database, codes: Any, calibration: Calibration, vectors: Floats, queries: Floats
) -> None:
    for rescore, planes in (("int4", 4), ("binary", 1)):
        other = db.create_collection(f"of_{rescore}", calibration=calibration, rescore=rescore)
        other.upsert(range(len(vectors)), vectors)
        found = codes.search(queries, exact=True, planes=planes)
        assert [ids(hits) for hits in found] == [ids(hits) for hits in other.search(queries, exact=True)]
        assert [hit.score for hit in found[0]] == [hit.score for hit in other.search(queries[:1], exact=True)[0]]
    assert codes.search(queries[0], planes=8) == codes.search(queries[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planes": 9}, "planes is 9, but collection 'tuned' keeps 8: expected 1 to 8"),
        ({"planes": 0}, "planes is 0, but collection 'tuned' keeps 8: expected 1 to 8"),
        ({"planes": 4, "rescore_in": "sql"}, "planes is 4, but Postgres rescores; expected None"),
    ],
)
def test_invalid_planes_raise(codes: Any, queries: Floats, options: Any, message: str) -> None:
    with pytest.raises(InputError) as raised:
        codes.search(queries[0], **options)
    assert str(raised.value) == message


# The commands


@pytest.fixture(scope="module")
def loaded(new_database: Callable[[], str], source: Path) -> str:
    url = new_database()
    assert invoke("ingest", source, "--collection", "docs", "--db", url, "--quiet").exit_code == 0
    return url


@pytest.fixture(scope="module")
def query_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("queries") / "queries.npy"
    np.save(path, realistic(60, seed=3))
    return path


def test_eval_prints_line_for_each_configuration(loaded: str, source: Path, query_file: Path) -> None:
    result = invoke(
        "eval", "--db", loaded, "-c", "docs", "--queries", query_file, "--truth", source, "--limit", 20, "--json"
    )
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    keys = {"prefilter", "rescore", "oversampling", "recall", "p50_ms", "p95_ms", "p99_ms", "bytes_per_vector"}
    assert all(keys < set(line) for line in lines)
    assert not any("ndcg" in line for line in lines)
    steps = {(line["prefilter"], line["rescore"], line["oversampling"]) for line in lines}
    assert {("levels6", "int8", 16), ("levels6", "none", None), ("none", "int4", None)} <= steps


def test_eval_with_judgements_and_comparison(loaded: str, source: Path, query_file: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t1\t1\n7\t5\t2\n")
    arguments = ("eval", "--db", loaded, "-c", "docs", "--queries", query_file, "--qrels", tmp_path / "qrels.tsv")
    result = invoke(*arguments, "--compare", "levels6/int8/1", "levels6/int8/16")
    assert result.exit_code == 0
    assert "nDCG@10" in result.stdout
    assert f"Recall is against exact search of {source} in float32" in result.stdout
    assert "Note: nDCG is over the 2 queries that have a relevant document." in result.stdout
    assert "levels6/int8/1 − levels6/int8/16: recall@10 −" in result.stdout
    assert "levels6/int8/1 − levels6/int8/16: nDCG@10 " in result.stdout
    *lines, compared = map(
        json.loads, invoke(*arguments, "--compare", "none/int8", "none/int4", "--json").stdout.splitlines()
    )
    assert all("ndcg" in line for line in lines)
    assert compared["difference"] > 0
    assert compared["p_value"] < 0.01
    assert compared["better"] + compared["worse"] + compared["equal"] == 60
    assert sum(compared["ndcg"][name] for name in ("better", "worse", "equal")) == 2
    refused = invoke(*arguments[:-2], "--limit", 2, "--compare", "none/int8", "none/int5")
    assert refused.exit_code == 1
    assert "no configuration 'none/int5' was measured; there are: levels6/int8/1" in refused.output


def test_eval_uses_rows_as_queries(loaded: str, source: Path) -> None:
    result = invoke("eval", "--db", loaded, "-c", "docs", "--truth", source, "--limit", "30")
    assert result.exit_code == 0
    assert "1,000 rows, 30 queries" in result.stdout
    assert "Note: queries are rows, each excluded from its own hits" in result.stdout
    assert "Note: 30 queries are few" in result.stdout


def test_tune_stores_oversampling(loaded: str, source: Path, query_file: Path) -> None:
    arguments = ("tune", "--db", loaded, "-c", "docs", "--queries", query_file, "--truth", source)
    tried = json.loads(invoke(*arguments, "--recall", "0.9", "--no-store", "--json").stdout)
    assert tried["oversampling"] < DEFAULT_OVERSAMPLING
    assert not tried["stored"]
    assert tried["ef_search"] == math.ceil(12.5 * tried["oversampling"])
    assert (
        f"Oversampling {tried['oversampling']:g} is stored with collection 'docs'"
        in invoke(*arguments, "--recall", "0.9").stdout
    )
    with qvec.connect(loaded) as database:
        assert database.collection("docs").oversampling == tried["oversampling"]


def test_tune_reports_unreachable_target(loaded: str, source: Path, query_file: Path) -> None:
    arguments = ("tune", "--db", loaded, "-c", "docs", "--queries", query_file, "--truth", source)
    result = invoke(*arguments, "--recall", "0.9999")
    assert result.exit_code == 3
    assert "A recall of 99.99% cannot be reached: rescoring every row by int8 finds" in result.stdout
    assert "the closest is float16 after" in result.stdout
    found = json.loads(invoke(*arguments, "--recall", "0.9999", "--json").stdout)
    assert found["oversampling"] is found["recall"] is None
    assert found["advice"]


def test_eval_embeds_text_queries_with_model(loaded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = realistic(3, seed=8)

    class FakeModel:
        def embed_queries(self, texts: list[str]) -> Floats:
            assert texts == ["one", "two", "three"]
            return drawn

    (tmp_path / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": t}) + "\n" for n, t in enumerate(["one", "two", "three"]))
    )
    arguments = ("eval", "--db", loaded, "-c", "docs", "--queries", tmp_path / "queries.jsonl", "--json")
    assert "name the model they are from: --model" in invoke(*arguments).output
    module = importlib.import_module("qvec.cli.measuring")
    monkeypatch.setattr(module, "load_embedder", lambda _: FakeModel())
    (tmp_path / "qrels").write_text("q1 0 5 1\n")
    result = invoke(*arguments, "--model", "fake", "--qrels", tmp_path / "qrels")
    assert result.exit_code == 0
    assert "ndcg" in json.loads(result.stdout.splitlines()[0])


def test_eval_rejects_truth_with_other_ids(loaded: str, tmp_path: Path, vectors: Floats) -> None:
    lines = (json.dumps({"id": f"d{n}", "vector": row.tolist()}) for n, row in enumerate(vectors[:50]))
    (tmp_path / "truth.jsonl").write_text("\n".join(lines))
    result = invoke("eval", "--db", loaded, "-c", "docs", "--truth", tmp_path / "truth.jsonl")
    assert result.exit_code == 1
    assert "collection 'docs' has bigint ids, but" in result.output
