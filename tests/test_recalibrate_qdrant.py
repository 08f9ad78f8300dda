"""Recalibrating a collection in Qdrant, in a directory and on a server: writes and searches meanwhile, kills, going
back."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from concurrent_writes import writing_in_background
from conftest import realistic, unit
from ingest_helpers import with_ids, write_lines
from numpy.typing import NDArray
from qdrant_loading import assert_holds, found_rows, run
from qdrant_wire import WireServer

import qvec
from qvec import Calibration, CollectionError, DatabaseError, InputError, RangeMethod
from qvec.client import Collection, Database
from qvec.client.bulk import open_version_sync
from qvec.ingest import IngestOptions, Reporter, ingest
from qvec.metadata_index import MetadataIndex
from qvec.qdrant.version_record import VersionRecord
from qvec.qdrant.version_sync import QdrantVersionSync
from qvec.recalibration import Recalibrated, Refit, drop_old, recalibrate, roll_back
from qvec.sources import open_source

Vectors = NDArray[np.float32]

ROWS = 300
ROWS_OF = unit(unit(realistic(ROWS)) + 1 / 8)
QUERIES = unit(unit(realistic(40, seed=1)) + 1 / 8)
"""Far from zero on average, so that the thresholds differ."""
ZERO = Calibration.fit(ROWS_OF, threshold=0)
HALF = Refit(threshold=0.5, ranges=RangeMethod())


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qvec.qdrant.version_record.LOOK_SECONDS", 0.05)
    monkeypatch.setattr("qvec.qdrant._sync.server_engine._POLL_SECONDS", 0.02)


@pytest.fixture(params=["directory", "server"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "directory":
        yield f"qdrant:{tmp_path / 'db'}"
    else:
        with WireServer(tmp_path / "wire") as server:
            yield f"qdrant://127.0.0.1:{server.port}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("source") / "rows.jsonl", with_ids(ROWS_OF))


def filled(database: Database, rescore: Any = "float16", **settings: Any) -> Collection:
    docs = database.create_collection("docs", calibration=ZERO, rescore=rescore, **settings)
    docs.upsert(range(ROWS), ROWS_OF, [f"note {n}" for n in range(ROWS)], [{"n": n} for n in range(ROWS)])
    return docs


def anew(database: Database, path: Path | None = None, **options: Any) -> Recalibrated:
    options = {"refit": HALF, "allow_worse": True} | options
    if path is None:
        return recalibrate(database, "docs", **options)
    with open_source(path) as opened:
        return recalibrate(database, "docs", source=opened, **options)


def names(database: Database) -> list[str]:
    return [found.name for found in database.collections()]


def assert_same_rows(database: Database, expected: dict[int, Any]) -> None:
    """Just these rows, with these vectors up to the rounding of each version that they went through."""
    docs = database.collection("docs")
    assert found_rows(database).keys() == expected.keys()
    assert np.abs(docs.vectors(list(expected)) - np.array(list(expected.values()))).max() < 1e-3


class Meanwhile(Reporter):
    """Does something once a stage begins."""

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        self._name, self._work = name, work

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002
        if name == self._name:
            self._name = ""
            self._work()


def test_rows_are_stored_anew_from_kept_floats(database: Database) -> None:
    docs = filled(database, "float32", oversampling=3, model="m", prefilter="binary", query_encoding="scalar4bits")
    docs.index_metadata([MetadataIndex.parse("n:integer")])
    docs.index_texts()
    docs.build_index()
    done = anew(database)
    new = database.collection("docs")
    assert (done.former, done.calibration, done.rows) == (ZERO.id, new.calibration.id, ROWS)
    assert names(database) == ["docs", f"docs@{ZERO.id}"] == ["docs", done.kept]
    assert new.calibration.description["method"]["threshold"] == 0.5
    assert (new.settings, new.model, new.has_index()) == (docs.settings, "m", True)
    assert_same_rows(database, dict(enumerate(ROWS_OF)))
    assert [(hit.document, hit.metadata) for hit in new.get([7, 9]) if hit] == [
        ("note 7", {"n": 7}),
        ("note 9", {"n": 9}),
    ]
    assert [hit.id for hit in new.search_text("note 77", 1)] == [77]
    indexes = new.stored.view.engine().payload_indexes()
    assert indexes.keys() == {"metadata.n", "document"}
    old = database.collection(f"docs@{ZERO.id}")
    assert (old.calibration, old.count()) == (ZERO, ROWS)


def test_rows_that_the_other_version_lacks_altogether_are_copied(database: Database) -> None:
    """No row of a page exists in the other version."""
    filled(database)
    with open_version_sync(database, "docs") as versions:
        new = versions.begin(Calibration.fit(ROWS_OF, threshold=0.5))
        assert not versions.catch_up()
    assert [hit and hit.metadata for hit in database.collection(new.name).get([0, ROWS - 1])] == [
        {"n": 0},
        {"n": ROWS - 1},
    ]
    assert database.collection(new.name).count() == ROWS


def test_a_source_gives_vectors_and_the_collection_its_texts(database: Database, source: Path) -> None:
    docs = filled(database)
    docs.upsert([3], ROWS_OF[3:4], ["rewritten"], [{"n": 3, "more": [1.5, None]}])
    docs.delete([4])
    done = anew(database, source)
    kept = [n for n in range(ROWS) if n != 4]
    assert_holds(database, ROWS_OF[kept], kept)
    assert [hit and (hit.document, hit.metadata) for hit in docs.get([3, 4])] == [
        ("rewritten", {"n": 3, "more": [1.5, None]}),
        None,
    ]
    assert done.rows == ROWS - 1


@pytest.mark.parametrize("rescore", ["binary", "turbo8"])
def test_what_keeps_no_floats_is_refused(database: Database, source: Path, rescore: str) -> None:
    filled(database, rescore)
    with pytest.raises(CollectionError, match=f"keeps {rescore} codes and no floats, by which to tell what is written"):
        anew(database, source)
    assert names(database) == ["docs"]


@pytest.mark.parametrize("moment", ["finish", "catch_up", "switch"])
def test_what_is_written_meanwhile_comes_along(
    database: Database, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    docs = filled(database)
    real = getattr(QdrantVersionSync, moment)

    def write() -> None:
        docs.upsert([4, 7000], ROWS_OF[8:10], ["four", "new"], [{"n": 1}, None])
        docs.upsert([6], ROWS_OF[6:7], ["other words"])
        docs.delete([0, 1, 2, 299])

    def written_first(*arguments: Any, **options: Any) -> Any:
        write()
        return real(*arguments, **options)

    monkeypatch.setattr(QdrantVersionSync, moment, written_first)
    anew(database)
    expected = {n: ROWS_OF[n] for n in range(ROWS) if n not in (0, 1, 2, 299)}
    assert_same_rows(database, expected | {4: ROWS_OF[8], 7000: ROWS_OF[9]})
    assert [hit and hit.document for hit in docs.get([4, 7000, 6, 0])] == ["four", "new", "other words", None]


def test_a_writer_that_never_rests_loses_nothing(database: Database) -> None:
    with writing_in_background(filled(database), ROWS_OF) as written:
        anew(database)
        roll_back(database, "docs")
        anew(database)
    assert_same_rows(database, dict(enumerate(ROWS_OF)) | written)


@pytest.mark.parametrize("write", ["upsert", "delete"])
def test_a_write_that_an_exchange_overtakes_is_made_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """It is sent once all rows were compared, and ends once the other version is in use."""
    docs = filled(database)
    anew(database)
    engine = type(docs.stored.view.engine())
    send, calls = getattr(engine, write), []

    def overtaken(self: Any, what: Any) -> Any:
        calls.append(what)
        if len(calls) == 1:
            monkeypatch.setattr(engine, write, send)
            roll_back(database, "docs")
        return send(self, what)

    docs.count()
    monkeypatch.setattr(engine, write, overtaken)
    assert (docs.upsert([7000], ROWS_OF[:1], on_duplicate="error") if write == "upsert" else docs.delete([5])) == 1
    again = database.collection("docs")
    assert (docs.calibration, again.calibration) == (ZERO, ZERO)
    assert [hit and hit.id for hit in again.get([7000, 5])] == ([7000, 5] if write == "upsert" else [None, None])


def test_writes_wait_for_an_exchange_and_tell_of_one_that_does_not_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = filled(database)
    anew(database)
    record = database.store.backend.read_record("docs")
    assert record is not None
    database.store.backend.write_record("docs", VersionRecord(**{**vars(record), "is_switching": True}))
    monkeypatch.setattr("qvec.qdrant._sync.collection._SWITCH_SECONDS", 0.1)
    with pytest.raises(DatabaseError, match=r"wait for an exchange of its versions that does not end; if it was inter"):
        docs.upsert([1], ROWS_OF[:1])
    assert docs.search(QUERIES[0])
    drop_old(database, "docs")
    assert docs.upsert([1], ROWS_OF[:1]) == 1


def test_a_load_that_runs_meanwhile_ends_clearly_and_goes_on(database: Database, source: Path) -> None:
    filled(database)
    told = Meanwhile("loading", lambda: anew(database))
    with open_source(source) as opened:
        with pytest.raises(CollectionError, match="was recalibrated while it was loaded; run the same load again"):
            ingest(database, opened, IngestOptions("docs", index=False, batch_rows=50), told)
        ingest(database, opened, IngestOptions("docs", index=False, batch_rows=50))
    assert_holds(database, ROWS_OF)


def test_going_back_and_forth_keeps_what_was_written_since(database: Database) -> None:
    docs = filled(database)
    new = anew(database)
    docs.upsert([7000], ROWS_OF[:1], ["since"])
    docs.delete([4])
    back = roll_back(database, "docs")
    assert (back.calibration, back.former, back.kept) == (ZERO.id, new.calibration, f"docs@{new.calibration}")
    expected = {n: ROWS_OF[n] for n in range(ROWS) if n != 4} | {7000: ROWS_OF[0]}
    assert_same_rows(database, expected)
    assert anew(database).calibration == new.calibration
    assert_same_rows(database, expected)
    assert [hit and hit.document for hit in docs.get([7000])] == ["since"]


def test_fewer_dimensions_and_back(database: Database) -> None:
    """Of rows that were written since there is only a prefix."""
    docs = filled(database)
    anew(database, refit=Refit(dimensions=32))
    docs.upsert([7000], ROWS_OF[:1])
    docs.upsert([6], ROWS_OF[6:7], ["other words"])
    assert docs.stored.view.layout.dimensions == 32
    with pytest.raises(CollectionError, match="1 are missing in its other version"):
        roll_back(database, "docs")
    assert roll_back(database, "docs", allow_missing=True).unsynced.missing == 1
    assert docs.search(ROWS_OF[5], 1)[0].id == 5
    assert [hit and hit.document for hit in docs.get([6, 7000])] == ["other words", None]


def test_queries_of_former_dimensions_are_refused(database: Database) -> None:
    """The client checked them against the calibration that it knew."""
    docs = database.create_collection("docs", calibration=Calibration.fit(ROWS_OF, threshold=0, dimensions=32))
    docs.upsert(range(ROWS), ROWS_OF)
    other = database.collection("docs")
    anew(database, refit=Refit(dimensions=16))
    for search in (docs.search, other.explain):
        with pytest.raises(InputError, match=r"^query: 32 dimensions found, 16 or 64 wanted$"):
            search(ROWS_OF[5][:32])


def test_versions_are_dropped_one_after_another(database: Database) -> None:
    """The first of them lies in the engine's collection of the name, which stays."""
    docs = filled(database)
    with pytest.raises(CollectionError, match="keeps no old version to roll back to"):
        roll_back(database, "docs")
    half = anew(database).calibration
    with pytest.raises(CollectionError, match=r"keeps its old version 'docs@.*'; drop that first: qvec recalibrate"):
        anew(database)
    assert drop_old(database, "docs").calibration == ZERO.id
    assert (names(database), docs.count()) == (["docs"], ROWS)
    anew(database, refit=Refit(threshold=1.0))
    assert names(database) == ["docs", f"docs@{half}"]
    assert drop_old(database, "docs").calibration == half
    with pytest.raises(CollectionError, match="has no other version"):
        drop_old(database, "docs")
    anew(database, refit=Refit(threshold=0.0))
    assert (names(database)[0], docs.count(), docs.search(ROWS_OF[5], 1)[0].id) == ("docs", ROWS, 5)
    database.drop_collection("docs")
    assert database.store.backend.names() == []
    with pytest.raises(CollectionError, match="was dropped"):
        docs.upsert([1], ROWS_OF[:1])


