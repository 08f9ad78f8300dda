"""Loading into Qdrant, in a directory and on a fake server: duplicate ids, interrupted and concurrent loads."""

import gc
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors, with_ids, write_lines
from qdrant_load_helpers import assert_holds, checkpoint_position, found_rows
from reporters import AtRow

import qvec
from qvec.client import Database
from qvec.errors import CollectionError, DatabaseError, InputError
from qvec.ingest import LoadStoppedError, Stop, pipeline
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
        with FakeQdrantServer(tmp_path / "server") as server:
            yield server.url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with qvec.connect(url) as database:
        yield database


class Interrupted(BaseException):
    """Simulates the end of the process."""


@pytest.fixture
def interrupt(kind: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that ends a load before or after its n-th write, as a kill would: it writes no further checkpoint."""
    engine = ENGINES[kind]
    upsert = engine.upsert

    def interrupted(number: int, when: str, run: Callable[[], Any]) -> None:
        calls = 0

        def interrupting_upsert(self: Any, points: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == number and when == "before":
                raise Interrupted
            upsert(self, points)
            if calls == number:
                raise Interrupted

        with monkeypatch.context() as patch:
            patch.setattr(engine, "upsert", interrupting_upsert)
            patch.setattr(loader.QdrantLoader, "disconnect", lambda _: None)
            with pytest.raises(Interrupted):
                run()

    return interrupted


@pytest.fixture
def checkpoint_after_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint after each batch."""
    monkeypatch.setattr(loader, "_CHECKPOINT_SECONDS", 0)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("rescore", "workers"), [("float16", 1), ("float16", 4), ("float32", 2), ("turbo8", 2), ("binary", 2)]
)
def test_load_writes_every_row_once(database: Database, tmp_path: Path, rescore: str, workers: int) -> None:
    np.save(tmp_path / "a.npy", random_vectors(1000))
    summary = load_source(database, tmp_path / "a.npy", rescore=rescore, workers=workers, batch_rows=30)
    assert (summary.rows, summary.total_rows, summary.rejected, summary.resumed_at) == (1000, 1000, 0, 0)
    if rescore.startswith("turbo"):  # the engine does not return the given vectors
        assert found_rows(database).keys() == set(range(1000))
    else:
        assert_holds(database, random_vectors(1000))
    again = load_source(database, tmp_path / "a.npy")
    assert (again.rows, again.resumed_at, again.total_rows) == (0, 1000, 1000)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(("on_duplicate", "kept"), [("replace", "last"), ("skip", "first")])
@pytest.mark.parametrize("batch_rows", [4, 200])
def test_duplicate_ids_keep_the_first_or_last_row(
    database: Database, tmp_path: Path, on_duplicate: str, kept: str, batch_rows: int, workers: int
) -> None:
    """Within a batch, across concurrent batches and across later ones."""
    array = random_vectors(90)
    ids = [row % 9 for row in range(60)] + [row * 7 % 30 for row in range(30)]
    path = write_lines(tmp_path / "a.jsonl", with_ids(array, ids))
    load_source(database, path, on_duplicate=on_duplicate, workers=workers, batch_rows=batch_rows)
    rows = range(90) if kept == "last" else reversed(range(90))
    chosen = {ids[row]: row for row in rows}
    assert_holds(database, array[list(chosen.values())], list(chosen))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("on_duplicate", ["replace", "skip"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("workers", [1, 4])
def test_duplicate_ids_keep_the_same_row_after_an_interruption(
    database: Database,
    tmp_path: Path,
    interrupt: Callable[..., Any],
    on_duplicate: str,
    when: str,
    workers: int,
) -> None:
    array, ids = random_vectors(100), [row % 35 for row in range(100)]
    path = write_lines(tmp_path / "a.jsonl", with_ids(array, ids))
    options = {"on_duplicate": on_duplicate, "workers": workers}
    interrupt(4, when, lambda: load_source(database, path, batch_rows=5, **options))
    load_source(database, path, batch_rows=7, **options)
    rows = range(100) if on_duplicate == "replace" else reversed(range(100))
    chosen = {ids[row]: row for row in rows}
    assert_holds(database, array[list(chosen.values())], list(chosen))


@pytest.mark.parametrize("repeated_at", [4, 7])
def test_existing_id_is_an_error_on_every_attempt(database: Database, tmp_path: Path, repeated_at: int) -> None:
    """The repeated id is in the batch of its first row or in the next one; the rows before it are loaded."""
    ids = list(range(12))
    ids[repeated_at] = 3
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(12), ids))
    for batch_rows in (5, 5, 2, 12):
        with pytest.raises(CollectionError, match=r"^id 3 exists already"):
            load_source(database, path, on_duplicate="error", batch_rows=batch_rows)
    assert checkpoint_position(database, path) == repeated_at
    assert_holds(database, random_vectors(12)[:repeated_at], ids[:repeated_at])


