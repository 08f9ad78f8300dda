"""Recalibrating in Qdrant, in a directory and on a server: concurrent writes and searches, kills, rollback."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from concurrent_searches import BackgroundSearches
from concurrent_writes import writing_in_background
from conftest import realistic, unit
from fake_qdrant import FakeQdrantServer
from ingest_helpers import with_ids, write_lines
from killed_commands import run_command
from numpy.typing import NDArray
from qdrant_load_helpers import assert_holds, found_rows
from reporters import AtStage

import qvec
from qvec import Calibration, CollectionError, DatabaseError, InputError, RangeMethod
from qvec.client import Collection, Database
from qvec.client.bulk import open_version_sync
from qvec.ingest import LoadOptions, ingest
from qvec.metadata_index import MetadataIndex
from qvec.qdrant.version_record import VersionRecord
from qvec.qdrant.version_sync import QdrantVersionSync
from qvec.recalibration import Recalibrated, Refit, drop_old, recalibrate, roll_back
from qvec.sources import open_source

Vectors = NDArray[np.float32]

ROWS = 300
VECTORS = unit(unit(realistic(ROWS)) + 1 / 8)
QUERIES = unit(unit(realistic(40, seed=1)) + 1 / 8)
"""Their mean is far from zero, so that the thresholds of the two calibrations differ."""
ZERO = Calibration.fit(VECTORS, threshold=0)
HALF = Refit(threshold=0.5, ranges=RangeMethod())


@pytest.fixture(autouse=True)
def short_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.qdrant.version_record.LOOK_SECONDS", 0.05)


@pytest.fixture(params=["directory", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "directory":
        yield f"qdrant:{tmp_path / 'db'}"
    else:
        with FakeQdrantServer(tmp_path / "server") as server:
            yield server.url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("source") / "rows.jsonl", with_ids(VECTORS))


def create_docs(database: Database, rescore: Any = "float16", **settings: Any) -> Collection:
    docs = database.create_collection("docs", calibration=ZERO, rescore=rescore, **settings)
    docs.upsert(range(ROWS), VECTORS, [f"note {n}" for n in range(ROWS)], [{"n": n} for n in range(ROWS)])
    return docs


def recalibrate_docs(database: Database, path: Path | None = None, **options: Any) -> Recalibrated:
    options = {"refit": HALF, "allow_worse": True} | options
    if path is None:
        return recalibrate(database, "docs", **options)
    with open_source(path) as opened:
        return recalibrate(database, "docs", source=opened, **options)


def names(database: Database) -> list[str]:
    return [found.name for found in database.collections()]


def assert_same_rows(database: Database, expected: dict[int, Any]) -> None:
    """Assert that exactly these rows are stored, with these vectors up to the rounding of each version."""
    docs = database.collection("docs")
    assert found_rows(database).keys() == expected.keys()
    assert np.abs(docs.vectors(list(expected)) - np.array(list(expected.values()))).max() < 1e-3


def test_kept_floats_are_stored_with_the_new_calibration(database: Database) -> None:
    docs = create_docs(database, "float32", oversampling=3, model="m", prefilter="binary", query_encoding="scalar4bits")
    docs.index_metadata([MetadataIndex.parse("n:integer")])
    docs.index_texts()
    docs.build_index()
    done = recalibrate_docs(database)
    new = database.collection("docs")
    assert (done.former, done.calibration, done.rows) == (ZERO.id, new.calibration.id, ROWS)
    assert names(database) == ["docs", f"docs@{ZERO.id}"] == ["docs", done.kept]
    assert new.calibration.description["method"]["threshold"] == 0.5
    assert (new.settings, new.model, new.has_index()) == (docs.settings, "m", True)
    assert_same_rows(database, dict(enumerate(VECTORS)))
    assert [(hit.document, hit.metadata) for hit in new.get([7, 9]) if hit] == [
        ("note 7", {"n": 7}),
        ("note 9", {"n": 9}),
    ]
    assert [hit.id for hit in new.search_text("note 77", 1)] == [77]
    indexes = new.stored.view.engine().payload_indexes()
    assert indexes.keys() == {"metadata.n", "document"}
    old = database.collection(f"docs@{ZERO.id}")
    assert (old.calibration, old.count()) == (ZERO, ROWS)


def test_rows_are_copied_if_the_other_version_has_none(database: Database) -> None:
    """Also if no row of a page exists in the other version."""
    create_docs(database)
    with open_version_sync(database, "docs") as versions:
        new = versions.begin(Calibration.fit(VECTORS, threshold=0.5))
        assert not versions.catch_up()
    assert [hit and hit.metadata for hit in database.collection(new.name).get([0, ROWS - 1])] == [
        {"n": 0},
        {"n": ROWS - 1},
    ]
    assert database.collection(new.name).count() == ROWS


def test_vectors_come_from_the_source_and_texts_from_the_collection(database: Database, source: Path) -> None:
    docs = create_docs(database)
    docs.upsert([3], VECTORS[3:4], ["rewritten"], [{"n": 3, "more": [1.5, None]}])
    docs.delete([4])
    done = recalibrate_docs(database, source)
    kept = [n for n in range(ROWS) if n != 4]
    assert_holds(database, VECTORS[kept], kept)
    assert [hit and (hit.document, hit.metadata) for hit in docs.get([3, 4])] == [
        ("rewritten", {"n": 3, "more": [1.5, None]}),
        None,
    ]
    assert done.rows == ROWS - 1


@pytest.mark.parametrize("rescore", ["binary", "turbo8"])
def test_collection_without_floats_is_refused(database: Database, source: Path, rescore: str) -> None:
    create_docs(database, rescore)
    with pytest.raises(CollectionError, match=f"keeps {rescore} codes and no floats, by which to tell what is written"):
        recalibrate_docs(database, source)
    assert names(database) == ["docs"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("moment", ["finish", "catch_up", "switch"])
def test_concurrent_writes_reach_the_new_version(
    database: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    docs = create_docs(database)
    real = getattr(QdrantVersionSync, moment)

    def write() -> None:
        docs.upsert([4, 7000], VECTORS[8:10], ["four", "new"], [{"n": 1}, None])
        docs.upsert([6], VECTORS[6:7], ["other words"])
        docs.delete([0, 1, 2, 299])

    def after_writing(*arguments: Any, **options: Any) -> Any:
        write()
        return real(*arguments, **options)

    monkeypatch.setattr(QdrantVersionSync, moment, after_writing)
    recalibrate_docs(database)
    expected = {n: VECTORS[n] for n in range(ROWS) if n not in (0, 1, 2, 299)}
    assert_same_rows(database, expected | {4: VECTORS[8], 7000: VECTORS[9]})
    assert [hit and hit.document for hit in docs.get([4, 7000, 6, 0])] == ["four", "new", "other words", None]


def test_constant_writer_loses_no_rows(database: Database) -> None:
    with writing_in_background(create_docs(database), VECTORS) as written:
        recalibrate_docs(database)
        roll_back(database, "docs")
        recalibrate_docs(database)
    assert_same_rows(database, dict(enumerate(VECTORS)) | written)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("write", ["upsert", "delete"])
def test_write_during_a_switch_is_repeated_on_the_new_version(
    database: Database, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """The write is sent after all rows were compared, and ends when the other version is active."""
    docs = create_docs(database)
    recalibrate_docs(database)
    engine = type(docs.stored.view.engine())
    send, calls = getattr(engine, write), []

    def write_during_switch(self: Any, what: Any) -> Any:
        calls.append(what)
        if len(calls) == 1:
            monkeypatch.setattr(engine, write, send)
            roll_back(database, "docs")
        return send(self, what)

    docs.count()
    monkeypatch.setattr(engine, write, write_during_switch)
    assert (docs.upsert([7000], VECTORS[:1], on_duplicate="error") if write == "upsert" else docs.delete([5])) == 1
    again = database.collection("docs")
    assert (docs.calibration, again.calibration) == (ZERO, ZERO)
    assert [hit and hit.id for hit in again.get([7000, 5])] == ([7000, 5] if write == "upsert" else [None, None])


def test_writes_wait_for_a_switch_and_fail_if_it_does_not_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = create_docs(database)
    recalibrate_docs(database)
    record = database.store.backend.read_record("docs")
    assert record is not None
    database.store.backend.write_record("docs", VersionRecord(**{**vars(record), "is_switching": True}))
    monkeypatch.setattr("qvec.qdrant._sync.collection._SWITCH_SECONDS", 0.1)
    with pytest.raises(DatabaseError, match=r"wait for an exchange of its versions that does not end; if it was inter"):
        docs.upsert([1], VECTORS[:1])
    assert docs.search(QUERIES[0])
    drop_old(database, "docs")
    assert docs.upsert([1], VECTORS[:1]) == 1


def test_concurrent_load_fails_and_can_be_continued(database: Database, source: Path) -> None:
    create_docs(database)
    reporter = AtStage("loading", lambda: recalibrate_docs(database))
    with open_source(source) as opened:
        with pytest.raises(CollectionError, match="was recalibrated while it was loaded; run the same load again"):
            ingest(database, opened, LoadOptions("docs", index=False, batch_rows=50), reporter)
        ingest(database, opened, LoadOptions("docs", index=False, batch_rows=50))
    assert_holds(database, VECTORS)


def test_rollback_and_recalibration_keep_later_writes(database: Database) -> None:
    docs = create_docs(database)
    new = recalibrate_docs(database)
    docs.upsert([7000], VECTORS[:1], ["since"])
    docs.delete([4])
    back = roll_back(database, "docs")
    assert (back.calibration, back.former, back.kept) == (ZERO.id, new.calibration, f"docs@{new.calibration}")
    expected = {n: VECTORS[n] for n in range(ROWS) if n != 4} | {7000: VECTORS[0]}
    assert_same_rows(database, expected)
    assert recalibrate_docs(database).calibration == new.calibration
    assert_same_rows(database, expected)
    assert [hit and hit.document for hit in docs.get([7000])] == ["since"]


def test_rollback_from_fewer_dimensions_counts_missing_rows(database: Database) -> None:
    """Of rows written after the recalibration only a prefix is stored."""
    docs = create_docs(database)
    recalibrate_docs(database, refit=Refit(dimensions=32))
    docs.upsert([7000], VECTORS[:1])
    docs.upsert([6], VECTORS[6:7], ["other words"])
    assert docs.stored.view.layout.dimensions == 32
    with pytest.raises(CollectionError, match="1 are missing in its other version"):
        roll_back(database, "docs")
    assert roll_back(database, "docs", allow_missing=True).unsynced.missing == 1
    assert docs.search(VECTORS[5], 1)[0].id == 5
    assert [hit and hit.document for hit in docs.get([6, 7000])] == ["other words", None]


def test_queries_of_the_old_dimensions_are_refused(database: Database) -> None:
    """Even by a handle that was opened before the recalibration."""
    docs = database.create_collection("docs", calibration=Calibration.fit(VECTORS, threshold=0, dimensions=32))
    docs.upsert(range(ROWS), VECTORS)
    other = database.collection("docs")
    recalibrate_docs(database, refit=Refit(dimensions=16))
    for search in (docs.search, other.explain):
        with pytest.raises(InputError, match=r"^query: 32 dimensions found, 16 or 64 wanted$"):
            search(VECTORS[5][:32])


def test_versions_are_dropped_one_after_another(database: Database) -> None:
    """The first version uses the engine's collection of the same name, which is kept."""
    docs = create_docs(database)
    with pytest.raises(CollectionError, match="keeps no old version to roll back to"):
        roll_back(database, "docs")
    half = recalibrate_docs(database).calibration
    with pytest.raises(CollectionError, match=r"keeps its old version 'docs@.*'; drop that first: qvec recalibrate"):
        recalibrate_docs(database)
    assert drop_old(database, "docs").calibration == ZERO.id
    assert (names(database), docs.count()) == (["docs"], ROWS)
    recalibrate_docs(database, refit=Refit(threshold=1.0))
    assert names(database) == ["docs", f"docs@{half}"]
    assert drop_old(database, "docs").calibration == half
    with pytest.raises(CollectionError, match="has no other version"):
        drop_old(database, "docs")
    recalibrate_docs(database, refit=Refit(threshold=0.0))
    assert (names(database)[0], docs.count(), docs.search(VECTORS[5], 1)[0].id) == ("docs", ROWS, 5)
    database.drop_collection("docs")
    assert database.store.backend.names() == []
    with pytest.raises(CollectionError, match="was dropped"):
        docs.upsert([1], VECTORS[:1])