def test_rows_of_a_version_that_is_dropped_meanwhile_do_not_just_end(database: Database) -> None:
    pages = filled(database).iter_rows(0, 100)
    next(pages)
    anew(database)
    assert len(next(pages).ids) == 100
    drop_old(database, "docs")
    with pytest.raises(CollectionError, match=f"its version {ZERO.id} dropped, while its rows were read; read them a"):
        next(pages)


def test_a_search_that_outlasts_its_version_is_made_again(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = filled(database)
    engine = type(docs.stored.view.engine())
    search = engine.search

    def late(self: Any, queries: Any, request: Any) -> Any:
        monkeypatch.setattr(engine, "search", search)
        anew(database)
        drop_old(database, "docs")
        return search(self, queries, request)

    monkeypatch.setattr(engine, "search", late)
    assert docs.search(ROWS_OF[5], 1)[0].id == 5


def test_a_version_is_dropped_by_its_name(database: Database) -> None:
    docs = filled(database)
    done = anew(database)
    assert done.kept is not None
    with pytest.raises(CollectionError, match="no collection"):
        database.collection(f"docs@{done.calibration}")  # it is docs
    database.drop_collection(done.kept)
    assert (names(database), docs.count()) == (["docs"], ROWS)
    with open_version_sync(database, "docs") as versions:
        assert versions.other() is None


def test_what_was_begun_can_be_forgotten(database: Database) -> None:
    filled(database)

    def fail() -> None:
        raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError):
        anew(database, reporter=Meanwhile("loading", fail))
    begun = names(database)
    assert len(begun) == 2
    assert anew(database, refit=Refit(threshold=1.0), restart=True).kept == f"docs@{ZERO.id}"
    assert begun[1] not in names(database)
    assert database.collection("docs").calibration.description["method"]["threshold"] == 1.0


