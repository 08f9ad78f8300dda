"""An application's own table as a collection: add codes, backfill in batches, keep current, search, detach."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import unit
from numpy.typing import NDArray
from sql_helpers import fetch_value, import_calibration, install_schema, pack_bits, vector_text

import qvec
from qvec import Calibration, CollectionError
from qvec.codes import PLANES

Connection = psycopg.Connection[Any]
Vectors = NDArray[np.float32]

ROWS = 600


@pytest.fixture
def sql(url: str, vectors: Vectors) -> Iterator[Connection]:
    """A database with a table of articles whose names need quotes."""
    with install_schema(url) as connection:
        connection.execute('CREATE SCHEMA "News Room"')
        create_articles(connection, '"News Room"."The Articles"', "vector", vectors[:ROWS])
        yield connection


def create_articles(sql: Connection, table: str, kind: str, vectors: Vectors) -> None:
    sql.execute(
        f'CREATE TABLE {table} ("Key" integer PRIMARY KEY, "the vector" {kind}, body text, tags jsonb, q int)'.encode()
    )
    with sql.cursor().copy(f'COPY {table} ("Key", "the vector", body, tags) FROM STDIN'.encode()) as copy:
        for row, vector in enumerate(vectors):
            copy.write_row((row, vector_text(vector), f"article {row}", f'{{"n": {row}}}'))


def attach(sql: Connection, calibration: str, table: str = '"News Room"."The Articles"', **options: Any) -> None:
    """Attach a table as the collection `articles`."""
    arguments = "".join(f", {name} => %({name})s" for name in options)
    sql.execute(
        f"SELECT qvec.attach(%(t)s, 'the vector', %(c)s, 'articles', document_column => 'body',"
        f" metadata_column => 'tags'{arguments})".encode(),
        {"t": table, "c": calibration, **options},
    )


def fetch_codes(sql: Connection, table: str = '"News Room"."The Articles"') -> dict[int, list[int] | None]:
    """Return the bytes of each row's codes by key, None where they are NULL."""
    rows = sql.execute(f'SELECT "Key", codes::text FROM {table}'.encode()).fetchall()
    return {key: None if bits is None else pack_bits(bits).tolist() for key, bits in rows}


def backfill_and_index(sql: Connection) -> None:
    sql.execute("CALL qvec.backfill('articles', 3)")
    sql.execute(fetch_value(sql, "SELECT qvec.index_statement('articles')"))


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["vector", "vector(64)", "halfvec(64)"])
@pytest.mark.parametrize("rescore", ["int10", "int8", "int4", "binary", "float32"])
def test_backfilled_codes_equal_python(
    sql: Connection, vectors: Vectors, calibration: Calibration, kind: str, rescore: str
) -> None:
    given = vectors[:ROWS].astype(np.float16) if "half" in kind else vectors[:ROWS]
    create_articles(sql, "public.other", kind, given)
    attach(sql, import_calibration(sql, calibration), "other", rescore=rescore)
    assert set(fetch_codes(sql, "other").values()) == {None}
    backfill_and_index(sql)
    planes = PLANES.get(rescore)
    quantized = qvec.quantize(given, calibration, planes or 4)
    expected = quantized if planes else qvec.levels(quantized, calibration, 6)
    assert fetch_codes(sql, "other") == dict(enumerate(expected.tolist()))
    progress = "SELECT blocks_done = blocks_total, percent, rows_done, rows_skipped, finished FROM qvec.backfills"
    assert sql.execute(progress.encode()).fetchone() == (True, 100, ROWS, 0, True)
    found = sql.execute(
        "SELECT id, document, metadata FROM qvec.search('articles', %s::vector, 3, filter => '{\"n\": {\"$gte\": 5}}')",
        [vector_text(vectors[7])],
    ).fetchall()
    assert found[0] == ("7", "article 7", {"n": 7})