def test_streaming_rows_of_a_dropped_version_is_an_error(database: Database) -> None:
    pages = create_docs(database).iter_rows(0, 100)
    next(pages)
    recalibrate_docs(database)
    assert len(next(pages).ids) == 100
    drop_old(database, "docs")
    with pytest.raises(CollectionError, match=f"its version {ZERO.id} dropped, while its rows were read; read them a"):
        next(pages)


def test_search_is_repeated_if_its_version_was_dropped(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = create_docs(database)
    engine = type(docs.stored.view.engine())
    search = engine.search

    def search_after_drop(self: Any, queries: Any, request: Any) -> Any:
        monkeypatch.setattr(engine, "search", search)
        recalibrate_docs(database)
        drop_old(database, "docs")
        return search(self, queries, request)

    monkeypatch.setattr(engine, "search", search_after_drop)
    assert docs.search(VECTORS[5], 1)[0].id == 5


def test_version_can_be_dropped_by_name(database: Database) -> None:
    docs = create_docs(database)
    done = recalibrate_docs(database)
    assert done.kept is not None
    with pytest.raises(CollectionError, match="no collection"):
        database.collection(f"docs@{done.calibration}")  # it is the active version, docs
    database.drop_collection(done.kept)
    assert (names(database), docs.count()) == (["docs"], ROWS)
    with open_version_sync(database, "docs") as versions:
        assert versions.other() is None


def test_restart_discards_an_unfinished_recalibration(database: Database) -> None:
    create_docs(database)

    def fail() -> None:
        raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError):
        recalibrate_docs(database, reporter=AtStage("loading", fail))
    begun = names(database)
    assert len(begun) == 2
    assert recalibrate_docs(database, refit=Refit(threshold=1.0), restart=True).kept == f"docs@{ZERO.id}"
    assert begun[1] not in names(database)
    assert database.collection("docs").calibration.description["method"]["threshold"] == 1.0


