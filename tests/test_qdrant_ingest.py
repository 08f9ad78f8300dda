"""Loading into Qdrant, in a directory and on a server's stand-in: rules for ids, starts, stops and what goes on."""

import gc
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_helpers import vectors, with_ids, write_lines
from qdrant_loading import assert_holds, found_rows, load, position
from qdrant_wire import WireServer

import qvec
from qvec.client import Database
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.ingest import LoadStoppedError, Reporter, Stop, pipeline
from qvec.metadata_index import MetadataIndex
from qvec.qdrant import loader
from qvec.qdrant._sync.embedded import EdgeEngine
from qvec.qdrant._sync.server_engine import ServerEngine
from qvec.store.loads import ConnectionLostError

ENGINES = {"directory": EdgeEngine, "server": ServerEngine}


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def url(kind: str, tmp_path: Path) -> Iterator[str]:
    if kind == "directory":
        yield f"qdrant:{tmp_path / 'db'}"
    else:
        with WireServer(tmp_path / "wire") as server:
            yield f"qdrant://127.0.0.1:{server.port}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as database:
        yield database


class Interrupted(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def interrupt(kind: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Ends a load before or after its number-th write, as a kill would: nothing more is written down."""
    engine = ENGINES[kind]
    upsert = engine.upsert

    def interrupted(number: int, when: str, run: Callable[[], Any]) -> None:
        calls = 0

        def ending(self: Any, points: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == number and when == "before":
                raise Interrupted
            upsert(self, points)
            if calls == number:
                raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(engine, "upsert", ending)
            patch.setattr(loader.QdrantLoader, "disconnect", lambda _: None)
            with pytest.raises(Interrupted):
                run()

    return interrupted


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each batch."""
    monkeypatch.setattr(loader, "_CHECKPOINT_SECONDS", 0)


@pytest.mark.parametrize(
    ("rescore", "workers"), [("float16", 1), ("float16", 4), ("float32", 2), ("turbo8", 2), ("binary", 2)]
)
def test_a_load_writes_every_row_once(database: Database, tmp_path: Path, rescore: str, workers: int) -> None:
    np.save(tmp_path / "a.npy", vectors(1000))
    summary = load(database, tmp_path / "a.npy", rescore=rescore, workers=workers, batch_rows=30)
    assert (summary.rows, summary.total_rows, summary.rejected, summary.resumed_at) == (1000, 1000, 0, 0)
    if rescore.startswith("turbo"):  # what it holds is no longer what it was given
        assert found_rows(database).keys() == set(range(1000))
    else:
        assert_holds(database, vectors(1000))
    again = load(database, tmp_path / "a.npy")
    assert (again.rows, again.resumed_at, again.total_rows) == (0, 1000, 1000)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(("on_duplicate", "kept"), [("replace", "last"), ("skip", "first")])
@pytest.mark.parametrize("batch_rows", [4, 200])
def test_of_equal_ids_one_row_stays(
    database: Database, tmp_path: Path, on_duplicate: str, kept: str, batch_rows: int, workers: int
) -> None:
    """Inside a batch, across batches in flight together, and across those that are not."""
    array = vectors(90)
    ids = [row % 9 for row in range(60)] + [row * 7 % 30 for row in range(30)]
    path = write_lines(tmp_path / "a.jsonl", with_ids(array, ids))
    load(database, path, on_duplicate=on_duplicate, workers=workers, batch_rows=batch_rows)
    rows = range(90) if kept == "last" else reversed(range(90))
    chosen = {ids[row]: row for row in rows}
    assert_holds(database, array[list(chosen.values())], list(chosen))


@pytest.mark.parametrize("on_duplicate", ["replace", "skip"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("workers", [1, 4])
def test_of_equal_ids_the_same_row_stays_when_a_load_is_interrupted(
    database: Database,
    tmp_path: Path,
    interrupt: Callable[..., Any],
    on_duplicate: str,
    when: str,
    workers: int,
) -> None:
    array, ids = vectors(100), [row % 35 for row in range(100)]
    path = write_lines(tmp_path / "a.jsonl", with_ids(array, ids))
    options = {"on_duplicate": on_duplicate, "workers": workers}
    interrupt(4, when, lambda: load(database, path, batch_rows=5, **options))
    load(database, path, batch_rows=7, **options)
    rows = range(100) if on_duplicate == "replace" else reversed(range(100))
    chosen = {ids[row]: row for row in rows}
    assert_holds(database, array[list(chosen.values())], list(chosen))


@pytest.mark.parametrize("repeated_at", [4, 7])
def test_an_id_that_is_there_is_an_error_however_often_it_is_tried(
    database: Database, tmp_path: Path, repeated_at: int
) -> None:
    """In the batch of its first row, or in the next one; the rows before it are there in the end."""
    ids = list(range(12))
    ids[repeated_at] = 3
    path = write_lines(tmp_path / "a.jsonl", with_ids(vectors(12), ids))
    for batch_rows in (5, 5, 2, 12):
        with pytest.raises(CollectionError, match=r"^id 3 exists already"):
            load(database, path, on_duplicate="error", batch_rows=batch_rows)
    assert position(database, path) == repeated_at
    assert_holds(database, vectors(12)[:repeated_at], ids[:repeated_at])


def test_rows_of_another_source_are_never_replaced_where_that_is_an_error(database: Database, tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", with_ids(vectors(10), range(50, 60)))
    second = write_lines(tmp_path / "b.jsonl", with_ids(vectors(100, seed=1)))
    load(database, first)
    for batch_rows in (10, 10, 20, 7):
        with pytest.raises(CollectionError, match=r"^id 50 exists already"):
            load(database, second, on_duplicate="error", batch_rows=batch_rows)
    found = found_rows(database)
    load(database, first, collection="alone", calibration=database.collection("docs").calibration)
    assert {id: row for id, row in found.items() if id in range(50, 60)} == found_rows(database, "alone")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("batch_rows", [5, 35])
def test_a_load_that_goes_on_does_not_trip_over_its_own_rows(
    database: Database, tmp_path: Path, interrupt: Callable[..., Any], when: str, batch_rows: int
) -> None:
    path = write_lines(tmp_path / "a.jsonl", with_ids(vectors(100)))
    for number in (4, 3, 1):
        interrupt(number, when, lambda: load(database, path, on_duplicate="error", batch_rows=10))
    summary = load(database, path, on_duplicate="error", batch_rows=batch_rows)
    assert summary.resumed_at == 50
    assert_holds(database, vectors(100))


def test_a_load_that_goes_on_lets_no_more_pass_than_its_own_rows(
    database: Database, tmp_path: Path, interrupt: Callable[..., Any]
) -> None:
    """It was interrupted in rows 10 to 20; another source then brings id 25, and a larger batch comes to both."""
    path = write_lines(tmp_path / "a.jsonl", with_ids(vectors(100)))
    interrupt(2, "after", lambda: load(database, path, on_duplicate="error", batch_rows=10))
    load(database, write_lines(tmp_path / "b.jsonl", with_ids(vectors(1, seed=1), [25])))
    for _ in range(2):
        with pytest.raises(CollectionError, match=r"^id 25 exists already"):
            load(database, path, on_duplicate="error", batch_rows=40)
    assert load(database, path, on_duplicate="skip").total_rows == 100


def test_bad_rows_before_an_interruption_do_not_shift_what_is_its_own(
    database: Database, tmp_path: Path, interrupt: Callable[..., Any]
) -> None:
    lines = with_ids(vectors(100))
    bad = (1, 12, 14, 23)
    for row in bad:
        lines[row] = "{"
    path = write_lines(tmp_path / "a.jsonl", lines)
    options = {"on_duplicate": "error", "on_error": "skip"}
    interrupt(2, "after", lambda: load(database, path, batch_rows=10, **options))
    load(database, write_lines(tmp_path / "b.jsonl", with_ids(vectors(1, seed=1), [20])))
    with pytest.raises(CollectionError, match=r"^id 20 exists already"):
        load(database, path, batch_rows=40, **options)
    assert load(database, path, batch_rows=10, on_duplicate="replace", on_error="skip").rejected == len(bad)
    kept = [row for row in range(100) if row not in bad]
    assert_holds(database, vectors(100)[kept], kept)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_bad_row_stops_a_load_before_its_batch(database: Database, tmp_path: Path, workers: int) -> None:
    lines = with_ids(vectors(100))
    lines[57] = "{"
    path, rejects = write_lines(tmp_path / "a.jsonl", lines), tmp_path / "rejects.jsonl"
    with pytest.raises(InputError, match=r"^a\.jsonl, line 58: "):
        load(database, path, batch_rows=10, workers=workers)
    assert_holds(database, vectors(100)[:50])
    summary = load(database, path, batch_rows=10, on_error="skip", rejects=rejects, workers=workers)
    assert (summary.rows, summary.resumed_at, summary.rejected, summary.total_rows) == (49, 50, 1, 99)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == [57]


def test_what_was_loaded_before_a_bad_row_is_written_down(database: Database, tmp_path: Path) -> None:
    """Also where the next checkpoint would have been a second later."""
    lines = with_ids(vectors(100))
    lines[57] = "{"
    path = write_lines(tmp_path / "a.jsonl", lines)
    with pytest.raises(InputError):
        load(database, path, batch_rows=10)
    assert position(database, path) == 50


class Stopping(Reporter):
    """Asks a load to stop when it has come so far."""

    def __init__(self, stop: Stop, at: int) -> None:
        self._stop = stop
        self._at = at

    def advance(self, name: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if name == "loading" and done >= self._at:
            self._stop.set()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_load_that_is_stopped_goes_on_where_it_was(database: Database, tmp_path: Path, workers: int) -> None:
    np.save(tmp_path / "a.npy", vectors(1000))
    stop = Stop()
    with pytest.raises(LoadStoppedError):
        load(database, tmp_path / "a.npy", Stopping(stop, 300), stop, batch_rows=20, workers=workers)
    stopped_at = position(database, tmp_path / "a.npy")
    assert 300 <= stopped_at <= 300 + 20 * workers
    assert_holds(database, vectors(1000)[:stopped_at])
    summary = load(database, tmp_path / "a.npy", batch_rows=20, workers=workers)
    assert (summary.rows, summary.resumed_at) == (1000 - stopped_at, stopped_at)
    assert_holds(database, vectors(1000))


def test_a_source_that_changed_while_it_was_interrupted_is_refused(database: Database, tmp_path: Path) -> None:
    stop = Stop()
    path = write_lines(tmp_path / "a.jsonl", with_ids(vectors(100)))
    with pytest.raises(LoadStoppedError):
        load(database, path, Stopping(stop, 30), stop, batch_rows=10)
    write_lines(path, with_ids(vectors(100, seed=1)))
    with pytest.raises(InputError, match=r"a\.jsonl has changed since its load was interrupted at row \d+; --restart"):
        load(database, path)
    assert load(database, path, restart=True).rows == 100
    assert_holds(database, vectors(100, seed=1))


def test_a_finished_source_that_changed_is_loaded_anew(database: Database, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", with_ids(vectors(100)))
    load(database, path)
    write_lines(path, with_ids(vectors(80, seed=1)))
    assert load(database, path).rows == 80
    found = found_rows(database)
    assert len(found) == 100
    assert load(database, path, restart=True).rows == 80
    assert found_rows(database) == found


@pytest.mark.usefixtures("always")
def test_sources_without_ids_follow_each_other(database: Database, tmp_path: Path) -> None:
    both = vectors(150)
    np.save(tmp_path / "a.npy", both[:100])
    np.save(tmp_path / "b.npy", both[100:])
    load(database, tmp_path / "a.npy", batch_rows=10)
    with pytest.raises(InputError, match=r"b\.npy has no ids, .* --id-start auto \(from 100\)"):
        load(database, tmp_path / "b.npy")
    assert position(database, tmp_path / "b.npy") == -1
    assert load(database, tmp_path / "b.npy", id_start="auto", batch_rows=10).rows == 50
    assert_holds(database, both)
    assert load(database, tmp_path / "b.npy", restart=True, id_start="auto").rows == 50
    assert_holds(database, both)


def test_numbers_are_not_given_out_while_another_load_may_need_them(database: Database, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(100))
    np.save(tmp_path / "b.npy", vectors(10, seed=1))
    stop = Stop()
    with pytest.raises(LoadStoppedError):
        load(database, tmp_path / "a.npy", Stopping(stop, 30), stop, batch_rows=10)
    with pytest.raises(InputError, match=r"neither has .*a\.npy, which is not loaded to its end"):
        load(database, tmp_path / "b.npy", id_start="auto")
    assert load(database, tmp_path / "b.npy", id_start=500).rows == 10
    load(database, tmp_path / "a.npy")
    assert_holds(database, np.concatenate([vectors(100), vectors(10, seed=1)]), [*range(100), *range(500, 510)])


def test_a_load_with_a_start_of_its_own_may_run_beside_another(database: Database, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(100))
    np.save(tmp_path / "b.npy", vectors(10, seed=1))
    stop = Stop()
    with pytest.raises(LoadStoppedError):
        load(database, tmp_path / "a.npy", Stopping(stop, 30), stop, batch_rows=10, id_start=500)
    assert load(database, tmp_path / "b.npy", id_start=0).rows == 10
    load(database, tmp_path / "a.npy")
    assert found_rows(database).keys() == {*range(10), *range(500, 600)}


def at_once(*loads: Callable[[], Any]) -> list[BaseException | None]:
    """Runs loads in threads; returns what each raised."""
    errors: list[BaseException | None] = [None] * len(loads)

    def run(number: int) -> None:
        try:
            loads[number]()
        except (DatabaseError, InputError, CollectionError) as error:
            errors[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(loads))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("seed", range(2))
def test_numbered_loads_that_begin_at_once_never_share_ids(url: str, tmp_path: Path, seed: int) -> None:
    arrays = [vectors(60, seed=10 * seed + number) for number in range(3)]
    calibration = qvec.Calibration.fit(np.concatenate(arrays))
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    with qvec.connect(url) as database:
        database.create_collection("docs", calibration=calibration)

        def one(number: int) -> None:
            with qvec.connect(url) as own:
                load(own, tmp_path / f"{number}.npy", id_start="auto", batch_rows=10)

        refused = at_once(*(lambda number=number: one(number) for number in range(3)))
        assert all(error is None or isinstance(error, InputError) for error in refused)
        for number, error in enumerate(refused):
            if error is not None:
                one(number)
        found = found_rows(database)
        assert found.keys() == set(range(180))
        rows = sorted(found.values())
        for number in range(3):
            load(database, tmp_path / f"{number}.npy", collection=f"alone{number}", calibration=calibration)
        alone = [row for number in range(3) for row in found_rows(database, f"alone{number}").values()]
        assert rows == sorted(alone)


def test_ids_are_taken_back_when_rows_came_while_they_were_taken(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another load begins and ends between the look for the next id and the writing down of it."""
    np.save(tmp_path / "a.npy", vectors(20))
    np.save(tmp_path / "b.npy", vectors(30, seed=1))
    database.create_collection("docs", calibration=qvec.Calibration.fit(vectors(100)))
    starts = loader.QdrantLoadRegistry
    next_id = starts.next_id

    def late(self: Any) -> int:
        found = next_id(self)
        with monkeypatch.context() as patch:
            patch.setattr(starts, "next_id", next_id)
            load(database, tmp_path / "b.npy")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(starts, "next_id", late)
        with pytest.raises(InputError, match="another source began to load into collection 'docs' at the same time"):
            load(database, tmp_path / "a.npy")
    assert_holds(database, vectors(30, seed=1))
    assert position(database, tmp_path / "a.npy") == -1
    load(database, tmp_path / "a.npy", id_start="auto")
    assert_holds(database, np.concatenate([vectors(30, seed=1), vectors(20)]))


class Meanwhile(Reporter):
    """Does something once, when a load has come so far."""

    def __init__(self, at: int, action: Callable[[], Any]) -> None:
        self.messages: list[str] = []
        self._at = at
        self._action = action
        self._is_done = False

    def advance(self, name: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        if name == "loading" and done >= self._at and not self._is_done:
            self._is_done = True
            self._action()

    def say(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("on_duplicate", ["replace", "error"])
def test_two_loads_of_one_source(kind: str, url: str, tmp_path: Path, on_duplicate: str) -> None:
    """In a directory the second is refused. On a server nobody knows whether the first is alive: it gives way."""
    np.save(tmp_path / "a.npy", vectors(200))
    errors: list[BaseException | None] = []
    options = {"on_duplicate": on_duplicate, "batch_rows": 20, "workers": 1}

    def second() -> None:
        with qvec.connect(url) as other:
            errors.extend(at_once(lambda: load(other, tmp_path / "a.npy", **options)))

    with qvec.connect(url) as database:
        errors += at_once(lambda: load(database, tmp_path / "a.npy", Meanwhile(60, second), **options))
        of_second, of_first = map(str, errors)
        if kind == "directory":
            assert "another thread is loading" in of_second
            assert of_first == "None"
        else:
            assert of_second == "None"
            assert of_first.startswith("another process began to load")
        assert_holds(database, vectors(200))
        assert load(database, tmp_path / "a.npy").rows == 0


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("made_again", [False, True])
def test_a_collection_that_is_dropped_ends_its_load_and_leaves_nothing_behind(
    database: Database, tmp_path: Path, made_again: bool
) -> None:
    """Also when another of its name is there at once: its rows would be missing at the start."""
    np.save(tmp_path / "a.npy", vectors(200))

    def drop() -> None:
        calibration = database.collection("docs").calibration
        database.drop_collection("docs")
        if made_again:
            database.create_collection("docs", calibration=calibration)

    with pytest.raises((CollectionError, DatabaseError), match="docs"):
        load(database, tmp_path / "a.npy", Meanwhile(60, drop), batch_rows=20)
    if made_again:
        assert load(database, tmp_path / "a.npy", id_start=0, batch_rows=20).rows == 200
    else:
        assert not database.has_collection("docs")
        assert load(database, tmp_path / "a.npy", batch_rows=20).rows == 200
    assert_holds(database, vectors(200))


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_that_an_interrupted_try_wrote_are_counted_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """With skip the second try of a batch finds them there."""
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01,) * 3)
    path = write_lines(tmp_path / "a.jsonl", with_ids(vectors(100)))
    commit, commits = loader.QdrantLoader.commit, 0

    def lost(self: Any, *arguments: Any) -> None:
        nonlocal commits
        commits += 1
        if commits in (3, 5):
            raise ConnectionLostError("the line went dead")
        commit(self, *arguments)

    monkeypatch.setattr(loader.QdrantLoader, "commit", lost)
    assert load(database, path, on_duplicate="skip", batch_rows=10, workers=workers).rows == 100
    assert_holds(database, vectors(100))


def test_metadata_indexes_are_there_before_the_first_row(
    database: Database, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = ENGINES[kind], []
    for name in ("index_metadata", "upsert"):
        real = getattr(engine, name)
        monkeypatch.setattr(
            engine, name, lambda *arguments, real=real, name=name: (calls.append(name), real(*arguments))[1]
        )
    lines = [{**line, "year": row} for row, line in enumerate(with_ids(vectors(50))) if isinstance(line, dict)]
    indexes = tuple(map(MetadataIndex.parse, ("year:integer", "kind:keyword")))
    load(database, write_lines(tmp_path / "a.jsonl", lines), index_metadata=indexes, batch_rows=10)
    assert calls == ["index_metadata"] * 2 + ["upsert"] * 5
    hits = database.collection("docs").search(vectors(1)[0], 50, filter={"year": {"$lt": 7}})
    assert sorted(hit.id for hit in hits) == list(range(7))


def test_the_checkpoint_is_never_ahead_of_what_is_flushed(
    database: Database, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows written at each flush, against the position that is written down after it."""
    engine, home = ENGINES[kind], type(database.store.backend)
    upsert, flush, write_load = engine.upsert, engine.flush, home.write_load
    written = flushed = 0
    positions = []

    def upserted(self: Any, points: Any) -> None:
        nonlocal written
        upsert(self, points)
        written += len(points)

    def flushing(self: Any) -> None:
        nonlocal flushed
        flush(self)
        flushed = written

    def writing(self: Any, name: str, source: str, state: Any) -> None:
        assert state["position"] <= flushed
        positions.append(state["position"])
        write_load(self, name, source, state)

    monkeypatch.setattr(engine, "upsert", upserted)
    monkeypatch.setattr(engine, "flush", flushing)
    monkeypatch.setattr(home, "write_load", writing)
    monkeypatch.setattr(loader, "_CHECKPOINT_SECONDS", 0.002)
    np.save(tmp_path / "a.npy", vectors(1000))
    load(database, tmp_path / "a.npy", batch_rows=10, workers=4)
    assert positions[-1] == 1000
    assert len(positions) > 4


def open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted(found)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_loads_leave_no_threads_and_no_files_behind(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", vectors(200))

    def once(workers: int = 2) -> None:
        with qvec.connect(url) as database:
            load(database, tmp_path / "a.npy", restart=True, batch_rows=10, id_start=0, workers=workers)

    once(workers=16)
    gc.collect()
    threads, files = threading.active_count(), len(open_files())
    for _ in range(8):
        once()
    gc.collect()
    assert threading.active_count() < threads + 8, "one for each load; the stand-in's own may have grown by some"
    assert len(open_files()) < files + 8, open_files()