def test_on_duplicate_error_never_replaces_rows_of_another_source(database: Database, tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(10), range(50, 60)))
    second = write_lines(tmp_path / "b.jsonl", with_ids(random_vectors(100, seed=1)))
    load_source(database, first)
    for batch_rows in (10, 10, 20, 7):
        with pytest.raises(CollectionError, match=r"^id 50 exists already"):
            load_source(database, second, on_duplicate="error", batch_rows=batch_rows)
    found = found_rows(database)
    load_source(database, first, collection="alone", calibration=database.collection("docs").calibration)
    assert {id: row for id, row in found.items() if id in range(50, 60)} == found_rows(database, "alone")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("batch_rows", [5, 35])
def test_continued_load_accepts_its_own_rows(
    database: Database, tmp_path: Path, interrupt: Callable[..., Any], when: str, batch_rows: int
) -> None:
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(100)))
    for number in (4, 3, 1):
        interrupt(number, when, lambda: load_source(database, path, on_duplicate="error", batch_rows=10))
    summary = load_source(database, path, on_duplicate="error", batch_rows=batch_rows)
    assert summary.resumed_at == 50
    assert_holds(database, random_vectors(100))


def test_continued_load_refuses_rows_of_another_source(
    database: Database, tmp_path: Path, interrupt: Callable[..., Any]
) -> None:
    """The load is interrupted in rows 10 to 20, another source writes id 25, and the next batch covers both."""
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(100)))
    interrupt(2, "after", lambda: load_source(database, path, on_duplicate="error", batch_rows=10))
    load_source(database, write_lines(tmp_path / "b.jsonl", with_ids(random_vectors(1, seed=1), [25])))
    for _ in range(2):
        with pytest.raises(CollectionError, match=r"^id 25 exists already"):
            load_source(database, path, on_duplicate="error", batch_rows=40)
    assert load_source(database, path, on_duplicate="skip").total_rows == 100


def test_rejected_rows_do_not_shift_the_rows_a_continued_load_accepts(
    database: Database, tmp_path: Path, interrupt: Callable[..., Any]
) -> None:
    lines = with_ids(random_vectors(100))
    bad = (1, 12, 14, 23)
    for row in bad:
        lines[row] = "{"
    path = write_lines(tmp_path / "a.jsonl", lines)
    options = {"on_duplicate": "error", "on_error": "skip"}
    interrupt(2, "after", lambda: load_source(database, path, batch_rows=10, **options))
    load_source(database, write_lines(tmp_path / "b.jsonl", with_ids(random_vectors(1, seed=1), [20])))
    with pytest.raises(CollectionError, match=r"^id 20 exists already"):
        load_source(database, path, batch_rows=40, **options)
    assert load_source(database, path, batch_rows=10, on_duplicate="replace", on_error="skip").rejected == len(bad)
    kept = [row for row in range(100) if row not in bad]
    assert_holds(database, random_vectors(100)[kept], kept)


@pytest.mark.usefixtures("checkpoint_after_each_batch")
@pytest.mark.parametrize("workers", [1, 3])
def test_bad_row_stops_a_load_before_its_batch(database: Database, tmp_path: Path, workers: int) -> None:
    lines = with_ids(random_vectors(100))
    lines[57] = "{"
    path, rejects = write_lines(tmp_path / "a.jsonl", lines), tmp_path / "rejects.jsonl"
    with pytest.raises(InputError, match=r"^a\.jsonl, line 58: "):
        load_source(database, path, batch_rows=10, workers=workers)
    assert_holds(database, random_vectors(100)[:50])
    summary = load_source(database, path, batch_rows=10, on_error="skip", rejects=rejects, workers=workers)
    assert (summary.rows, summary.resumed_at, summary.rejected, summary.total_rows) == (49, 50, 1, 99)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == [57]