def errors_in(query: int, hits: list[Any]) -> list[str]:
    """Describe what is wrong with hits: too few, or scores that are not those of their rows."""
    if len(hits) != 10:
        return [f"{len(hits)} hits"]
    wrong = np.abs(VECTORS[[hit.id for hit in hits]] @ QUERIES[query] - [hit.score for hit in hits]).max()
    return [] if wrong < 0.01 else [f"off by {wrong:.3f}"]


def test_tolerance_separates_the_calibrations() -> None:
    """Without this the next test could not fail: scores by the wrong threshold are off by <q, difference>."""
    assert np.abs(QUERIES @ VECTORS.mean(axis=0) * 0.5).min() > 0.05


@pytest.mark.slow
def test_searches_during_switches_succeed_and_use_the_right_calibration(database: Database, url: str) -> None:
    handle = create_docs(database)
    loop = asyncio.new_event_loop()
    opened = loop.run_until_complete(qvec.connect_async(url))
    docs = loop.run_until_complete(opened.collection("docs"))

    async def four_at_once(number: int) -> list[str]:
        queries = [(number + offset) % 40 for offset in range(4)]
        found = await asyncio.gather(*(docs.search(QUERIES[query]) for query in queries))
        return [fault for query, hits in zip(queries, found, strict=True) for fault in errors_in(query, hits)]

    def checked(search: Callable[[int], Any]) -> Callable[[int], list[str]]:
        return lambda number: errors_in(number % 40, search(number % 40))

    searches = {
        "handle": checked(lambda query: handle.search(QUERIES[query])),
        "exact": checked(lambda query: handle.search(QUERIES[query], exact=True)),
        "new handle": checked(lambda query: database.collection("docs").search(QUERIES[query])),
        "async": lambda number: loop.run_until_complete(four_at_once(number)),
    }
    changes: list[Callable[[], object]] = [
        lambda: recalibrate_docs(database),
        lambda: roll_back(database, "docs"),
        lambda: recalibrate_docs(database),
        lambda: drop_old(database, "docs"),
        lambda: recalibrate_docs(database, refit=Refit(threshold=0.0)),
        lambda: drop_old(database, "docs"),
    ]
    try:
        with BackgroundSearches(searches) as searching:
            for change in changes:
                change()
                searching.wait_for_all()
    finally:
        loop.run_until_complete(opened.close())
        loop.close()