@pytest.mark.sampled(5)
@pytest.mark.parametrize("metric", ["cosine", "ip"])
@pytest.mark.parametrize("rescore", ["int10", "int8", "float32"])
def test_scores_estimate_the_metric_for_vectors_of_any_length(
    sql: Connection, vectors: Vectors, metric: Any, rescore: str
) -> None:
    attach(sql, import_calibration(sql, Calibration.fit(vectors, metric=metric)), rescore=rescore)
    backfill_and_index(sql)
    query = vectors[800]
    exact = unit(vectors[:ROWS]) @ unit(query[None])[0] if metric == "cosine" else vectors[:ROWS] @ query
    found = sql.execute("SELECT id, score FROM qvec.search('articles', %s::vector)", [vector_text(query)]).fetchall()
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    for id, score in found:
        assert score == pytest.approx(exact[int(id)], rel=1e-5 if rescore == "float32" else 0.03)


def test_triggers_keep_codes_current(sql: Connection, vectors: Vectors, calibration: Calibration) -> None:
    attach(sql, import_calibration(sql, calibration))
    backfill_and_index(sql)
    table = '"News Room"."The Articles"'
    sql.execute(
        f'INSERT INTO {table} ("Key", "the vector") VALUES (9000, %s::vector), (9001, NULL)'.encode(),
        [vector_text(vectors[900])],
    )
    sql.execute(f'UPDATE {table} SET "the vector" = %s::vector WHERE "Key" = 1'.encode(), [vector_text(vectors[901])])
    sql.execute(f"UPDATE {table} SET body = 'changed' WHERE \"Key\" = 2".encode())
    sql.execute(f'UPDATE {table} SET codes = NULL WHERE "Key" = 3'.encode())
    sql.execute(f'UPDATE {table} SET "the vector" = NULL WHERE "Key" = 4'.encode())
    found = fetch_codes(sql)
    expected = qvec.quantize(vectors, calibration).tolist()
    assert found[9000] == expected[900]
    assert found[1] == expected[901]
    assert [found[n] for n in (2, 3, 5)] == [expected[n] for n in (2, 3, 5)]
    assert found[9001] is found[4] is None
    for query, key in ((900, "9000"), (901, "1")):
        assert (
            fetch_value(sql, "SELECT id FROM qvec.search('articles', %s::vector, 1)", vector_text(vectors[query]))
            == key
        )
    all_hits = sql.execute(
        "SELECT id FROM qvec.search('articles', %s::vector, 1000)", [vector_text(vectors[0])]
    ).fetchall()
    assert len(all_hits) == ROWS  # 601 rows with a vector, minus the one set to NULL
    with pytest.raises(psycopg.Error, match="the vector has 2 dimensions, expected 64"):
        sql.execute(f"""INSERT INTO {table} ("Key", "the vector") VALUES (1e4, '[1,2]')""".encode())
    with pytest.raises(psycopg.Error, match="zero vector"):
        sql.execute(f'UPDATE {table} SET "the vector" = %s::vector'.encode(), [vector_text(0 * vectors[0])])


def test_backfill_resumes_after_an_interruption(
    sql: Connection, url: str, vectors: Vectors, calibration: Calibration
) -> None:
    attach(sql, import_calibration(sql, calibration))
    for _ in range(4):
        assert fetch_value(sql, "SELECT qvec._backfill_step('articles', 3)") is True
    done, blocks = sql.execute("SELECT rows_done, blocks_done FROM qvec.backfills").fetchone()  # type: ignore[misc]
    assert 0 < done < ROWS
    assert blocks == 12
    with psycopg.connect(url) as other:  # a step that is rolled back has no effect
        assert fetch_value(other, "SELECT qvec._backfill_step('articles', 3)") is True
        other.rollback()
    assert sum(row is not None for row in fetch_codes(sql).values()) == done
    sql.execute("CALL qvec.backfill('articles', 3)")
    assert fetch_codes(sql) == dict(enumerate(qvec.quantize(vectors[:ROWS], calibration).tolist()))
    sql.execute("CALL qvec.backfill('articles')")