def test_checkpoint_is_written_before_a_bad_row_stops_the_load(database: Database, tmp_path: Path) -> None:
    """Even if the next regular checkpoint is due a second later."""
    lines = with_ids(random_vectors(100))
    lines[57] = "{"
    path = write_lines(tmp_path / "a.jsonl", lines)
    with pytest.raises(InputError):
        load_source(database, path, batch_rows=10)
    assert checkpoint_position(database, path) == 50


@pytest.mark.parametrize("workers", [1, 3])
def test_stopped_load_continues_at_its_checkpoint(database: Database, tmp_path: Path, workers: int) -> None:
    np.save(tmp_path / "a.npy", random_vectors(1000))
    stop = Stop()
    with pytest.raises(LoadStoppedError):
        load_source(database, tmp_path / "a.npy", AtRow(300, stop.set), stop, batch_rows=20, workers=workers)
    stopped_at = checkpoint_position(database, tmp_path / "a.npy")
    assert 300 <= stopped_at <= 300 + 20 * workers
    assert_holds(database, random_vectors(1000)[:stopped_at])
    summary = load_source(database, tmp_path / "a.npy", batch_rows=20, workers=workers)
    assert (summary.rows, summary.resumed_at) == (1000 - stopped_at, stopped_at)
    assert_holds(database, random_vectors(1000))


def test_continuing_with_a_changed_source_is_refused(database: Database, tmp_path: Path) -> None:
    stop = Stop()
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(100)))
    with pytest.raises(LoadStoppedError):
        load_source(database, path, AtRow(30, stop.set), stop, batch_rows=10)
    write_lines(path, with_ids(random_vectors(100, seed=1)))
    with pytest.raises(InputError, match=r"a\.jsonl has changed since its load was interrupted at row \d+; --restart"):
        load_source(database, path)
    assert load_source(database, path, restart=True).rows == 100
    assert_holds(database, random_vectors(100, seed=1))


def test_changed_source_is_loaded_again_after_a_finished_load(database: Database, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(100)))
    load_source(database, path)
    write_lines(path, with_ids(random_vectors(80, seed=1)))
    assert load_source(database, path).rows == 80
    found = found_rows(database)
    assert len(found) == 100
    assert load_source(database, path, restart=True).rows == 80
    assert found_rows(database) == found


@pytest.mark.usefixtures("checkpoint_after_each_batch")
def test_id_start_auto_continues_after_the_last_source(database: Database, tmp_path: Path) -> None:
    both = random_vectors(150)
    np.save(tmp_path / "a.npy", both[:100])
    np.save(tmp_path / "b.npy", both[100:])
    load_source(database, tmp_path / "a.npy", batch_rows=10)
    with pytest.raises(InputError, match=r"b\.npy has no ids, .* --id-start auto \(from 100\)"):
        load_source(database, tmp_path / "b.npy")
    assert checkpoint_position(database, tmp_path / "b.npy") == -1
    assert load_source(database, tmp_path / "b.npy", id_start="auto", batch_rows=10).rows == 50
    assert_holds(database, both)
    assert load_source(database, tmp_path / "b.npy", restart=True, id_start="auto").rows == 50
    assert_holds(database, both)