def faults_of(query: int, hits: list[Any]) -> list[str]:
    """What is wrong with hits: too few, or scores that are not those of the rows."""
    if len(hits) != 10:
        return [f"{len(hits)} hits"]
    wrong = np.abs(ROWS_OF[[hit.id for hit in hits]] @ QUERIES[query] - [hit.score for hit in hits]).max()
    return [] if wrong < 0.01 else [f"off by {wrong:.3f}"]


def test_the_tolerance_tells_the_calibrations_apart() -> None:
    """The next test could not fail if it did not: scores by the wrong threshold are off by <q, difference>."""
    assert np.abs(QUERIES @ ROWS_OF.mean(axis=0) * 0.5).min() > 0.05


def test_no_search_is_interrupted_or_scores_by_the_wrong_calibration(database: Database, url: str) -> None:
    held = filled(database)
    stop, faults, counts = threading.Event(), [], {}

    def keep(name: str, search: Callable[[int], Any]) -> None:
        while not stop.is_set():
            counts[name] = counts.get(name, 0) + 1
            query = counts[name] % 40
            try:
                faults.extend(f"{name}: {fault}" for fault in faults_of(query, search(query)))
            except Exception as error:
                faults.append(f"{name}: {type(error).__name__} {error}")

    async def keep_awaited() -> None:
        async with await qvec.connect_async(url) as opened:
            docs = await opened.collection("docs")
            while not stop.is_set():
                counts["awaited"] = counts.get("awaited", 0) + 1
                found = await asyncio.gather(*(docs.search(QUERIES[query]) for query in range(4)))
                faults.extend(f"awaited: {fault}" for n, hits in enumerate(found) for fault in faults_of(n, hits))

    threads = [
        threading.Thread(target=keep, args=("held", lambda query: held.search(QUERIES[query]))),
        threading.Thread(target=keep, args=("exact", lambda query: held.search(QUERIES[query], exact=True))),
        threading.Thread(
            target=keep, args=("opened", lambda query: database.collection("docs").search(QUERIES[query]))
        ),
        threading.Thread(target=lambda: asyncio.run(keep_awaited())),
    ]
    for thread in threads:
        thread.start()
    try:
        anew(database)
        roll_back(database, "docs")
        anew(database)
        drop_old(database, "docs")
        anew(database, refit=Refit(threshold=0.0))
        drop_old(database, "docs")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert faults == []
    assert len(counts) == 4
    assert min(counts.values()) > 20


