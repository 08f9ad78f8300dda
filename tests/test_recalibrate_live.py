"""Recalibrating in Postgres: concurrent searches, and processes killed at every step."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from concurrent_searches import BackgroundSearches
from conftest import realistic, unit
from ingest_helpers import with_ids, write_lines
from killed_commands import run_command
from numpy.typing import NDArray

import qvec
from qvec import Calibration, CollectionError, DatabaseError, RangeMethod
from qvec.client import Database
from qvec.client.bulk import open_version_sync
from qvec.postgres.rows import stored_codes
from qvec.recalibration import Refit, drop_old, recalibrate, roll_back
from qvec.sources import open_source

Vectors = NDArray[np.float32]

ROWS = 300
VECTORS = UNIT = unit(realistic(ROWS))
QUERIES = unit(realistic(40, seed=1))
# Under ip a wrong calibration shows in the scores; under cosine their division by the length would hide most of it.
POOR = Calibration.fit(VECTORS, metric="ip", threshold=0, ranges=RangeMethod("fixed", value=3.0))
FIT = Refit(threshold=0.5, ranges=RangeMethod())
TOLERANCE = 0.05
"""Largest error of a score by the right calibration; decoded by the other one, the error is several times larger."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("source") / "rows.jsonl", with_ids(VECTORS))


@pytest.fixture
def database(url: str, source: Path) -> Iterator[Database]:
    """A database with a collection that was recalibrated from a poor calibration to a better one."""
    with qvec.connect(url) as opened:
        docs = opened.create_collection("docs", calibration=POOR)
        docs.upsert(range(ROWS), VECTORS, [str(n) for n in range(ROWS)])
        docs.build_index()
        with open_source(source) as rows:
            recalibrate(opened, "docs", source=rows, refit=FIT)
        yield opened


def switch(database: Database) -> None:
    with open_version_sync(database, "docs") as versions:
        versions.switch(allow_missing=False)


def errors_in(query: int, found: list[tuple[Any, float]]) -> list[str]:
    """Describe what is wrong with hits: too few, or scores that are not those of their rows."""
    if len(found) != 10:
        return [f"{len(found)} hits"]
    exact = UNIT[[int(id) for id, _ in found]] @ QUERIES[query]
    wrong = np.abs(exact - [score for _, score in found]).max()
    return [] if wrong < TOLERANCE else [f"query {query}: off by {wrong:.3f}"]


def test_tolerance_separates_the_calibrations(database: Database) -> None:
    """Without this the other tests could not fail."""
    new = database.collection("docs")
    mixed = qvec.score(qvec.quantize(UNIT, new.calibration), QUERIES, POOR)
    assert np.median(np.abs(mixed - QUERIES @ UNIT.T)) > 3 * TOLERANCE
    for query in range(5):
        assert errors_in(query, [(hit.id, hit.score) for hit in new.search(QUERIES[query])]) == []


def searchers(
    database: Database, connection: psycopg.Connection, snapshots: psycopg.Connection
) -> dict[str, Callable[[int], list[tuple[Any, float]]]]:
    """Return searches by name; their handles and connections stay open, and `snapshots` keeps one for five searches."""
    handle = database.collection("docs")
    snapshots.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    def in_sql(over: psycopg.Connection, query: int) -> list[tuple[Any, float]]:
        text = json.dumps(QUERIES[query].tolist())
        return over.execute("SELECT id, score FROM qvec.search('docs', %s::vector)", [text]).fetchall()

    def in_a_transaction(query: int) -> list[tuple[Any, float]]:
        if query % 5 == 0:
            snapshots.commit()
        return in_sql(snapshots, query)

    def hits(found: Any) -> list[tuple[Any, float]]:
        return [(hit.id, hit.score) for hit in found]

    return {
        "handle": lambda query: hits(handle.search(QUERIES[query])),
        "handle, rescoring in SQL": lambda query: hits(handle.search(QUERIES[query], rescore_in="sql")),
        "handle, exact": lambda query: hits(handle.search(QUERIES[query], exact=True)),
        "batch": lambda query: hits(handle.search(QUERIES[[query - 1, query]])[1]),
        "new handle for each search": lambda query: hits(database.collection("docs").search(QUERIES[query])),
        "SQL": lambda query: in_sql(connection, query),
        "SQL in one snapshot": in_a_transaction,
    }


