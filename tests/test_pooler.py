"""Postgres by way of a real PgBouncer: searches, writes, loads, recalibrations, and what other applications notice."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import realistic
from ingest_helpers import assert_holds, load_source, random_vectors, run_command, start_command, with_ids, write_lines
from numpy.typing import NDArray
from pooler_helpers import PROGRAM, pooled

import qvec
from qvec import Calibration, DatabaseError
from qvec.client import Collection
from qvec.client.bulk import open_loader, open_version_sync
from qvec.ingest import Reporter
from qvec.postgres import statements
from qvec.recalibration import Refit, recalibrate, roll_back
from qvec.sources import open_source

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs PgBouncer (Debian: apt install pgbouncer)")

Vectors = NDArray[np.float32]
ROWS = 1000
VECTORS = realistic(ROWS)
QUERIES = realistic(40, seed=1)
THREADS = 12
STATEMENT_MODE = r"the pooler is in statement mode, which allows no transactions; use its transaction or session mode"
NO_SERVER = r"did not answer for 1 s: the pooler in front of the server has no free server connection"


@pytest.fixture(scope="module")
def direct_url(new_database: Callable[..., str]) -> str:
    """A database with the collection docs, which no test changes."""
    url = new_database()
    with qvec.connect(url) as db:
        fill(db)
    return url


@pytest.fixture(scope="module")
def transaction_url(direct_url: str) -> Iterator[str]:
    """The same database by way of a pooler in transaction mode with four server connections."""
    with pooled(direct_url) as url:
        yield url


@pytest.fixture(scope="module")
def statement_url(direct_url: str) -> Iterator[str]:
    """The same database by way of a pooler in statement mode."""
    with pooled(direct_url, "statement") as url:
        yield url


@pytest.fixture(scope="module")
def expected(direct_url: str) -> dict[str, list[Any]]:
    """The hits of each query over a direct connection, for each kind of search."""
    with qvec.connect(direct_url) as db:
        docs = db.collection("docs")
        return {kind: [search(docs, query) for query in QUERIES] for kind, search in SEARCHES.items()}


def fill(db: Any) -> Collection:
    docs: Collection = db.create_collection("docs", calibration=Calibration.fit(VECTORS))
    texts = [f"note {row}" for row in range(ROWS)]
    docs.upsert(np.arange(ROWS), VECTORS, texts, [{"n": row % 10} for row in range(ROWS)])
    return docs


SEARCHES: dict[str, Callable[[Any, Vectors], Any]] = {
    "plain": lambda docs, query: docs.search(query, 5),
    "filtered": lambda docs, query: docs.search(query, 5, filter={"n": 3}, oversampling=2),
    "in SQL": lambda docs, query: docs.search(query, 5, rescore_in="sql"),
    "exact": lambda docs, query: docs.search(query, 5, exact=True),
    "several": lambda docs, query: docs.search(np.stack([query, -query]), 5),
}


# Searches


@pytest.mark.sampled(3)
@pytest.mark.parametrize("mode", ["transaction", "statement", "session"])
@pytest.mark.parametrize("options", [{}, {"read_only": True, "statement_timeout": 30}], ids=["plain", "settings"])
def test_searches_from_threads_find_what_direct_ones_find(
    direct_url: str, expected: dict[str, list[Any]], mode: str, options: dict[str, Any]
) -> None:
    with pooled(direct_url, mode, THREADS) as url, qvec.connect(url, pool_size=THREADS, **options) as db:
        docs = db.collection("docs")

        def search_all(_: int) -> list[Any]:
            return [docs.search(query, 5) for query in QUERIES[:15]]

        with ThreadPoolExecutor(THREADS) as threads:
            for found in threads.map(search_all, range(THREADS)):
                assert found == expected["plain"][:15]


@pytest.mark.parametrize("options", [{}, {"read_only": True, "statement_timeout": 30}], ids=["plain", "settings"])
@pytest.mark.parametrize("kind", SEARCHES)
def test_every_kind_of_search(
    transaction_url: str, expected: dict[str, list[Any]], kind: str, options: dict[str, Any]
) -> None:
    with qvec.connect(transaction_url, **options) as db:
        docs = db.collection("docs")
        assert [SEARCHES[kind](docs, query) for query in QUERIES[:15]] == expected[kind][:15]


def test_reads_of_rows(direct_url: str, transaction_url: str) -> None:
    with qvec.connect(direct_url) as direct, qvec.connect(transaction_url, statement_timeout=30) as db:
        docs, same = db.collection("docs"), direct.collection("docs")
        assert repr(docs.get([3, 5000])) == repr(same.get([3, 5000]))
        assert docs.info() == same.info()
        assert [hit.id for hit in docs.scroll(filter={"n": 3})] == [hit.id for hit in same.scroll(filter={"n": 3})]
        np.testing.assert_array_equal(docs.vectors([1, 2]), same.vectors([1, 2]))
        assert [len(part.ids) for part in docs.iter_rows(0, 300)] == [300, 300, 300, 100]
        assert docs.explain(QUERIES[0], 5).hits == same.search(QUERIES[0], 5)


@pytest.mark.parametrize("callers", [40])
def test_many_callers_share_a_few_server_connections(
    transaction_url: str, expected: dict[str, list[Any]], callers: int
) -> None:
    with qvec.connect(transaction_url, pool_size=callers) as db, ThreadPoolExecutor(callers) as threads:
        docs = db.collection("docs")
        for kind in ("plain", "exact"):
            found = list(threads.map(lambda query, kind=kind: SEARCHES[kind](docs, query), QUERIES))
            assert found == expected[kind]


def test_the_asynchronous_client(transaction_url: str, expected: dict[str, list[Any]]) -> None:
    async def search_all(options: dict[str, Any]) -> None:
        async with await qvec.connect_async(transaction_url, pool_size=40, **options) as db:
            docs = await db.collection("docs")
            for kind, search in SEARCHES.items():
                assert await asyncio.gather(*(search(docs, query) for query in QUERIES)) == expected[kind]

    asyncio.run(search_all({}))
    asyncio.run(search_all({"read_only": True, "statement_timeout": 30}))


@pytest.mark.slow
def test_reads_continue_when_the_server_ends_the_poolers_connections(
    direct_url: str, transaction_url: str, admin: psycopg.Connection, expected: dict[str, list[Any]]
) -> None:
    with psycopg.connect(direct_url) as connection:
        name = connection.info.dbname
    stop = threading.Event()

    def terminate() -> None:
        while not stop.wait(0.3):
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])

    breaking = threading.Thread(target=terminate)
    with qvec.connect(transaction_url) as db, ThreadPoolExecutor(4) as threads:
        docs = db.collection("docs")
        breaking.start()
        try:
            for _ in range(10):
                assert list(threads.map(lambda query: docs.search(query, 5), QUERIES)) == expected["plain"]
                time.sleep(0.1)
        finally:
            stop.set()
            breaking.join()


# Settings


def test_the_settings_of_other_applications_stay_theirs(transaction_url: str, direct_url: str) -> None:
    """Every server connection is looked at, while qvec uses them with other settings."""
    with (
        qvec.connect(transaction_url, pool_size=8, read_only=True, statement_timeout=7) as db,
        ThreadPoolExecutor(8) as threads,
    ):
        docs = db.collection("docs")
        searches = [threads.submit(docs.search, query, 5) for query in np.tile(QUERIES, (5, 1))]
        seen = set()
        while not all(search.done() for search in searches):
            seen |= set(threads.map(lambda _: settings_of(transaction_url), range(8)))
        seen |= set(threads.map(lambda _: settings_of(transaction_url), range(8)))
        assert all(len(search.result()) == 5 for search in searches)
    with psycopg.connect(direct_url) as direct:
        assert seen == {settings_of(direct_url)}
        assert direct.execute("SELECT count(*) FROM docs").fetchone() == (ROWS,)


def settings_of(url: str) -> tuple[str, ...]:
    names = ("default_transaction_read_only", "transaction_read_only", "statement_timeout", "synchronous_commit")
    names += ("lock_timeout", "idle_in_transaction_session_timeout", "client_connection_check_interval")
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        found = connection.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}").fetchone()
        assert found
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        return found


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_read_only_refuses_writes(direct_url: str, mode: str) -> None:
    with pooled(direct_url, mode) as url, qvec.connect(url, read_only=True) as db:
        for open_connection in (db.store.direct_connection, db.store.connection):
            with open_connection() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("CREATE TABLE nothing ()")
        if mode == "transaction":
            with (
                db.store.connection() as connection,
                pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
                connection.transaction(),
            ):
                connection.execute("CREATE TABLE nothing ()")


@pytest.mark.parametrize("mode", ["transaction", "statement"])
def test_statements_have_a_time_limit(direct_url: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "count", lambda *_: b"SELECT pg_sleep(20)")
    with pooled(direct_url, mode) as url:
        with qvec.connect(url, statement_timeout=0.2) as db:
            docs = db.collection("docs")
            with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .*statement timeout"):
                docs.count()
            assert docs.get([3])[0].id == 3

        async def count() -> None:
            async with await qvec.connect_async(url, statement_timeout=0.2) as db:
                docs = await db.collection("docs")
                with pytest.raises(DatabaseError, match=r"^cannot read collection 'docs': .*statement timeout"):
                    await docs.count()

        asyncio.run(count())


def test_a_direct_connection_prepares_statements_and_one_by_way_of_a_pooler_does_not(
    direct_url: str, transaction_url: str
) -> None:
    for url, prepared in ((direct_url, True), (transaction_url, False)):
        with qvec.connect(url, pool_size=1) as db:
            docs = db.collection("docs")
            for query in QUERIES:
                docs.search(query, 5)
            with db.store.connection() as connection:
                found = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
                assert (found[0] > 0, connection.behind_pooler) == (prepared, not prepared)


@pytest.mark.parametrize("options", [{}, {"read_only": True, "statement_timeout": 30}], ids=["plain", "settings"])
@pytest.mark.parametrize("by_way_of_pooler", [False, True], ids=["direct", "pooled"])
def test_a_search_takes_two_round_trips(
    direct_url: str, transaction_url: str, by_way_of_pooler: bool, options: dict[str, Any]
) -> None:
    """One finds candidates, one reads their texts; the settings travel with them."""
    with qvec.connect(transaction_url if by_way_of_pooler else direct_url, pool_size=1, **options) as db:
        docs = db.collection("docs")
        for query in QUERIES[:10]:  # directly, the sixth prepares the statements
            docs.search(query, 5)
        with TemporaryFile("w+") as trace:
            with db.store.connection() as connection:
                connection.pgconn.trace(trace.fileno())
            for query in QUERIES[:20]:
                docs.search(query, 5)
            with db.store.connection() as connection:
                connection.pgconn.untrace()
            trace.seek(0)
            assert len(re.findall(r"\tF\t\d+\t(?:Sync|Query)\b", trace.read())) == 40


# Writes, loads, recalibrations


@pytest.mark.parametrize("options", [{}, {"statement_timeout": 30}], ids=["plain", "settings"])
def test_writes(url: str, options: dict[str, Any]) -> None:
    with pooled(url) as by_pooler, qvec.connect(by_pooler, pool_size=8, **options) as db:
        docs = fill(db)
        with ThreadPoolExecutor(8) as threads:
            blocks = [np.arange(ROWS, ROWS + 400)[part::8] for part in range(8)]
            list(threads.map(lambda ids: docs.upsert(ids, VECTORS[ids - ROWS]), blocks))
            list(threads.map(lambda row: docs.delete([row]), range(100)))
        docs.index_texts()
        assert docs.search_text("note 500", k=1)[0].id == 500
        docs.build_index()
        assert docs.has_index()
        assert docs.count() == ROWS + 300
        assert docs.search(VECTORS[500], 1)[0].id == 500
        db.drop_collection("docs")
        assert not db.has_collection("docs")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("servers", [2, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_adapts_to_the_poolers_server_connections(url: str, tmp_path: Path, servers: int, workers: int) -> None:
    array = random_vectors(2000)
    np.save(tmp_path / "a.npy", array)
    with pooled(url, servers=servers) as by_pooler, qvec.connect(by_pooler) as db:
        assert load_source(db, tmp_path / "a.npy", workers=workers, batch_rows=20, index=True).rows == 2000
        assert_holds(db, array)
        assert db.collection("docs").has_index()
        assert settings_of(by_pooler) == settings_of(url)


def test_a_load_needs_two_server_connections(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    with pooled(url, servers=1) as by_pooler, qvec.connect(by_pooler, timeout=1) as db:
        assert db.collections() == []
        began = time.monotonic()
        with pytest.raises(DatabaseError, match=NO_SERVER):
            load_source(db, tmp_path / "a.npy")
        assert time.monotonic() - began < 10


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_says_that_others_keep_all_server_connections(url: str, tmp_path: Path, workers: int) -> None:
    array = random_vectors(1000)
    np.save(tmp_path / "a.npy", array)
    with pooled(url, servers=2) as by_pooler, qvec.connect(by_pooler, timeout=1) as db:
        other = psycopg.connect(by_pooler)
        taking = threading.Thread(target=other.execute, args=["SELECT 1"])

        class Disturbed(Reporter):
            def advance(self, stage: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
                if stage == "loading" and done == 40:
                    taking.start()

        began = time.monotonic()
        with pytest.raises(DatabaseError, match=NO_SERVER):
            load_source(db, tmp_path / "a.npy", Disturbed(), workers=workers, batch_rows=20)
        assert time.monotonic() - began < 10
        taking.join()
        other.close()
        assert 0 < load_source(db, tmp_path / "a.npy", workers=workers).rows < 1000
        assert_holds(db, array)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_killed_at_any_moment_loads_every_row_once(url: str, tmp_path: Path, workers: int) -> None:
    rows = 2000
    source = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(rows)))
    with pooled(url) as by_pooler, qvec.connect(url) as db:
        db.install()
        command = ["ingest", source, "--db", by_pooler, "-c", "docs", "--workers", str(workers), "--json"]
        for kill in (1, 2):
            process = start_command(*command, batch_rows=6)
            end = time.monotonic() + 60
            while position(db) < kill * rows // 4 and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert 0 < position(db) < rows
        last = run_command(*command, batch_rows=20)
        assert last.returncode == 0, last.stderr
        summary = json.loads(last.stdout)
        assert summary["total_rows"] == rows
        assert summary["resumed_at"] > 0
        assert_holds(db, random_vectors(rows))


def position(db: Any) -> int:
    with db.store.connection() as connection:
        return int(connection.execute("SELECT coalesce(max(position), -1) FROM qvec.ingest").fetchone()[0])


def test_a_second_load_of_the_same_source_is_refused(transaction_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.postgres.locks._TRIES", 2)
    with qvec.connect(transaction_url) as db, qvec.connect(transaction_url) as other:
        with open_loader(db, "docs", "a.npy", "replace", 1):
            for _ in range(20):  # other statements use all server connections
                settings_of(transaction_url)
            with (
                pytest.raises(DatabaseError, match=r"^another process is loading a\.npy into collection 'docs'"),
                open_loader(other, "docs", "a.npy", "replace", 1),
            ):
                pass
        with open_loader(other, "docs", "a.npy", "replace", 1):
            pass


def test_a_second_recalibration_is_refused(transaction_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.postgres.locks._TRIES", 2)
    with (
        qvec.connect(transaction_url) as db,
        open_version_sync(db, "docs"),
        pytest.raises(DatabaseError, match=r"^another process is recalibrating collection 'docs'"),
        open_version_sync(db, "docs"),
    ):
        pass


@pytest.mark.parametrize("by_way_of_pooler", [False, True], ids=["direct", "pooled"])
def test_a_load_notices_that_its_lock_is_lost_before_it_commits(
    url: str, tmp_path: Path, by_way_of_pooler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the lock again, or finds that another load has it."""
    monkeypatch.setattr("qvec.ingest.pipeline._RETRY_SECONDS", (0.01,) * 5)
    monkeypatch.setattr("qvec.postgres.locks._TRIES", 1)
    np.save(tmp_path / "a.npy", random_vectors(100))
    with pooled(url) as by_pooler, qvec.connect(by_pooler if by_way_of_pooler else url) as db:
        db.create_collection("docs", calibration=Calibration.fit(random_vectors(100)))
        said: list[str] = []
        ended: list[int] = []

        class Ending(Reporter):
            def advance(self, stage: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
                if stage == "loading" and done == 40 and not ended:
                    ended.append(end_holder(url))

            def say(self, message: str) -> None:
                said.append(message)

        assert load_source(db, tmp_path / "a.npy", Ending(), workers=1, batch_rows=20).rows == 100
        assert ended == [1]
        assert ["the connection was lost" in message for message in said] == [True]
        assert_holds(db, random_vectors(100))


def end_holder(url: str) -> int:
    """Terminate the server process that holds the advisory lock of a load; return the number of such."""
    with psycopg.connect(url, autocommit=True) as connection:
        return len(
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchall()
        )


def test_a_lock_does_not_hold_back_vacuum(transaction_url: str, admin: psycopg.Connection) -> None:
    with qvec.connect(transaction_url) as db, open_loader(db, "docs", "a.npy", "replace", 1):
        held = (
            "SELECT state, backend_xid, backend_xmin FROM pg_stat_activity JOIN pg_locks USING (pid)"
            " WHERE locktype = 'advisory'"
        )
        assert admin.execute(held).fetchall() == [("idle in transaction", None, None)]


@pytest.mark.parametrize("servers", [4, 8])
def test_a_collection_is_recalibrated(url: str, servers: int) -> None:
    poor = Calibration.fit(VECTORS, threshold=0, ranges=qvec.RangeMethod("fixed", value=3.0))
    with pooled(url, servers=servers) as by_pooler, qvec.connect(by_pooler, statement_timeout=30) as db:
        docs = db.create_collection("docs", calibration=poor, rescore="float32")
        docs.upsert(np.arange(ROWS), VECTORS)
        before = docs.search(VECTORS[8], 5)
        recalibrate(db, "docs", refit=Refit(threshold=0.5, ranges=qvec.RangeMethod()))
        assert docs.search(VECTORS[7], 1)[0].id == 7
        assert docs.calibration != poor
        roll_back(db, "docs")
        assert docs.search(VECTORS[8], 5) == before
        assert docs.calibration == poor
        assert settings_of(by_pooler) == settings_of(url)


def test_a_recalibration_says_that_it_needs_more_server_connections(url: str) -> None:
    with pooled(url, servers=2) as by_pooler, qvec.connect(by_pooler, timeout=1) as db:
        docs = db.create_collection("docs", calibration=Calibration.fit(VECTORS), rescore="float32")
        docs.upsert(np.arange(ROWS), VECTORS)
        with pytest.raises(DatabaseError, match=NO_SERVER):
            recalibrate(db, "docs", refit=Refit(threshold=0.5))
        assert docs.search(VECTORS[7], 1)[0].id == 7


def test_a_collection_is_recalibrated_from_a_file(url: str, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rows.jsonl", with_ids(VECTORS))
    with pooled(url) as by_pooler, qvec.connect(by_pooler) as db, open_source(source) as opened:
        docs = fill(db)
        before = docs.calibration
        recalibrate(db, "docs", source=opened, refit=Refit(threshold=0.45))
        assert docs.search(VECTORS[7], 1)[0].id == 7
        assert docs.calibration != before


# Statement mode


def test_what_needs_a_transaction_is_one_clear_error_in_statement_mode(statement_url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100, dimensions=64))
    with qvec.connect(statement_url) as db:
        docs = db.collection("docs")
        works: list[Callable[[], object]] = [
            lambda: docs.upsert([1], VECTORS[:1]),
            lambda: docs.search(QUERIES[0], 5, exact=True),
            lambda: docs.build_index(),
            lambda: docs.index_texts(),
            lambda: db.create_collection("others", calibration=Calibration.fit(VECTORS)),
            lambda: db.drop_collection("docs"),
            lambda: load_source(db, tmp_path / "a.npy"),
            lambda: recalibrate(db, "docs"),
        ]
        for work in works:
            with pytest.raises(DatabaseError, match=STATEMENT_MODE):
                work()
        assert docs.search(VECTORS[7], 1)[0].id == 7

    async def upsert() -> None:
        async with await qvec.connect_async(statement_url) as db:
            docs = await db.collection("docs")
            with pytest.raises(DatabaseError, match=STATEMENT_MODE):
                await docs.upsert([1], VECTORS[:1])
            assert (await docs.search(VECTORS[7], 1))[0].id == 7

    asyncio.run(upsert())