@pytest.mark.slow
def test_recalibrate_command(url: str) -> None:
    with qvec.connect(url) as database:
        create_docs(database)
    place = ("--db", url, "-c", "docs")
    done = recalibrate_command(place, "--threshold", "half", "--ranges", "quantile", "--allow-worse", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["rows"], result["missing"], result["kept"]) == (ROWS, 0, f"docs@{ZERO.id}")
    shown = run_command("info", "docs", "--db", url, "--json", batch_rows=50).stdout.splitlines()
    assert [json.loads(line)["name"] for line in shown] == ["docs", result["kept"]]
    assert "rows, in" in recalibrate_command(place, "--rollback").stdout
    assert f"dropped docs@{result['calibration']}" in recalibrate_command(place, "--drop-old").stdout
    with qvec.connect(url) as database:
        assert database.collection("docs").calibration == ZERO


def recalibrate_command(place: tuple[str, ...], *more: str, **options: Any) -> Any:
    return run_command("recalibrate", *place, *more, batch_rows=50, **options)


def kill_moments(backend: str, engine: str) -> list[tuple[str, int]]:
    """Return when to kill: record written, collection created, half loaded, compared, compared while writes wait."""
    backend, engine = f"qvec.qdrant.{backend}", f"qvec.qdrant.{engine}"
    return [
        (f"after {backend}.write_record", 1),
        (f"after {backend}.create", 1),
        (f"before {engine}.upsert", 3),
        (f"before {backend}.write_record", 1),
        (f"before {backend}.write_record", 2),
    ]