def test_the_command(url: str) -> None:
    with qvec.connect(url) as database:
        filled(database)
    place = ("--db", url, "-c", "docs")
    done = command(place, "--threshold", "half", "--ranges", "quantile", "--allow-worse", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows"], told["missing"], told["kept"]) == (ROWS, 0, f"docs@{ZERO.id}")
    shown = run("info", "docs", "--db", url, "--json", batch_rows=50).stdout.splitlines()
    assert [json.loads(line)["name"] for line in shown] == ["docs", told["kept"]]
    assert "rows, in" in command(place, "--rollback").stdout
    assert f"dropped docs@{told['calibration']}" in command(place, "--drop-old").stdout
    with qvec.connect(url) as database:
        assert database.collection("docs").calibration == ZERO


def command(place: tuple[str, ...], *more: str, **options: Any) -> Any:
    return run("recalibrate", *place, *more, batch_rows=50, **options)


def moments(backend: str, engine: str) -> list[tuple[str, int]]:
    """Of a recalibration: written down, made, half loaded, compared once, compared while writes wait."""
    backend, engine = f"qvec.qdrant.{backend}", f"qvec.qdrant.{engine}"
    return [
        (f"after {backend}.write_record", 1),
        (f"after {backend}.create", 1),
        (f"before {engine}.upsert", 3),
        (f"before {backend}.write_record", 1),
        (f"before {backend}.write_record", 2),
    ]


def test_it_is_killed_at_every_step(url: str) -> None:
    with qvec.connect(url) as database:
        filled(database)
    place = ("--db", url, "-c", "docs")
    options = ("--threshold", "half", "--ranges", "quantile", "--allow-worse", "--quiet")
    is_server = "//" in url
    on_server = ("_sync.server:ServerBackend", "_sync.server_engine:ServerEngine")
    parts = on_server if is_server else ("directory:Directory", "edge:EdgeShard")
    for moment, number in moments(*parts):
        process = command(place, *options, moment=moment, number=number)
        assert process.returncode == -signal.SIGKILL, (moment, process.stderr)
        with qvec.connect(url) as database:
            assert database.collection("docs").calibration == ZERO
            assert faults_of(3, database.collection("docs").search(QUERIES[3])) == []
    last = command(place, *options)
    assert last.returncode == 0, last.stderr
    with qvec.connect(url) as database:
        assert names(database) == ["docs", f"docs@{ZERO.id}"]
        assert_same_rows(database, dict(enumerate(ROWS_OF)))
    for moment in (f"after qvec.qdrant.{parts[1]}.clear", f"before qvec.qdrant.{parts[0]}.write_record"):
        assert command(place, "--drop-old", moment=moment).returncode == -signal.SIGKILL
    assert command(place, "--drop-old").returncode == 0
    with qvec.connect(url) as database:
        assert names(database) == ["docs"]
        assert_same_rows(database, dict(enumerate(ROWS_OF)))