def test_id_start_auto_is_refused_while_another_load_is_unfinished(database: Database, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    np.save(tmp_path / "b.npy", random_vectors(10, seed=1))
    stop = Stop()
    with pytest.raises(LoadStoppedError):
        load_source(database, tmp_path / "a.npy", AtRow(30, stop.set), stop, batch_rows=10)
    with pytest.raises(InputError, match=r"neither has .*a\.npy, which is not loaded to its end"):
        load_source(database, tmp_path / "b.npy", id_start="auto")
    assert load_source(database, tmp_path / "b.npy", id_start=500).rows == 10
    load_source(database, tmp_path / "a.npy")
    assert_holds(
        database, np.concatenate([random_vectors(100), random_vectors(10, seed=1)]), [*range(100), *range(500, 510)]
    )


def test_load_with_explicit_id_start_may_run_beside_another(database: Database, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    np.save(tmp_path / "b.npy", random_vectors(10, seed=1))
    stop = Stop()
    with pytest.raises(LoadStoppedError):
        load_source(database, tmp_path / "a.npy", AtRow(30, stop.set), stop, batch_rows=10, id_start=500)
    assert load_source(database, tmp_path / "b.npy", id_start=0).rows == 10
    load_source(database, tmp_path / "a.npy")
    assert found_rows(database).keys() == {*range(10), *range(500, 600)}


def run_concurrently(*loads: Callable[[], Any]) -> list[BaseException | None]:
    """Run loads in threads; return the error of each, or None."""
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_concurrent_loads_with_automatic_ids_never_share_ids(url: str, tmp_path: Path, seed: int) -> None:
    arrays = [random_vectors(60, seed=10 * seed + number) for number in range(3)]
    calibration = qvec.Calibration.fit(np.concatenate(arrays))
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    with qvec.connect(url) as database:
        database.create_collection("docs", calibration=calibration)

        def load_numbered(number: int) -> None:
            with qvec.connect(url) as own:
                load_source(own, tmp_path / f"{number}.npy", id_start="auto", batch_rows=10)

        refused = run_concurrently(*(lambda number=number: load_numbered(number) for number in range(3)))
        assert all(error is None or isinstance(error, InputError) for error in refused)
        for number, error in enumerate(refused):
            if error is not None:
                load_numbered(number)
        found = found_rows(database)
        assert found.keys() == set(range(180))
        rows = sorted(found.values())
        for number in range(3):
            load_source(database, tmp_path / f"{number}.npy", collection=f"alone{number}", calibration=calibration)
        alone = [row for number in range(3) for row in found_rows(database, f"alone{number}").values()]
        assert rows == sorted(alone)


def test_automatic_ids_are_released_if_another_load_wrote_rows(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another load runs between reading the next id and storing the reservation."""
    np.save(tmp_path / "a.npy", random_vectors(20))
    np.save(tmp_path / "b.npy", random_vectors(30, seed=1))
    database.create_collection("docs", calibration=qvec.Calibration.fit(random_vectors(100)))
    registry = loader.QdrantLoadRegistry
    next_id = registry.next_id

    def next_id_after_other_load(self: Any) -> int:
        found = next_id(self)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "next_id", next_id)
            load_source(database, tmp_path / "b.npy")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(registry, "next_id", next_id_after_other_load)
        with pytest.raises(InputError, match="another source began to load into collection 'docs' at the same time"):
            load_source(database, tmp_path / "a.npy")
    assert_holds(database, random_vectors(30, seed=1))
    assert checkpoint_position(database, tmp_path / "a.npy") == -1
    load_source(database, tmp_path / "a.npy", id_start="auto")
    assert_holds(database, np.concatenate([random_vectors(30, seed=1), random_vectors(20)]))


@pytest.mark.usefixtures("checkpoint_after_each_batch")
@pytest.mark.parametrize("on_duplicate", ["replace", "error"])
def test_two_concurrent_loads_of_one_source(kind: str, url: str, tmp_path: Path, on_duplicate: str) -> None:
    """In a directory the second load is refused. On a server the first one ends, since the second cannot detect it."""
    np.save(tmp_path / "a.npy", random_vectors(200))
    errors: list[BaseException | None] = []
    options = {"on_duplicate": on_duplicate, "batch_rows": 20, "workers": 1}

    def second() -> None:
        with qvec.connect(url) as other:
            errors.extend(run_concurrently(lambda: load_source(other, tmp_path / "a.npy", **options)))

    with qvec.connect(url) as database:
        errors += run_concurrently(lambda: load_source(database, tmp_path / "a.npy", AtRow(60, second), **options))
        of_second, of_first = map(str, errors)
        if kind == "directory":
            assert "another thread is loading" in of_second
            assert of_first == "None"
        else:
            assert of_second == "None"
            assert of_first.startswith("another process began to load")
        assert_holds(database, random_vectors(200))
        assert load_source(database, tmp_path / "a.npy").rows == 0


@pytest.mark.usefixtures("checkpoint_after_each_batch")
@pytest.mark.parametrize("created_again", [False, True])
def test_dropping_a_collection_ends_its_load_and_removes_its_checkpoint(
    database: Database, tmp_path: Path, created_again: bool
) -> None:
    """Also if a collection of the same name is created immediately: its first rows would be missing."""
    np.save(tmp_path / "a.npy", random_vectors(200))

    def drop() -> None:
        calibration = database.collection("docs").calibration
        database.drop_collection("docs")
        if created_again:
            database.create_collection("docs", calibration=calibration)

    with pytest.raises((CollectionError, DatabaseError), match="docs"):
        load_source(database, tmp_path / "a.npy", AtRow(60, drop), batch_rows=20)
    if created_again:
        assert load_source(database, tmp_path / "a.npy", id_start=0, batch_rows=20).rows == 200
    else:
        assert not database.has_collection("docs")
        assert load_source(database, tmp_path / "a.npy", batch_rows=20).rows == 200
    assert_holds(database, random_vectors(200))


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_of_a_retried_batch_are_counted_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """With on_duplicate="skip" the second attempt finds the batch's rows already stored."""
    monkeypatch.setattr(pipeline, "_RETRY_SECONDS", (0.01,) * 3)
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(100)))
    commit, commits = loader.QdrantLoader.commit, 0

    def commit_or_fail(self: Any, *arguments: Any) -> None:
        nonlocal commits
        commits += 1
        if commits in (3, 5):
            raise ConnectionLostError("the line went dead")
        commit(self, *arguments)

    monkeypatch.setattr(loader.QdrantLoader, "commit", commit_or_fail)
    assert load_source(database, path, on_duplicate="skip", batch_rows=10, workers=workers).rows == 100
    assert_holds(database, random_vectors(100))


def test_metadata_indexes_are_created_before_the_first_row(
    database: Database, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, calls = ENGINES[kind], []
    for name in ("index_metadata", "upsert"):
        real = getattr(engine, name)
        monkeypatch.setattr(
            engine, name, lambda *arguments, real=real, name=name: (calls.append(name), real(*arguments))[1]
        )
    lines = [{**line, "year": row} for row, line in enumerate(with_ids(random_vectors(50))) if isinstance(line, dict)]
    indexes = tuple(map(MetadataIndex.parse, ("year:integer", "kind:keyword")))
    load_source(database, write_lines(tmp_path / "a.jsonl", lines), index_metadata=indexes, batch_rows=10)
    assert calls == ["index_metadata"] * 2 + ["upsert"] * 5
    hits = database.collection("docs").search(random_vectors(1)[0], 50, filter={"year": {"$lt": 7}})
    assert sorted(hit.id for hit in hits) == list(range(7))


def test_checkpoint_is_never_ahead_of_flushed_rows(
    database: Database, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compare the rows written before each flush with the position of the next checkpoint."""
    engine, backend = ENGINES[kind], type(database.store.backend)
    upsert, flush, write_load = engine.upsert, engine.flush, backend.write_load
    written = flushed = 0
    positions = []

    def counting_upsert(self: Any, points: Any) -> None:
        nonlocal written
        upsert(self, points)
        written += len(points)

    def counting_flush(self: Any) -> None:
        nonlocal flushed
        flush(self)
        flushed = written

    def checking_write_load(self: Any, name: str, source: str, state: Any) -> None:
        assert state["position"] <= flushed
        positions.append(state["position"])
        write_load(self, name, source, state)

    monkeypatch.setattr(engine, "upsert", counting_upsert)
    monkeypatch.setattr(engine, "flush", counting_flush)
    monkeypatch.setattr(backend, "write_load", checking_write_load)
    monkeypatch.setattr(loader, "_CHECKPOINT_SECONDS", 0.002)
    np.save(tmp_path / "a.npy", random_vectors(1000))
    load_source(database, tmp_path / "a.npy", batch_rows=10, workers=4)
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


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_loads_leave_no_open_threads_and_files(url: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_vectors(200))

    def load_again(workers: int = 2) -> None:
        with qvec.connect(url) as database:
            load_source(database, tmp_path / "a.npy", restart=True, batch_rows=10, id_start=0, workers=workers)

    load_again(workers=16)
    gc.collect()
    threads, files = threading.active_count(), len(open_files())
    for _ in range(8):
        load_again()
    gc.collect()
    assert threading.active_count() < threads + 8, "one for each load; the fake server may have started some"
    assert len(open_files()) < files + 8, open_files()