@pytest.mark.slow
def test_recalibration_killed_at_every_step(url: str) -> None:
    with qvec.connect(url) as database:
        create_docs(database)
    place = ("--db", url, "-c", "docs")
    options = ("--threshold", "half", "--ranges", "quantile", "--allow-worse", "--quiet")
    is_server = "//" in url
    on_server = ("_sync.server:ServerBackend", "_sync.server_engine:ServerEngine")
    backend, engine = on_server if is_server else ("directory:Directory", "edge:EdgeShard")
    for moment, number in kill_moments(backend, engine):
        process = recalibrate_command(place, *options, moment=moment, number=number)
        assert process.returncode == -signal.SIGKILL, (moment, process.stderr)
        with qvec.connect(url) as database:
            assert database.collection("docs").calibration == ZERO
            assert errors_in(3, database.collection("docs").search(QUERIES[3])) == []
    last = recalibrate_command(place, *options)
    assert last.returncode == 0, last.stderr
    with qvec.connect(url) as database:
        assert names(database) == ["docs", f"docs@{ZERO.id}"]
        assert_same_rows(database, dict(enumerate(VECTORS)))
    for moment in (
        f"after qvec.qdrant.{engine}.clear",
        f"before qvec.qdrant.{backend}.write_record",
    ):
        assert recalibrate_command(place, "--drop-old", moment=moment).returncode == -signal.SIGKILL
    assert recalibrate_command(place, "--drop-old").returncode == 0
    with qvec.connect(url) as database:
        assert names(database) == ["docs"]
        assert_same_rows(database, dict(enumerate(VECTORS)))