def test_backfill_commits_batches_without_blocking_writers(
    sql: Connection, url: str, vectors: Vectors, calibration: Calibration
) -> None:
    attach(sql, import_calibration(sql, calibration))
    table = '"News Room"."The Articles"'
    with psycopg.connect(url) as holder:
        holder.execute(f'SELECT FROM {table} WHERE "Key" = {ROWS - 1} FOR UPDATE'.encode())  # blocks the backfill
        backfill = threading.Thread(target=call_backfill, args=(url,))
        backfill.start()
        while not fetch_value(sql, "SELECT coalesce(max(rows_done), 0) > 100 FROM qvec.backfills"):
            assert backfill.is_alive()
        assert sum(row is not None for row in fetch_codes(sql).values()) > 100  # committed before the backfill ends
        with psycopg.connect(url, options="-c lock_timeout=2s") as writer:
            writer.execute(f"UPDATE {table} SET body = 'meanwhile' WHERE \"Key\" = 0".encode())
            writer.execute(
                f'INSERT INTO {table} ("Key", "the vector") VALUES (9000, %s::vector)'.encode(),
                [vector_text(vectors[0])],
            )
        assert backfill.is_alive()
        holder.rollback()
        backfill.join(timeout=60)
    assert not backfill.is_alive()
    assert None not in fetch_codes(sql).values()


def call_backfill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CALL qvec.backfill('articles', 1)")


def test_backfill_counts_rows_that_cannot_be_quantized(
    sql: Connection, vectors: Vectors, calibration: Calibration
) -> None:
    table = '"News Room"."The Articles"'
    for key, vector in ((5000, 0 * vectors[0]), (5001, vectors[0, :5])):
        sql.execute(
            f'INSERT INTO {table} ("Key", "the vector") VALUES ({key}, %s::vector)'.encode(), [vector_text(vector)]
        )
    sql.execute(f'INSERT INTO {table} ("Key") VALUES (5002)'.encode())
    attach(sql, import_calibration(sql, calibration))
    backfill_and_index(sql)
    assert sql.execute("SELECT rows_done, rows_skipped FROM qvec.backfills").fetchone() == (ROWS, 2)
    assert {key for key, row in fetch_codes(sql).items() if row is None} == {5000, 5001, 5002}


def test_search_uses_the_index(sql: Connection, calibration: Calibration, vectors: Vectors) -> None:
    attach(sql, import_calibration(sql, calibration))
    backfill_and_index(sql)
    sql.execute("SET enable_seqscan = off")
    plan = sql.execute("SELECT * FROM qvec.explain('articles', %s::vector)", [vector_text(vectors[0])]).fetchall()
    assert any('Index Scan using "The Articles_qvec_idx"' in line for (line,) in plan), plan
    assert fetch_value(sql, "SELECT has_index AND attached FROM qvec.collections")


def test_search_with_a_matryoshka_prefix(sql: Connection, vectors: Vectors) -> None:
    calibration = Calibration.fit(vectors, dimensions=24)
    attach(sql, import_calibration(sql, calibration), rescore="float32")
    backfill_and_index(sql)
    expected = unit(vectors[:ROWS, :24]) @ unit(vectors[800:801, :24])[0]
    found = sql.execute(
        "SELECT id, score FROM qvec.search('articles', %s::vector)", [vector_text(vectors[800])]
    ).fetchall()
    for id, score in found:
        assert score == pytest.approx(expected[int(id)], abs=1e-5)


def test_detach_restores_the_table(sql: Connection, url: str, calibration: Calibration) -> None:
    def objects() -> list[tuple[Any, ...]]:
        return sql.execute(
            'SELECT attname::text FROM pg_attribute WHERE attrelid = \'"News Room"."The Articles"\'::regclass'
            " AND attnum > 0 AND NOT attisdropped"
            " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = '\"News Room\"'::regnamespace"
            " UNION ALL SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'qvec%'"
            " UNION ALL SELECT relname FROM pg_class WHERE relnamespace = '\"News Room\"'::regnamespace ORDER BY 1"
        ).fetchall()

    before = objects()
    attach(sql, import_calibration(sql, calibration))
    backfill_and_index(sql)
    assert len(objects()) == len(before) + 5
    with pytest.raises(psycopg.Error, match="collection 'articles' is an attached table; remove its codes with"):
        sql.execute("SELECT qvec.drop_collection('articles')")
    with qvec.connect(url) as db:
        assert db.has_collection("articles")
        assert db.collections() == []
        for refused in (db.collection, db.drop_collection):
            with pytest.raises(CollectionError, match="collection 'articles' is an application's table"):
                refused("articles")
    sql.execute("SELECT qvec.detach('articles')")
    assert objects() == before
    attach(sql, import_calibration(sql, calibration))
    backfill_and_index(sql)


