"""Learned bits as a prefilter: storage, equal bits from Python and SQL, and searches by their index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
import specification
from click.testing import CliRunner
from conftest import low_rank

from qvec import Calibration, connect
from qvec.cli import main
from qvec.client import Database
from qvec.errors import InputError
from qvec.evaluation.scan import scan_codes
from qvec.evaluation.search_config import scan_prefilters
from qvec.postgres.layout import TableLayout
from qvec.training.learned_bits import AdaptOptions, adapt

DIMENSIONS, BITS = 20, 48


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    rows = low_rank(800, DIMENSIONS)
    return adapt(rows, Calibration.fit(rows), AdaptOptions(BITS, "itq")).calibration


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with connect(url) as opened:
        opened.install()
        yield opened


def expected_bits(rows: np.ndarray, calibration: Calibration) -> list[str]:
    codes = specification.codes(rows, calibration.threshold, calibration.radius, cosine=True)
    found = specification.learned(codes, calibration.projection, calibration.bias)
    return ["".join(map(str, line)) for line in np.unpackbits(found, axis=1)]


@pytest.mark.parametrize(
    ("rescore", "column"),
    [("int10", "learned"), ("int8", "learned"), ("int4", "learned"), ("float16", "codes"), ("float32", "codes")],
)
def test_stored_bits_equal_specification(
    database: Database, calibration: Calibration, rescore: str, column: str
) -> None:
    rows = low_rank(300, DIMENSIONS)
    docs = database.create_collection("docs", calibration=calibration, rescore=rescore)
    assert docs.settings["prefilter"] == "learned"
    docs.upsert(list(range(300)), rows)
    with database.store.connection() as connection:
        found = connection.execute(f"SELECT {column}::text FROM docs ORDER BY id").fetchall()
        from_sql = connection.execute(
            "SELECT qvec.learned(v, %s)::text FROM unnest(%s::vector[]) WITH ORDINALITY AS u (v, i) ORDER BY i",
            [calibration.id, [str(row.tolist()) for row in rows]],
        ).fetchall()
    wanted = expected_bits(rows, calibration)
    assert [row[0] for row in found] == wanted
    assert [row[0] for row in from_sql] == wanted


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "float16"])
def test_search_uses_index(database: Database, calibration: Calibration, rescore: str) -> None:
    rows, queries = low_rank(3000, DIMENSIONS), low_rank(20, DIMENSIONS, seed=5)
    docs = database.create_collection("docs", calibration=calibration, rescore=rescore)
    docs.upsert(list(range(3000)), rows)
    docs.build_index()
    explained = docs.explain(queries[0])
    assert any("docs_qvec_idx" in line for line in explained.plan)
    exact = docs.search(queries, exact=True)
    found = docs.search(queries, oversampling=10)
    shared = [len({h.id for h in a} & {h.id for h in b}) for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) > 8.5
    scores = {hit.id: hit.score for line in exact[:1] for hit in line}
    assert all(hit.score == pytest.approx(scores[hit.id]) for hit in found[0] if hit.id in scores)
    in_sql = docs.search(queries[0], oversampling=10, rescore_in="sql")
    assert {hit.id for hit in in_sql} == {hit.id for hit in found[0]}


def test_search_without_rescoring_ranks_by_learned_bits(database: Database, calibration: Calibration) -> None:
    rows = low_rank(200, DIMENSIONS)
    docs = database.create_collection("docs", calibration=calibration)
    docs.upsert(list(range(200)), rows)
    hits = docs.search(rows[7], k=3, rescore=False)
    assert (hits[0].id, hits[0].score) == (7, 1)
    own, other = (expected_bits(rows[[id]], calibration)[0] for id in (7, hits[1].id))
    differing = sum(a != b for a, b in zip(own, other, strict=True))
    assert hits[1].score == pytest.approx(1 - 2 * differing / BITS)


@pytest.mark.parametrize("rescore", ["int10", "int8", "int4"])
def test_insert_and_search_in_sql(database: Database, calibration: Calibration, rescore: str) -> None:
    rows = low_rank(60, DIMENSIONS)
    with database.store.connection() as connection:
        connection.execute("SELECT qvec.import_calibration(%s)", [calibration.to_bytes()])
        connection.execute("SELECT qvec.create_collection('made', %s, %s)", [calibration.id, rescore])
        for id, row in enumerate(rows):
            connection.execute("INSERT INTO made (id, embedding_in) VALUES (%s, %s)", [id, str(row.tolist())])
        connection.execute("SELECT qvec.build_index('made')")
        found = connection.execute("SELECT learned::text FROM made ORDER BY id").fetchall()
        hits = connection.execute(
            "SELECT id FROM qvec.search('made', %s::vector, 5)", [str(rows[3].tolist())]
        ).fetchall()
    assert [row[0] for row in found] == expected_bits(rows, calibration)
    made = database.collection("made")
    assert made.settings["prefilter"] == "learned"
    assert [int(row[0]) for row in hits] == [hit.id for hit in made.search(rows[3], 5)]
    assert hits[0][0] == "3"


def test_python_and_sql_create_same_table(database: Database, calibration: Calibration) -> None:
    database.create_collection("python", calibration=calibration)
    with database.store.connection() as connection:
        connection.execute("SELECT qvec.create_collection('made', %s)", [calibration.id])
        columns = [
            connection.execute(
                "SELECT attname, format_type(atttypid, atttypmod), attstorage, attnotnull FROM pg_attribute"
                " WHERE attrelid = %s::regclass AND attnum > 0 AND attname <> 'embedding_in'",
                [name],
            ).fetchall()
            for name in ("python", "made")
        ]
    assert columns[0] == columns[1]
    assert ("learned", f"bit({BITS})", "p", True) in columns[0]


def test_other_prefilters_work_with_learned_calibration(database: Database, calibration: Calibration) -> None:
    docs = database.create_collection("docs", calibration=calibration, prefilter="ternary")
    docs.upsert([1], low_rank(1, DIMENSIONS))
    assert docs.search(low_rank(1, DIMENSIONS)[0], 1)[0].id == 1
    binary = database.create_collection("signs", calibration=calibration, rescore="binary")
    assert binary.settings["prefilter"] == "binary"


def test_learned_prefilter_requires_learned_bits(database: Database) -> None:
    plain = Calibration.fit(low_rank(100, DIMENSIONS))
    with pytest.raises(InputError, match="'learned', but the calibration has no learned bits: expected another"):
        database.create_collection("docs", calibration=plain, prefilter="learned")
    with pytest.raises(InputError, match="'learned', but rescore 'binary' keeps one bit"):
        TableLayout.of(DIMENSIONS, "bigint", "binary", "learned", BITS)


def test_attached_table_uses_levels(database: Database, calibration: Calibration) -> None:
    with database.store.connection() as connection:
        connection.execute("CREATE TABLE own (id bigint PRIMARY KEY, v vector)")
        connection.execute("SELECT qvec.import_calibration(%s)", [calibration.to_bytes()])
        connection.execute("SELECT qvec.attach('own', 'v', %s, 'ours')", [calibration.id])
        found = connection.execute("SELECT prefilter FROM qvec.collection").fetchall()
        connection.execute("SELECT qvec.detach('ours')")
        attach = "SELECT qvec.attach('own', 'v', %s, prefilter => 'learned')"
        refused = "prefilter is 'learned', which attached tables do not have: expected another, such as levels6"
        with pytest.raises(psycopg.Error, match=refused):
            connection.execute(attach, [calibration.id])
    assert found == [("levels6",)]


def test_sql_rejects_damaged_projection(database: Database, calibration: Calibration) -> None:
    content = bytearray(calibration.to_bytes())
    content[-1] ^= 1
    with database.store.connection() as connection, pytest.raises(psycopg.DataError, match="does not hash to its id"):
        connection.execute("SELECT qvec.import_calibration(%s)", [bytes(content)])


@pytest.mark.slow
def test_adapt_ingest_and_eval_commands(url: str, tmp_path: Path) -> None:
    source, output = tmp_path / "v.npy", tmp_path / "cal.safetensors"
    np.save(source, low_rank(900, DIMENSIONS))
    run = CliRunner()
    assert run.invoke(main, ["adapt", str(source), "-o", str(output), "--method", "itq"]).exit_code == 0
    loaded = run.invoke(main, ["ingest", str(source), "-c", "docs", "--db", url, "--calibration", str(output), "-q"])
    assert loaded.exit_code == 0, loaded.output
    info = json.loads(run.invoke(main, ["info", "docs", "--db", url, "--json"]).stdout)
    assert (info["prefilter"], info["calibration"]) == ("learned", Calibration.load(output).id)
    measured = run.invoke(main, ["eval", "-c", "docs", "--db", url, "--json", "-q"])
    assert measured.exit_code == 0, measured.output
    found = {
        (line["prefilter"], line["oversampling"]): line
        for line in map(json.loads, measured.stdout.splitlines())
        if line["rescore"] == "int8" and not line["exact"]
    }
    assert found["learned", 16]["recall"] > 0.95
    assert found["learned", 4]["bytes_per_vector"] == 8 * 3 + 2 * 6


@pytest.mark.parametrize(
    ("rescore", "scanned"),
    [
        ("int10", {"learned", "levels6", "binary"}),
        ("int8", {"learned", "levels6", "binary"}),
        ("int4", {"levels6", "binary"}),
    ],
)
def test_scan_computes_learned_bits_if_all_planes_are_stored(
    database: Database, calibration: Calibration, rescore: str, scanned: set[str]
) -> None:
    rows, queries = low_rank(300, DIMENSIONS), calibration.prepared(low_rank(4, DIMENSIONS, seed=5))
    docs = database.create_collection("docs", calibration=calibration, rescore=rescore)
    docs.upsert(list(range(300)), rows)
    assert set(scan_prefilters(docs)) == scanned
    found = scan_codes(docs.iter_codes(100), queries, calibration, scan_prefilters(docs), [rescore], 40)
    if "learned" in scanned:
        scores = [[hit.score for hit in line] for line in docs.search(queries, 5, rescore=False)]
        assert 1 - found["learned"].distances[:, :5] * (2 / BITS) == pytest.approx(np.array(scores))