@pytest.mark.slow
def test_searches_during_switches_succeed_and_use_the_right_calibration(database: Database, url: str) -> None:
    def checked(search: Callable[[int], list[tuple[Any, float]]]) -> Callable[[int], list[str]]:
        return lambda number: errors_in(number % 40, search(number % 40))

    with psycopg.connect(url, autocommit=True) as connection, psycopg.connect(url) as snapshots:
        searches = searchers(database, connection, snapshots)
        with BackgroundSearches({name: checked(search) for name, search in searches.items()}) as searching:
            for _ in range(12):
                switch(database)
                searching.wait_for_all()


def test_open_collections_follow_a_switch(database: Database) -> None:
    handle, reader, stale = (database.collection("docs") for _ in range(3))
    switch(database)
    assert handle.search(QUERIES[0])[0].document
    assert handle.calibration == POOR
    assert reader.vectors([1]).shape == (1, 64)
    assert reader.calibration == POOR
    assert stale.upsert([7000], VECTORS[:1]) == 1
    assert stale.calibration == POOR
    with pytest.raises(CollectionError, match="1 are missing in version"):
        switch(database)
    stored = dict(zip(*next(stale.iter_codes(1000))[:2], strict=True))
    expected = stored_codes(VECTORS[:1], POOR, stale.stored.table.layout)[0]
    assert stored[7000].tobytes() == expected.tobytes()


def test_streamed_rows_are_decoded_by_their_own_calibration(database: Database) -> None:
    handle = database.collection("docs")
    switch(database)
    rows = next(handle.iter_rows(0, 1000))
    assert np.abs(rows.vectors + handle.calibration.threshold - UNIT).max() < 0.03
    assert handle.explain(QUERIES[0]).hits == handle.search(QUERIES[0])
    switch(database)
    assert handle.explain(QUERIES[0]).hits == handle.search(QUERIES[0])


def test_open_async_collections_follow_a_switch(database: Database, url: str) -> None:
    async def search() -> None:
        async with await qvec.connect_async(url) as opened:
            handle, writer = await opened.collection("docs"), await opened.collection("docs")
            switch(database)
            found = await asyncio.gather(*(handle.search(QUERIES[query]) for query in range(20)))
            for query, hits in enumerate(found):
                assert errors_in(query, [(hit.id, hit.score) for hit in hits]) == []
            assert await writer.upsert([3], VECTORS[3:4]) == 1
            assert writer.calibration == handle.calibration == POOR

    asyncio.run(search())


def test_handle_to_a_recreated_collection_is_an_error(database: Database) -> None:
    handle = database.collection("docs")
    database.drop_collection("docs")
    database.create_collection("docs", calibration=POOR).upsert(range(ROWS), VECTORS)
    with pytest.raises(CollectionError, match="was dropped and created again since it was opened; open it again"):
        handle.search(QUERIES[0])