def test_drift_of_attached_table(sql: Connection, calibration: Calibration, vectors: Vectors) -> None:
    attach(sql, import_calibration(sql, calibration))
    backfill_and_index(sql)
    rows, shift, *_ = sql.execute("SELECT * FROM qvec.drift('articles', 2000)").fetchone()  # type: ignore[misc]
    assert rows == ROWS
    assert shift == pytest.approx(calibration.drift(vectors[:ROWS]).summary()["largest_mean_shift"], rel=1e-3)


def test_uuid_text_and_bigint_ids(sql: Connection, vectors: Vectors, calibration: Calibration) -> None:
    name = import_calibration(sql, calibration)
    for kind, key in (("uuid", "6ecd8c99-4036-403d-bf84-cf8400f67836"), ("text", "a b"), ("bigint", "12")):
        sql.execute(f"CREATE TABLE keyed_{kind} (k {kind} UNIQUE, embedding vector)".encode())
        with pytest.raises(
            psycopg.Error, match=f"table keyed_{kind} has no primary key of one column; name a unique one"
        ):
            sql.execute("SELECT qvec.attach(%s, 'embedding', %s)", [f"keyed_{kind}", name])
        sql.execute("SELECT qvec.attach(%s, 'embedding', %s, id_column => 'k')", [f"keyed_{kind}", name])
        sql.execute(f"INSERT INTO keyed_{kind} VALUES (%s, %s::vector)".encode(), [key, vector_text(vectors[0])])
        found = sql.execute(
            "SELECT * FROM qvec.search(%s, %s::vector)", [f"keyed_{kind}", vector_text(vectors[0])]
        ).fetchall()
        assert (found[0][0], found[0][2:]) == (key, (None, None))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("'plain', 'none', %(id)s", "table plain has no column 'none'"),
        ("'plain', 'id', %(id)s", "column id of table plain is integer, expected vector or halfvec"),
        ("'plain', 'v', 'none'", "no calibration 'none'"),
        (
            "'plain', 'v', %(id)s, rescore => 'x'",
            "rescore is 'x', expected int10, int8, int4, binary, float16 or float32",
        ),
        ("'plain', 'v', %(id)s, metadata_column => 'id'", "column id of table plain is integer, expected jsonb"),
        ("'plain', 'v', %(id)s, document_column => 'id'", "column id of table plain is integer, expected text or"),
        ("'plain', 'v', %(id)s, codes_column => 'id'", 'column "id" of relation "plain" already exists'),
        ("'missing', 'v', %(id)s", 'relation "missing" does not exist'),
        ("NULL, 'v', %(id)s", "the table is NULL"),
        ("'taken', 'v', %(id)s, 'again'", "table taken is a collection already"),
    ],
)
def test_invalid_attach_arguments_are_errors(
    sql: Connection, calibration: Calibration, call: str, message: str
) -> None:
    name = import_calibration(sql, calibration)
    sql.execute("CREATE TABLE plain (id int PRIMARY KEY, v vector); CREATE TABLE taken (LIKE plain INCLUDING ALL)")
    sql.execute("SELECT qvec.attach('taken', 'v', %s)", [name])
    with pytest.raises(psycopg.Error) as caught:
        sql.execute(f"SELECT qvec.attach({call})".encode(), {"id": name})
    assert str(caught.value.diag.message_primary).startswith(message)
