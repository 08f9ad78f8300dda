"""Collections in Postgres: rows, unusual names, lost connections, and passwords in URLs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable

import numpy as np
import psycopg
import pytest
from conftest import realistic, unit
from numpy.typing import NDArray

import qvec
from qvec import Calibration, CollectionError, DatabaseError, Hit, InputError, QvecError, RowError
from qvec.client import Collection, Database
from qvec.store.connect_options import redact

Vectors = NDArray[np.float32]


@pytest.fixture
def docs(db: Database, calibration: Calibration, name: str) -> Collection:
    return db.create_collection(name, calibration=calibration)


@pytest.fixture
def text_id_docs(db: Database, calibration: Calibration, name: str) -> Collection:
    """A collection with text ids."""
    return db.create_collection(name, calibration=calibration, id_type="text")


# Rows


def test_upsert_replaces_and_adds_rows(docs: Collection, vectors: Vectors) -> None:
    assert docs.upsert([1, 2, 3], vectors[:3], ["a", "b", "c"]) == 3
    assert docs.upsert([3, 4], vectors[10:12], ["C", "D"], [{"new": True}, None]) == 2
    assert docs.count() == 4
    assert [hit and (hit.document, hit.metadata) for hit in docs.get([1, 2, 3, 4])] == [
        ("a", None),
        ("b", None),
        ("C", {"new": True}),
        ("D", None),
    ]
    assert docs.search(vectors[10], k=1)[0].id == 3
    assert docs.search(vectors[2], k=1)[0].score < 0.999


def test_upsert_can_skip_or_refuse_duplicates(docs: Collection, vectors: Vectors) -> None:
    docs.upsert([1, 2], vectors[:2], ["a", "b"])
    assert docs.upsert([2, 3], vectors[2:4], ["B", "C"], on_duplicate="skip") == 1
    with pytest.raises(CollectionError, match=r"\(id\)=\(3\) exists already"):
        docs.upsert([4, 3], vectors[4:6], ["d", "c"], on_duplicate="error")
    assert [hit and hit.document for hit in docs.get([1, 2, 3, 4])] == ["a", "b", "C", None]
    assert docs.upsert([4], vectors[4:5], ["d"], on_duplicate="error") == 1
    with pytest.raises(InputError, match=r"^on_duplicate is 'ignore', expected one of: replace, skip, error$"):
        docs.upsert([1], vectors[:1], on_duplicate="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(("on_duplicate", "kept"), [("replace", "last"), ("skip", "first")])
def test_duplicate_ids_in_one_upsert(docs: Collection, vectors: Vectors, on_duplicate: str, kept: str) -> None:
    ids = [7, 8, 7, 7, 9]
    documents = ["first", "x", "middle", "last", "y"]
    assert docs.upsert(ids, vectors[:5], documents, on_duplicate=on_duplicate) == 3  # type: ignore[arg-type]
    assert [hit and hit.document for hit in docs.get([7, 8, 9])] == [kept, "x", "y"]
    with pytest.raises(CollectionError, match=r"\(id\)=\(20\) exists already"):
        docs.upsert([20, 20], vectors[:2], on_duplicate="error")


def test_failed_upsert_writes_nothing(docs: Collection, vectors: Vectors) -> None:
    bad = vectors[:3].copy()
    bad[2, 0] = np.inf
    with pytest.raises(RowError, match=r"^vectors: row 2: infinity at dimension 0$"):
        docs.upsert([1, 2, 3], bad)
    assert docs.count() == 0


def test_upsert_get_and_delete_of_no_rows(docs: Collection) -> None:
    assert docs.upsert([], np.empty((0, 64), np.float32), [], []) == 0
    assert docs.get([]) == []
    assert docs.delete([]) == 0
    assert docs.count() == 0


def test_get_keeps_order_and_returns_none_for_missing_rows(docs: Collection, vectors: Vectors) -> None:
    docs.upsert([-5, 0, 2**63 - 1, -(2**63)], vectors[:4], ["a", "b", "c", "d"])
    found = docs.get([2**63 - 1, 77, -5, -5, -(2**63)])
    assert [hit and (hit.id, hit.document) for hit in found] == [
        (2**63 - 1, "c"),
        None,
        (-5, "a"),
        (-5, "a"),
        (-(2**63), "d"),
    ]
    assert found[0] is not None
    assert math.isnan(found[0].score)


def test_delete_counts_existing_rows(docs: Collection, vectors: Vectors) -> None:
    docs.upsert(range(10), vectors[:10])  # type: ignore[arg-type]
    assert docs.delete([3, 4, 4, 99]) == 2
    assert docs.delete([3]) == 0
    assert docs.count() == 8
    assert 3 not in {hit.id for hit in docs.search(vectors[3], k=10)}


def test_text_ids(text_id_docs: Collection, vectors: Vectors) -> None:
    ids = ["doc:1", "", "ü/'\"\\", "1", "zażółć 名前 🎉", " 1"]
    assert text_id_docs.upsert(ids, vectors[:6]) == 6
    assert [hit and hit.id for hit in text_id_docs.get(ids)] == ids
    assert [text_id_docs.search(vectors[row], k=1)[0].id for row in range(6)] == ids
    text_id_docs.build_index()
    assert text_id_docs.upsert(np.array(["1", "new"]), vectors[6:8]) == 2
    assert text_id_docs.delete(["", "none"]) == 1
    assert text_id_docs.count() == 6


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1.5], "id 1.5 is float, but this collection's ids are bigint"),
        (["1"], "id '1' is str, but this collection's ids are bigint"),
        ([True], "id True is bool, but this collection's ids are bigint"),
        ([None], "an id is missing"),
        ([2**63], "id 9223372036854775808 is beyond bigint"),
        ([2**70], "id 1180591620717411303424 is beyond bigint"),
        ([1, 2], "there are 2 ids for 1 vectors"),
    ],
)
def test_invalid_bigint_ids_are_refused(docs: Collection, vectors: Vectors, ids: list[int | str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        docs.upsert(ids, vectors[:1])
    assert message in str(caught.value)


def test_mixed_ids_are_refused(docs: Collection, vectors: Vectors) -> None:
    with pytest.raises(InputError, match=r"^id 'a' is str, but this collection's ids are bigint"):
        docs.upsert([1, "a"], vectors[:2])
    with pytest.raises(InputError, match=r"^id 18446744073709551615 is beyond bigint$"):
        docs.upsert(np.array([2**64 - 1], np.uint64), vectors[:1])


def test_invalid_text_ids_are_refused(text_id_docs: Collection, vectors: Vectors) -> None:
    with pytest.raises(
        InputError, match=r"^id 1 is int, but this collection's ids are text, as id_type was when it was created$"
    ):
        text_id_docs.upsert([1], vectors[:1])
    with pytest.raises(
        InputError, match=r"^id 1 is int, but this collection's ids are text, as id_type was when it was created$"
    ):
        text_id_docs.get([1])
    with pytest.raises(RowError, match="row 0: "):
        text_id_docs.upsert(["a\0b"], vectors[:1])
    with pytest.raises(InputError):
        text_id_docs.upsert(["\ud800"], vectors[:1])


def test_documents_and_metadata_round_trip(docs: Collection, vectors: Vectors) -> None:
    documents = ["", 'it\'s "quoted" \\ \n\t\r', "zażółć 名前 🎉 \u202e", None, "x" * 300_000, "\\x00 %s {} $1"]
    metadata = [
        {},
        {"a": [1, 2.5, None, True, {"b": "it's"}], "名": "🎉", "": ""},
        None,
        {"n": 2**60, "small": 1e-300, "no nul": "\\u0000"},
        {"long": "y" * 100_000},
        {"quote\"'\\": "\u2028\x7f"},
    ]
    docs.upsert(range(6), vectors[:6], documents, metadata)  # type: ignore[arg-type]
    found = docs.get(range(6))  # type: ignore[arg-type]
    assert [hit and hit.document for hit in found] == documents
    assert [hit and hit.metadata for hit in found] == metadata
    hits = {hit.id: hit for hit in docs.search(vectors[0], k=6)}
    assert [hits[row].document for row in range(6)] == documents
    assert [hits[row].metadata for row in range(6)] == metadata
    in_sql = {hit.id: hit for hit in docs.search(vectors[0], k=6, rescore_in="sql")}
    assert [(in_sql[row].document, in_sql[row].metadata) for row in range(6)] == list(
        zip(documents, metadata, strict=True)
    )
    for rescore_in in ("client", "sql"):
        bare = docs.search(vectors[0], k=6, rescore_in=rescore_in, texts=False)  # type: ignore[call-overload]
        assert {(hit.document, hit.metadata) for hit in bare} == {(None, None)}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"documents": ["fine", "nul \0 inside"]}, "row 1: "),
        ({"documents": ["fine", 5]}, "row 1: document is int, expected text or None"),
        ({"documents": ["fine", "\ud83d"]}, "row 1: document holds half of a surrogate pair"),
        ({"metadata": [None, {"a": "nul \0 inside"}]}, "row 1: "),
        ({"metadata": [None, {"nul\0": 1}]}, "row 1: "),
        ({"metadata": [None, {"a": float("nan")}]}, "row 1: metadata cannot be stored as JSON"),
        ({"metadata": [None, {"a": object()}]}, "row 1: metadata cannot be stored as JSON"),
        ({"metadata": [None, {"a": "\udc00"}]}, "row 1: metadata holds half of a surrogate pair"),
        ({"documents": ["one"]}, "there are 1 documents for 2 vectors"),
        ({"metadata": [None] * 3}, "there are 3 metadata for 2 vectors"),
    ],
)
def test_error_for_unstorable_text_names_the_row(
    docs: Collection, vectors: Vectors, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        docs.upsert([1, 2], vectors[:2], **columns)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert docs.count() == 0


@pytest.mark.parametrize(("rescore", "dtype"), [("float16", np.float16), ("float32", np.float32)])
def test_stored_floats_are_normalized_vectors(
    db: Database, calibration: Calibration, vectors: Vectors, name: str, rescore: str, dtype: type
) -> None:
    docs = db.create_collection(name, calibration=calibration, rescore=rescore)  # type: ignore[arg-type]
    docs.upsert([0], vectors[:1])
    with db.store.connection() as connection:
        row = connection.execute(f"SELECT embedding::text FROM {name}").fetchone()
    assert row
    expected = unit(vectors[:1])[0].astype(dtype).astype(np.float32)
    np.testing.assert_allclose(np.array(json.loads(row[0])), expected, rtol=1e-5)


def test_error_for_float16_overflow_names_the_row(db: Database, name: str) -> None:
    vectors = realistic(10, 8)
    docs = db.create_collection(name, calibration=Calibration.fit(vectors, metric="ip"), rescore="float16")
    vectors[4, 2] = 70_000
    with pytest.raises(RowError, match=r"^row 4: "):
        docs.upsert(np.arange(10), vectors)


# Collections


@pytest.mark.parametrize(
    "unusual",
    [
        "with space",
        'quo"ted',
        "it's",
        "ÜNÏ ćode 名",
        "{} $1 :name ?",
        "a.b",
        "x" * 63,
        "ä" * 31,
        "select",
        'x"; DROP SCHEMA qvec CASCADE; --',
        "x'); DELETE FROM qvec.collection; --",
        "pg_class",
        "collection",
        "-n",
        "back\\slash",
    ],
)
def test_collections_with_unusual_names(url: str, calibration: Calibration, vectors: Vectors, unusual: str) -> None:
    with qvec.connect(url) as db:
        keep = db.create_collection("keep", calibration=calibration)
        keep.upsert([1], vectors[:1])
        docs = db.create_collection(unusual, calibration=calibration)
        docs.upsert(range(100), vectors[:100])  # type: ignore[arg-type]
        docs.build_index()
        assert docs.has_index()
        assert not keep.has_index()
        assert (docs.stored.table.schema, docs.stored.table.name) == ("public", unusual)
        again = db.collection(unusual)
        assert again.search(vectors[5], k=1)[0].id == 5
        assert again.count() == 100
        assert again.has_index()
        assert {found.name for found in db.collections()} == {"keep", unusual}
        db.drop_collection(unusual)
        assert [found.name for found in db.collections()] == ["keep"]
        assert keep.count() == 1


def test_long_names_with_the_same_prefix_have_separate_indexes(
    db: Database, calibration: Calibration, vectors: Vectors
) -> None:
    one, other = (db.create_collection("n" * 60 + end, calibration=calibration) for end in ("aaa", "bbb"))
    for docs in (one, other):
        docs.upsert(range(50), vectors[:50])  # type: ignore[arg-type]
    one.build_index()
    assert (one.has_index(), other.has_index()) == (True, False)
    other.build_index()
    assert (one.has_index(), other.has_index()) == (True, True)
    assert len(one.stored.table.index.encode()) <= 63


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "has 0 bytes, expected 1 to 63"),
        ("x" * 64, "has 64 bytes, expected 1 to 63"),
        ("ä" * 32, "has 64 bytes, expected 1 to 63"),
        ("nul\0", "holds % or a character that cannot be printed"),
        ("\ud800", "holds % or a character that cannot be printed"),
        ("line\nbreak", "holds % or a character that cannot be printed"),
        ("50%", "holds % or a character that cannot be printed"),
    ],
)
def test_invalid_names_are_refused(db: Database, calibration: Calibration, bad: str, message: str) -> None:
    with pytest.raises(CollectionError) as caught:
        db.create_collection(bad, calibration=calibration)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rescore": "int2"}, "rescore is 'int2', expected one of: int10, int8, int4, binary, float16, float32"),
        (
            {"prefilter": "none"},
            "prefilter is 'none', expected one of: ternary, binary, levels4, levels5, levels6, levels8, learned",
        ),
        ({"id_type": "uuid"}, "id_type is 'uuid', expected one of: bigint, text"),
        ({"oversampling": 0.5}, "oversampling is 0.5, expected at least 1"),
        ({"oversampling": float("nan")}, "oversampling is nan, expected at least 1"),
    ],
)
def test_invalid_settings_are_refused(
    db: Database, calibration: Calibration, name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        db.create_collection(name, calibration=calibration, **options)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert not db.has_collection(name)


def test_settings_are_stored(db: Database, calibration: Calibration, name: str) -> None:
    db.create_collection(
        name, calibration=calibration, id_type="text", rescore="int4", prefilter="binary", oversampling=2.5, model="m"
    )
    docs = db.collection(name)
    layout = docs.stored.table.layout
    assert (layout.id_type, layout.rescore, layout.prefilter) == ("text", "int4", "binary")
    assert (docs.oversampling, docs.model, docs.calibration) == (2.5, "m", calibration)
    assert repr(docs) == (
        f"Collection({name!r}, dimensions=64, rescore='int4', prefilter='binary', calibration={calibration.id!r})"
    )


def test_existing_and_missing_names_are_errors(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        assert db.collections() == []
        with pytest.raises(CollectionError, match=r"^no collection 'b' in .*; there are: none$"):
            db.collection("b")
        db.create_collection("a", calibration=calibration)
        with pytest.raises(CollectionError, match=r"^collection 'a' exists already$"):
            db.create_collection("a", calibration=calibration)
        with pytest.raises(CollectionError, match=r"^no collection 'b' in .*; there are: a$"):
            db.drop_collection("b")
        with db.store.connection() as connection:
            connection.execute("CREATE TABLE b ()")
        with pytest.raises(CollectionError, match=r"^table public\.b exists and is not a qvec collection"):
            db.create_collection("b", calibration=calibration)


def test_dropping_the_last_collection_deletes_its_calibration(url: str, calibration: Calibration) -> None:
    def stored_calibrations(db: Database) -> list[tuple[str, bytes]]:
        with db.store.connection() as connection:
            return connection.execute("SELECT id, content FROM qvec.calibration").fetchall()

    with qvec.connect(url) as db:
        for name in ("a", "b"):
            db.create_collection(name, calibration=calibration)
        assert stored_calibrations(db) == [(calibration.id, calibration.to_bytes())]
        db.drop_collection("a")
        assert len(stored_calibrations(db)) == 1
        db.drop_collection("b")
        assert stored_calibrations(db) == []
        with db.store.connection() as connection:
            assert connection.execute("SELECT to_regclass('a'), to_regclass('b')").fetchone() == (None, None)


def test_damaged_calibration_is_refused(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        db.create_collection("a", calibration=calibration)
        with db.store.connection() as connection:
            connection.execute("ALTER TABLE qvec.calibration DISABLE TRIGGER USER")
            connection.execute("UPDATE qvec.calibration SET content = set_byte(content, length(content) - 1, 99)")
    with qvec.connect(url) as db, pytest.raises(QvecError, match="calibration of collection 'a' is damaged"):
        db.collection("a")


def test_table_dropped_in_sql_is_a_one_line_error(docs: Collection, db: Database) -> None:
    with db.store.connection() as connection:
        connection.execute(f"DROP TABLE {docs.name}")
    with pytest.raises(DatabaseError, match=f"^cannot read collection '{docs.name}': relation .* does not exist$"):
        docs.count()


# Connections


def terminate_connections(url: str, admin: psycopg.Connection) -> int:
    with psycopg.connect(url) as connection:
        database = connection.info.dbname
    terminated = admin.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [database]
    ).fetchall()
    return len(terminated)


def open_pool_connections(db: Database, connections: int) -> None:
    """Open this many connections of the pool and leave them idle."""
    pool = db.store._connections._pool.get()  # type: ignore[attr-defined]
    taken = [pool.getconn() for _ in range(connections)]
    for connection in taken:
        pool.putconn(connection)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("connections", [1, 5])
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda _db, docs, v: docs.search(v[1], k=1)[0].id, 1),
        (lambda _db, docs, _: docs.count(), 20),
        (lambda _db, docs, _: docs.get([3])[0].id, 3),
        (lambda _db, docs, v: docs.upsert([3], v[3:4]), 1),
        (lambda _db, docs, _: docs.delete([99]), 0),
        (lambda db, _docs, _: db.collection("docs").name, "docs"),
        (lambda db, docs, _: db.create_collection("new", calibration=docs.calibration).name, "new"),
    ],
    ids=["search", "count", "get", "upsert", "delete", "collection", "create"],
)
def test_calls_survive_terminated_connections(
    url: str,
    admin: psycopg.Connection,
    calibration: Calibration,
    vectors: Vectors,
    call: Callable[[Database, Collection, Vectors], object],
    expected: object,
    connections: int,
) -> None:
    with qvec.connect(url) as db:
        docs = db.create_collection("docs", calibration=calibration)
        docs.upsert(range(20), vectors[:20])  # type: ignore[arg-type]
        open_pool_connections(db, connections)
        assert terminate_connections(url, admin) >= connections
        assert call(db, docs, vectors) == expected


def test_closed_database_reopens_on_use(url: str, calibration: Calibration) -> None:
    with qvec.connect(url) as db:
        docs = db.create_collection("docs", calibration=calibration)
    assert docs.count() == 0
    db.close()


# URLs and secrets

URLS_WITH_PASSWORDS = [
    "postgresql://user:{}@localhost:1/db",
    "postgresql://localhost:1/db?user=u&password={}",
    "postgresql://localhost:1/db?user=u&sslpassword={}&application_name=x",
    "postgresql://localhost:1/db?service=none&password={}",
    "postgresql://localhost:1/db?user=u&oauth_client_secret={}",
    "postgresql://user:x%zz{}@localhost:1/db",
    "postgresql://user:{}@{}@localhost:1/db",
    "postgresql://user:x/{}@localhost:1/db",
    "postgresql://user:5/{}@localhost:1/db",
    "postgresql://user:x?{}@localhost:1/db",
    "postgresql://user:x#{}@localhost:1/db",
    "postgresql://user:[{}@localhost:1/db",
    "postgresql+psycopg://user:{}@localhost:1/db",
    "mysql://user:{}@localhost/db",
    "qdrant://:{}@localhost:6334",
]


@pytest.mark.parametrize("template", URLS_WITH_PASSWORDS)
def test_error_messages_hide_passwords(template: str) -> None:
    with pytest.raises(QvecError) as caught:
        qvec.connect(template.format("hunter2", "hunter2"))
    assert "hunter2" not in str(caught.value)
    assert "localhost" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("postgresql://me:secret@host:5433/db", "postgresql://me@host:5433/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://host/db?sslmode=require", "postgresql://host/db?sslmode=require"),
        ("postgresql://postgres@/postgres?host=/tmp/x", "postgresql://postgres@/postgres?host=/tmp/x"),
        ("postgresql://a:p@h1:1,h2:2/db?password=p&options=-csearch_path%3Dx", None),
    ],
)
def test_redacted_urls_keep_all_but_passwords(url: str, redacted: str | None) -> None:
    assert redact(url) == (redacted or "postgresql://a@h1:1,h2:2/db?options=-csearch_path%3Dx")


@pytest.mark.parametrize("url", ["postgres:", "sqlite:x", "", "postgres", "qdrant:", "qdrant"])
def test_unsupported_urls_are_refused(url: str) -> None:
    with pytest.raises(
        InputError, match=r"is not a database URL; expected postgres:DIR, postgresql://USER@HOST/DATABASE"
    ):
        qvec.connect(url)


def test_unreachable_server_and_missing_directory_are_errors(tmp_path: os.PathLike[str]) -> None:
    with pytest.raises(DatabaseError, match=r"^cannot connect to postgresql://localhost:1/db: .*refused"):
        qvec.connect("postgresql://localhost:1/db")
    with pytest.raises(DatabaseError, match=r"^there is no database in .*; load one: qvec ingest"):
        qvec.connect(f"postgres:{tmp_path}", create=False)


def test_hits_compare_by_value() -> None:
    assert Hit(1, 0.5) == Hit(id=1, score=0.5, document=None, metadata=None)
