"""A hot standby: every read works there as on the primary, and every write ends in one error that says what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from command_line import invoke, succeed
from conftest import realistic
from numpy.typing import NDArray
from patience import wait_until
from pooler_helpers import PROGRAM, pooled
from sql_helpers import vector_text
from standby_servers import PostgresServer, primary_server

import qvec
from qvec import Calibration, CollectionError, DatabaseError
from qvec.client.bulk import open_loader, open_version_sync
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.metadata_index import MetadataIndex
from qvec.postgres import statements
from qvec.recalibration import Refit, drop_old, recalibrate, roll_back

Vectors = NDArray[np.float32]
ROWS = 400
VECTORS = realistic(ROWS)
QUERIES = realistic(4, seed=1)
CALIBRATION = Calibration.fit(VECTORS)
IS_STANDBY = (
    r"^cannot write to postgresql://postgres@127\.0\.0\.1:\d+/postgres: the server 127\.0\.0\.1:\d+ is a standby; "
    r"connect to the primary, for example by a URL with all servers \(host1,host2\) and "
    r"target_session_attrs=read-write$"
)


@pytest.fixture(scope="module")
def primary() -> Iterator[PostgresServer]:
    """A server with two collections that no test changes: docs of codes, with an index, and floats without."""
    with primary_server() as server:
        with qvec.connect(server.url()) as db:
            for name, rescore in (("docs", "int8"), ("floats", "float16")):
                fill(db, name, rescore)
        yield server


@pytest.fixture(scope="module")
def standby(primary: PostgresServer) -> PostgresServer:
    """A standby of it, which cancels at once what holds back replication; both stop together."""
    server = primary.add_standby("standby", max_standby_streaming_delay="10ms")
    server.start()
    server.wait_for_replay(primary)
    return server


@pytest.fixture(autouse=True)
def no_write_was_sent(request: pytest.FixtureRequest, standby: PostgresServer) -> Iterator[None]:
    """Fail where the standby refused a statement, except one through a pooler."""
    log = standby.folder / "log"
    begin = log.stat().st_size
    yield
    if "pooled" not in request.node.name:
        refused = [line for line in log.read_text()[begin:].splitlines() if "read-only" in line or "recovery" in line]
        assert [line for line in refused if "ERROR" in line and "conflict with recovery" not in line] == []


def fill(db: Any, name: str, rescore: str) -> None:
    docs = db.create_collection(name, calibration=CALIBRATION, rescore=rescore)
    texts = [f"note {row} of {row % 10}" for row in range(ROWS)]
    docs.upsert(np.arange(ROWS), VECTORS, texts, [{"n": row % 10} for row in range(ROWS)])
    docs.index_texts()
    if rescore == "int8":
        docs.build_index()


# Reads

SEARCHES: dict[str, Callable[[Any, Vectors], Any]] = {
    "plain": lambda docs, query: docs.search(query, 5),
    "in SQL": lambda docs, query: docs.search(query, 5, rescore_in="sql"),
    "without rescoring": lambda docs, query: docs.search(query, 5, rescore=False),
    "filtered": lambda docs, query: docs.search(query, 5, filter={"n": 3}),
    "exact": lambda docs, query: docs.search(query, 5, exact=True),
    "several": lambda docs, query: docs.search(np.stack([query, -query]), 5),
    "text": lambda docs, _: docs.search_text("note 7", 5),
    "hybrid": lambda docs, query: docs.search_hybrid("note 7", 5, vector=query),
    "diverse": lambda docs, query: docs.search_diverse(query, 5),
    "groups": lambda docs, query: docs.search_groups(query, "n", 3),
    "page": lambda docs, query: docs.search_page(query, 5),
    "scroll": lambda docs, _: repr(docs.scroll(filter={"n": 3}, limit=5)),
    "get": lambda docs, _: repr(docs.get([3, 5000])),
    "vectors": lambda docs, _: docs.vectors([3]).tolist(),
    "recall": lambda docs, query: docs.recall(query).recall,
    "count": lambda docs, _: docs.count(),
    "has_index": lambda docs, _: docs.has_index(),
    "info": lambda docs, _: docs.info(),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [("docs", {}), ("floats", {"read_only": True, "statement_timeout": 30})],
    ids=["docs", "floats"],
)
def test_reads_find_what_they_find_on_the_primary(
    primary: PostgresServer, standby: PostgresServer, name: str, options: dict[str, Any]
) -> None:
    with qvec.connect(primary.url()) as db, qvec.connect(standby.url(), **options) as copy:
        docs, same = db.collection(name), copy.collection(name)
        for kind, search in SEARCHES.items():
            assert [search(same, query) for query in QUERIES] == [search(docs, query) for query in QUERIES], kind
        assert same.explain(QUERIES[0], 5).hits == docs.search(QUERIES[0], 5)
        assert [len(part.ids) for part in same.iter_rows(0, 300)] == [300, 100]
        assert [len(ids) for ids, *_ in same.iter_codes(300)] == [300, 100]
        assert [each.name for each in copy.collections()] == ["docs", "floats"]
        assert copy.has_collection(name)


def test_asynchronous_reads(primary: PostgresServer, standby: PostgresServer) -> None:
    async def read(server: PostgresServer) -> list[Any]:
        async with await qvec.connect_async(server.url()) as db:
            docs = await db.collection("docs")
            return [await search(docs, QUERIES[0]) for kind, search in SEARCHES.items() if kind not in AWAITED_FIRST]

    assert asyncio.run(read(standby)) == asyncio.run(read(primary))


AWAITED_FIRST = ("scroll", "get", "vectors", "recall")
"""Those of SEARCHES that use what a method returns."""


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT id, score FROM qvec.search('docs', %(query)s::vector, 5)",
        "SELECT id, score FROM qvec.search('floats', %(query)s::vector, 5, filter => '{\"n\": 3}')",
        "SELECT query, id FROM qvec.search('docs', ARRAY[%(query)s::vector], 5)",
        "SELECT count(*) > 0 FROM qvec.explain('docs', %(query)s::vector, 5)",
        "SELECT rows FROM qvec.drift('floats')",
        "SELECT name, calibration FROM qvec.collections ORDER BY name",
    ],
)
def test_functions_of_the_schema(primary: PostgresServer, standby: PostgresServer, statement: str) -> None:
    found = []
    for server in (primary, standby):
        with psycopg.connect(server.url(), autocommit=True) as connection:
            values = {"query": vector_text(QUERIES[0])}
            found.append(connection.execute(statement.encode(), values).fetchall())
    assert found[0] == found[1] != []


@pytest.mark.parametrize(
    "command",
    [
        ["collections"],
        ["info", "docs"],
        ["search", "--vectors", "queries.npy", "-c", "docs"],
        ["eval", "-c", "docs", "--queries", "queries.npy", "--truth", "vectors.npy"],
        pytest.param(["drift", "-c", "floats"], marks=pytest.mark.slow),
        pytest.param(
            ["tune", "-c", "floats", "--no-store", "--recall", "0.5", "--queries", "queries.npy"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda command: command[0],
)
def test_commands_that_read(
    standby: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("queries.npy", QUERIES)
    np.save("vectors.npy", VECTORS)
    assert succeed(*command, "--db", standby.url()).output


def test_a_standby_follows_the_primary(primary: PostgresServer, standby: PostgresServer) -> None:
    """Rows, a recalibration and a drop arrive in a collection that is open on the standby."""
    with qvec.connect(primary.url()) as db, qvec.connect(standby.url()) as copy:
        poor = Calibration.fit(VECTORS, threshold=0, ranges=qvec.RangeMethod("fixed", value=3.0))
        docs = db.create_collection("moving", calibration=poor, rescore="float32")
        standby.wait_for_replay(primary)
        same = copy.collection("moving")
        assert same.search(VECTORS[7], 1) == []
        docs.upsert(np.arange(ROWS), VECTORS)
        standby.wait_for_replay(primary)
        assert same.search(VECTORS[7], 5) == docs.search(VECTORS[7], 5)
        recalibrate(db, "moving", refit=Refit(threshold=0.5, ranges=qvec.RangeMethod()))
        standby.wait_for_replay(primary)
        assert same.search(VECTORS[7], 5) == docs.search(VECTORS[7], 5)
        assert same.calibration == docs.calibration != poor
        drop_old(db, "moving")
        db.drop_collection("moving")
        standby.wait_for_replay(primary)
        with pytest.raises(CollectionError, match="'moving' was dropped since it was opened"):
            same.search(VECTORS[7], 1)


@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_a_read_that_replication_cancels_is_read_again(
    primary: PostgresServer, standby: PostgresServer, monkeypatch: pytest.MonkeyPatch, use_async: bool
) -> None:
    slow = [b"SELECT count(*) FROM docs, pg_sleep(60)"]
    count = statements.count
    monkeypatch.setattr(statements, "count", lambda *given: slow.pop() if slow else count(*given))

    def read() -> int:
        with qvec.connect(standby.url()) as db:
            return db.collection("docs").count()

    async def read_async() -> int:
        async with await qvec.connect_async(standby.url()) as db:
            return await (await db.collection("docs")).count()

    with ThreadPoolExecutor() as threads:
        reading = threads.submit(lambda: asyncio.run(read_async()) if use_async else read())
        wait_until(lambda: standby.fetch(RUNNING))
        primary.fetch("BEGIN; LOCK TABLE docs IN ACCESS EXCLUSIVE MODE; COMMIT")
        assert reading.result(60) == ROWS


RUNNING = (
    "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND wait_event = 'PgSleep'"
    " AND pid <> pg_backend_pid()"
)


def test_a_stream_that_replication_cancels_says_what_to_set(primary: PostgresServer, standby: PostgresServer) -> None:
    """Rows that were handed out cannot be read again."""
    with qvec.connect(standby.url()) as db:
        rows = db.collection("docs").iter_rows(0, 10)
        with contextlib.closing(rows):
            next(rows)
            primary.fetch("BEGIN; LOCK TABLE docs IN ACCESS EXCLUSIVE MODE; COMMIT")
            standby.wait_for_replay(primary)
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': ") as caught:
                list(rows)
        assert "hot_standby_feedback" in str(caught.value)


# Writes

WRITES: dict[str, Callable[[Any, Any], Any]] = {
    "upsert": lambda _, docs: docs.upsert([1], VECTORS[:1]),
    "upsert new": lambda _, docs: docs.upsert([1], VECTORS[:1], on_duplicate="error"),
    "delete": lambda _, docs: docs.delete([1]),
    "set_oversampling": lambda _, docs: docs.set_oversampling(2),
    "build_index": lambda _, docs: docs.build_index(),
    "index_metadata": lambda _, docs: docs.index_metadata([MetadataIndex.parse("a:integer")]),
    "index_texts": lambda _, docs: docs.index_texts(),
    "create": lambda db, docs: db.create_collection("new", calibration=docs.calibration),
    "drop": lambda db, _: db.drop_collection("docs"),
    "install": lambda db, _: db.install(),
}
BULK_WRITES: dict[str, Callable[[Any], Any]] = {
    "load": lambda db: open_loader(db, "docs", "a.npy", "replace", 1).__enter__(),
    "version sync": lambda db: open_version_sync(db, "docs").__enter__(),
    "recalibrate": lambda db: recalibrate(db, "floats"),
    "roll back": lambda db: roll_back(db, "floats"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_says_that_the_server_is_a_standby(standby: PostgresServer, write: str) -> None:
    async def write_async() -> None:
        async with await qvec.connect_async(standby.url()) as db:
            with pytest.raises(DatabaseError, match=IS_STANDBY):
                await WRITES[write](db, await db.collection("docs"))

    with qvec.connect(standby.url()) as db:
        docs = db.collection("docs")
        with pytest.raises(DatabaseError, match=IS_STANDBY):
            WRITES[write](db, docs)
        assert (docs.count(), docs.info().oversampling) == (ROWS, DEFAULT_OVERSAMPLING)
    asyncio.run(write_async())


@pytest.mark.parametrize("write", BULK_WRITES)
def test_a_bulk_write_says_that_the_server_is_a_standby(standby: PostgresServer, write: str) -> None:
    with qvec.connect(standby.url()) as db, pytest.raises(DatabaseError, match=IS_STANDBY):
        BULK_WRITES[write](db)


@pytest.mark.parametrize(
    "command",
    [
        ["ingest", "vectors.npy", "-c", "docs"],
        ["ingest", "vectors.npy", "-c", "new"],
        ["drop", "docs", "--yes"],
        ["index", "-c", "floats"],
        ["index", "-c", "docs", "--texts", "english"],
        ["recalibrate", "-c", "floats"],
        ["recalibrate", "-c", "floats", "--rollback"],
        ["tune", "-c", "floats", "--recall", "0.5", "--queries", "queries.npy"],
        ["sql", "install"],
        ["sql", "upgrade"],
        ["sql", "uninstall", "--with-collections"],
    ],
    ids=" ".join,
)
def test_a_command_that_writes_ends_with_one_line(
    standby: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("queries.npy", QUERIES)
    np.save("vectors.npy", VECTORS)
    done = invoke(*command, "--db", standby.url())
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.exit_code == 1
    assert done.stderr.endswith("target_session_attrs=read-write\n")
    assert len(errors) == 1
    assert "is a standby; connect to the primary" in errors[0]


def test_collections_are_copied_from_a_standby_but_not_to_it(
    primary: PostgresServer, standby: PostgresServer, empty_url: str
) -> None:
    succeed("copy", "-c", "floats", "--from", standby.url(), "--to", empty_url, "--no-index")
    with qvec.connect(empty_url) as db:
        assert db.collection("floats").search(VECTORS[7], 1)[0].id == 7
    refused = invoke("copy", "-c", "floats", "--from", primary.url(), "--to", standby.url(), "--as", "other")
    assert refused.exit_code == 1
    assert "is a standby; connect to the primary" in refused.stderr


def test_a_standby_without_the_schema(primary: PostgresServer, standby: PostgresServer) -> None:
    primary.fetch("CREATE DATABASE bare")
    standby.wait_for_replay(primary)
    with qvec.connect(standby.url("bare")) as db:
        assert db.collections() == []
        assert not db.has_collection("docs")
        with pytest.raises(CollectionError, match=r"^no collection 'docs' in .*; there are: none$"):
            db.collection("docs")
        for write in (db.install, lambda: db.create_collection("docs", calibration=CALIBRATION)):
            with pytest.raises(DatabaseError, match=r"is a standby; connect to the primary"):
                write()
    assert succeed("collections", "--json", "--db", standby.url("bare")).stdout.strip() in ("", "[]")


@pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer (Debian: apt install pgbouncer)")
@pytest.mark.parametrize("write", ["upsert", "upsert new", "delete", "create", "drop", "index_texts"])
def test_a_write_through_a_pooled_connection(standby: PostgresServer, write: str) -> None:
    """A pooler may report an earlier role of the server, so the statement itself fails."""
    with pooled(standby.url()) as url, qvec.connect(url) as db:
        docs = db.collection("docs")
        assert docs.search(VECTORS[7], 1)[0].id == 7
        message = (
            r"^cannot .*: the server is a standby, or the session is read-only \(cannot .*\); connect to the primary"
        )
        with pytest.raises(DatabaseError, match=message):
            WRITES[write](db, docs)


# Read-only sessions of a primary


@pytest.mark.parametrize("write", WRITES)
def test_a_write_says_that_the_session_is_read_only(primary: PostgresServer, write: str) -> None:
    url = primary.url() + "?options=-c%20default_transaction_read_only%3Don"
    with qvec.connect(url) as db:
        docs = db.collection("docs")
        with pytest.raises(
            DatabaseError, match=r"sessions of user 'postgres' are read-only; connect without the setting"
        ):
            WRITES[write](db, docs)
        assert docs.search(VECTORS[7], 1)[0].id == 7


def test_a_promoted_standby_takes_writes_of_open_connections(primary: PostgresServer) -> None:
    standby = primary.add_standby("promoted")
    standby.start()
    with qvec.connect(standby.url()) as db:
        docs = db.collection("docs")
        with pytest.raises(DatabaseError, match=IS_STANDBY):
            docs.delete([1])
        standby.promote()
        wait_until(lambda: not standby.fetch("SELECT pg_is_in_recovery()"))
        assert docs.delete([1]) == 1
        assert docs.upsert([1], VECTORS[1:2]) == 1
        assert json.loads(succeed("info", "docs", "--json", "--db", standby.url()).stdout)["rows"] == ROWS