def test_old_snapshot_of_a_dropped_version_gets_an_error(database: Database, url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT 1")
        switch(database)
        drop_old(database, "docs")
        with pytest.raises(
            psycopg.errors.SerializationFailure, match="switched to another version, and this version was dropped"
        ):
            connection.execute("SELECT * FROM qvec.search('docs', %s::vector)", [json.dumps(QUERIES[0].tolist())])


def test_switch_waits_for_long_transactions_without_blocking_others(
    database: Database, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qvec.postgres.version_sync._TRIES", 2)
    monkeypatch.setattr("qvec.postgres.version_sync._LOCK_TIMEOUT", "200ms")
    monkeypatch.setattr("qvec.postgres.version_sync._SECONDS_BETWEEN_TRIES", 0.1)
    calibration = database.collection("docs").calibration
    with psycopg.connect(url) as connection:
        connection.execute("SELECT count(*) FROM docs")
        with pytest.raises(DatabaseError, match="is still locked by others; end long transactions that use it"):
            switch(database)
        assert database.collection("docs").calibration == calibration
    switch(database)
    assert database.collection("docs").calibration == POOR


def test_only_one_process_recalibrates_a_collection(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    with (
        open_version_sync(database, "docs"),
        pytest.raises(DatabaseError, match="another process is recalibrating collection 'docs'"),
    ):
        roll_back(database, "docs")


# Killed processes

SYNC = "qvec.postgres.version_sync:PostgresVersionSync"
CHECKPOINT = "qvec.postgres.loader:_write_checkpoint"
MOMENTS = (
    (f"before {SYNC}._begin", 1),
    (f"after {SYNC}._track_changes", 1),
    (f"after {SYNC}.begin", 1),
    (f"before {CHECKPOINT}", 4),
    (f"after {CHECKPOINT}", 4),
    ("before qvec.postgres.table_properties:copy_indexes", 1),
    ("after qvec.postgres.table_properties:copy_indexes", 1),
    ("before qvec.postgres._sync.indexes:build", 1),
    (f"after {SYNC}.finish", 1),
    (f"after {SYNC}.catch_up", 1),
    (f"before {SYNC}._rename", 1),
    (f"after {SYNC}._rename", 1),
    (f"after {SYNC}.switch", 1),
)


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), MOMENTS)
def test_killed_recalibration_can_be_continued(url: str, moment: str, number: int) -> None:
    with qvec.connect(url) as database:
        docs = database.create_collection("docs", calibration=POOR, rescore="float32")
        docs.upsert(range(ROWS), VECTORS)
        docs.build_index()
    command = ("recalibrate", "--db", url, "-c", "docs", "--threshold", "half", "--ranges", "quantile")
    killed = run_command(*command, batch_rows=800, moment=moment, number=number)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with qvec.connect(url) as database:
        docs = database.collection("docs")
        assert docs.search(QUERIES[0], exact=True)[0].id == int((UNIT @ QUERIES[0]).argmax())
        docs.upsert([7000], VECTORS[:1])
        docs.delete([5])
        if docs.calibration == POOR:
            again = run_command(*command, batch_rows=800)
            assert again.returncode == 0, again.stderr
        expected = dict(enumerate(VECTORS)) | {7000: VECTORS[0]}
        del expected[5]
        for calibrations in ({"docs"}, {"docs", f"docs@{POOR.id}"}):
            assert {found.name for found in database.collections()} >= calibrations
        docs = database.collection("docs")
        assert docs.calibration != POOR
        assert docs.has_index()
        codes = stored_codes(np.array(list(expected.values())), docs.calibration, docs.stored.table.layout)
        (ids, found, _) = next(docs.iter_codes(1000))
        assert {id: row.tobytes() for id, row in zip(ids.tolist(), found, strict=True)} == {
            id: row.tobytes() for id, row in zip(expected, codes, strict=True)
        }
        roll_back(database, "docs")
        assert database.collection("docs").count() == ROWS
        drop_old(database, "docs")


@pytest.mark.slow
def test_restart_option_begins_a_recalibration_again(url: str) -> None:
    with qvec.connect(url) as database:
        docs = database.create_collection("docs", calibration=POOR, rescore="float32")
        docs.upsert(range(ROWS), VECTORS)
    command = ("recalibrate", "--db", url, "-c", "docs", "--json")
    run_command(*command, "--threshold", "mean", "--ranges", "minmax", batch_rows=800, moment=f"after {SYNC}.begin")
    restarted = run_command(*command, "--threshold", "half", "--ranges", "quantile", "--restart", batch_rows=800)
    assert restarted.returncode == 0, restarted.stderr
    with qvec.connect(url) as database:
        method = database.collection("docs").calibration.description["method"]
        assert (method["threshold"], method["name"]) == (0.5, "quantile")
        assert len(database.collections()) == 2
