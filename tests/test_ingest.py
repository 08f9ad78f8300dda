"""Loads: ids, duplicates, changed sources and existing collections."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_helpers import assert_holds, load_source, random_vectors, with_ids, write_lines

from qvec import Calibration, RangeMethod
from qvec.client import Database
from qvec.client.bulk import open_loader
from qvec.errors import CalibrationError, CollectionError, DatabaseError, InputError
from qvec.ingest import FitOptions, Reporter
from qvec.ingest.encoder import Encoder
from qvec.metadata_index import MetadataIndex
from qvec.postgres import locks
from qvec.postgres.loader import PostgresLoadRegistry


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


class Recorder(Reporter):
    """Record the reports of a load."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.stages: list[tuple[str, int | None]] = []
        self.finished: list[str] = []
        self.done: dict[str, int] = {}

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append((name, total))

    def advance(self, name: str, done: int, total: int | None = None) -> None:  # noqa: ARG002
        self.done[name] = done

    def finish(self, name: str) -> None:
        self.finished.append(name)

    def say(self, message: str) -> None:
        self.messages.append(message)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("rescore", ["int8", "int4", "float16", "float32"])
@pytest.mark.parametrize("workers", [1, 3])
def test_load_writes_every_row_once(database: Database, tmp_path: Path, rescore: str, workers: int) -> None:
    array = random_vectors(1003)
    recorder = Recorder()
    summary = load_source(
        database, save_npy(tmp_path / "a.npy", array), recorder, rescore=rescore, workers=workers, batch_rows=100
    )
    assert_holds(database, array)
    assert (summary.rows, summary.total_rows, summary.rejected, summary.resumed_at) == (1003, 1003, 0, 0)
    assert summary.calibration == database.collection("docs").calibration.id
    assert summary.rows_per_second == pytest.approx(1003 / summary.seconds, rel=0.05)
    assert recorder.stages == [("sampling", 1003), ("loading", 1003)]
    assert recorder.finished == ["sampling", "loading"]
    assert recorder.done == {"sampling": 1003, "loading": 1003}
    assert "drawn uniformly" in recorder.messages[0]


@pytest.mark.parametrize(("rescore", "quantile"), [("int8", 0.9999), ("int4", 0.99), ("float16", 0.9999)])
def test_default_ranges_depend_on_the_precision(
    database: Database, tmp_path: Path, rescore: str, quantile: float
) -> None:
    array = random_vectors(500)
    load_source(database, save_npy(tmp_path / "a.npy", array), rescore=rescore)
    found = database.collection("docs").calibration
    expected = Calibration.fit(array, ranges=RangeMethod("quantile", quantile=quantile))
    assert found.description["method"]["quantile"] == quantile
    np.testing.assert_array_equal(found.radius, expected.radius)


def test_bytes_per_vector_equal_collection_info(database: Database, tmp_path: Path) -> None:
    summary = load_source(database, save_npy(tmp_path / "a.npy", random_vectors(500)), index=True)
    info = database.collection("docs").info()
    assert info.index_bytes
    assert info.table_bytes
    assert summary.bytes_per_vector == {
        "table": round(info.table_bytes / 500, 1),
        "index": round(info.index_bytes / 500, 1),
        "ram": None,
    }


def test_info_gives_the_bytes_of_each_part(database: Database) -> None:
    vectors = random_vectors(500)
    docs = database.create_collection("a docs", calibration=Calibration.fit(vectors), rescore="float32")
    empty = docs.info().part_bytes
    assert empty
    assert (empty["heap"], empty["other_indexes"], empty["prefilter_index"]) == (0, 0, 0)
    docs.upsert(range(500), vectors)
    filled = docs.info().part_bytes
    assert filled
    assert filled["heap"] >= vectors.nbytes
    assert filled["primary_key"] > empty["primary_key"]
    incompressible = [np.random.default_rng(row).bytes(20_000).hex() for row in range(2)]
    docs.upsert([0, 1], vectors[:2], incompressible, [{"page": 1}, {"page": 2}])
    docs.index_metadata([MetadataIndex("page", "integer")])
    docs.build_index()
    info = docs.info()
    parts = info.part_bytes
    assert parts
    assert parts["toast"] >= empty["toast"] + 40_000
    assert parts["other_indexes"] > 0 < parts["prefilter_index"]
    assert (info.table_bytes, info.index_bytes) == (sum(parts.values()) - info.index_bytes, parts["prefilter_index"])
    assert info.as_dict()["part_bytes_per_vector"]["heap"] == round(parts["heap"] / 500, 1)


def test_finished_source_is_not_loaded_again(database: Database, tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(50))
    load_source(database, path)
    database.collection("docs").delete([7])
    recorder = Recorder()
    summary = load_source(database, path, recorder)
    assert (summary.rows, summary.resumed_at, summary.total_rows) == (0, 50, 49)
    assert "is already loaded" in recorder.messages[0]
    assert load_source(database, path, restart=True).rows == 50
    assert_holds(database, random_vectors(50))


def test_second_run_builds_a_missing_index(database: Database, tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(50))
    load_source(database, path, index=False)
    assert not database.collection("docs").has_index()
    load_source(database, path, index=True)
    assert database.collection("docs").has_index()


def test_changed_source_with_ids_replaces_its_rows(database: Database, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(50)))
    load_source(database, path)
    write_lines(path, with_ids(random_vectors(60, seed=1)))
    recorder = Recorder()
    assert load_source(database, path, recorder).rows == 60
    assert "has changed since it was loaded" in recorder.messages[0]
    assert_holds(database, random_vectors(60, seed=1))


def test_changed_source_without_ids_needs_id_start(database: Database, tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(50))
    load_source(database, path)
    save_npy(path, random_vectors(60, seed=1))
    for restart in (False, True):
        with pytest.raises(InputError, match=r"a\.npy has no ids.*--id-start auto \(from 50\) or --id-start N"):
            load_source(database, path, restart=restart)
    assert_holds(database, random_vectors(50))
    load_source(database, path, id_start=0)
    assert_holds(database, random_vectors(60, seed=1))


class BrokenReaderError(Exception):
    """Raised to stop a load after some batches, like an error of a reader."""


def interrupt(database: Database, path: Path, monkeypatch: pytest.MonkeyPatch, at: int, **options: Any) -> None:
    """Run a load that fails before source row `at`."""
    complete = Encoder.batches

    def broken(self: Encoder, start: int, rows: int) -> Iterator[Any]:
        for batch in complete(self, start, rows):
            if batch.start >= at:
                raise BrokenReaderError
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "batches", broken)
        with pytest.raises(BrokenReaderError):
            load_source(database, path, batch_rows=10, **options)


@pytest.mark.parametrize("workers", [1, 3])
def test_interrupted_load_resumes_at_its_checkpoint(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(100))
    interrupt(database, path, monkeypatch, at=40, workers=workers)
    assert_holds(database, random_vectors(100)[:40])
    recorder = Recorder()
    summary = load_source(database, path, recorder, workers=workers)
    assert (summary.rows, summary.resumed_at) == (60, 40)
    assert "continuing at row 40" in recorder.messages
    assert_holds(database, random_vectors(100))


def test_source_changed_during_an_interrupted_load_is_refused(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(100))
    interrupt(database, path, monkeypatch, at=40)
    save_npy(path, random_vectors(100, seed=1))
    with pytest.raises(InputError, match=r"a\.npy has changed since.*interrupted at row 40; --restart"):
        load_source(database, path)
    assert_holds(database, random_vectors(100)[:40])
    load_source(database, path, restart=True)
    assert_holds(database, random_vectors(100, seed=1))


def test_source_may_change_before_its_first_row_is_loaded(database: Database, tmp_path: Path) -> None:
    rows = with_ids(random_vectors(20))
    path = write_lines(tmp_path / "a.jsonl", [*rows, "{"])
    with pytest.raises(InputError, match="line 21: is not valid JSON"):
        load_source(database, path)
    load_source(database, write_lines(path, rows))
    assert_holds(database, random_vectors(20))


def test_second_source_adds_rows(database: Database, tmp_path: Path) -> None:
    both = random_vectors(80)
    load_source(database, write_lines(tmp_path / "a.jsonl", with_ids(both[:50])))
    load_source(database, write_lines(tmp_path / "b.jsonl", with_ids(both[50:], range(50, 80))))
    assert_holds(database, both)


def test_second_source_without_ids_needs_id_start(database: Database, tmp_path: Path) -> None:
    both = random_vectors(80)
    load_source(database, save_npy(tmp_path / "a.npy", both[:50]))
    second = save_npy(tmp_path / "b.npy", both[50:])
    with pytest.raises(InputError, match=r"b\.npy has no ids, and collection 'docs' holds rows already"):
        load_source(database, second)
    assert_holds(database, both[:50])
    load_source(database, second, id_start="auto")
    assert_holds(database, both)
    load_source(database, save_npy(tmp_path / "c.npy", both[:5]), id_start=1000)
    assert_holds(database, np.concatenate([both, both[:5]]), [*range(80), *range(1000, 1005)])


def test_id_start_auto_is_refused_while_another_load_is_unfinished(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = random_vectors(130)
    first, second = save_npy(tmp_path / "a.npy", both[:100]), save_npy(tmp_path / "b.npy", both[100:])
    interrupt(database, first, monkeypatch, at=40)
    with pytest.raises(InputError, match=r"a\.npy, which is not loaded to its end; finish that load first"):
        load_source(database, second, id_start="auto")
    load_source(database, first)
    load_source(database, second, id_start="auto")
    assert_holds(database, both)


def test_concurrent_loads_assign_distinct_ids(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_source(database, save_npy(tmp_path / "a.npy", random_vectors(10)))
    find = PostgresLoadRegistry.unfinished_without_ids

    def find_slowly(registry: PostgresLoadRegistry) -> str | None:
        found = find(registry)
        time.sleep(0.5)
        return found

    monkeypatch.setattr(PostgresLoadRegistry, "unfinished_without_ids", find_slowly)
    paths = [save_npy(tmp_path / name, random_vectors(40, seed=seed)) for seed, name in enumerate(("b.npy", "c.npy"))]
    with ThreadPoolExecutor() as executor:
        loads = [executor.submit(load_source, database, path, id_start="auto") for path in paths]
    errors = [future.exception() for future in loads if future.exception()]
    assert all("finish that load first" in str(error) for error in errors)
    assert database.collection("docs").count() == 10 + 40 * (2 - len(errors))


def test_duplicate_ids_across_sources(database: Database, tmp_path: Path) -> None:
    old, new = random_vectors(50), random_vectors(50, seed=1)
    load_source(database, write_lines(tmp_path / "a.jsonl", with_ids(old)))
    second = write_lines(tmp_path / "b.jsonl", with_ids(new, range(40, 90)))
    with pytest.raises(CollectionError, match=r"\(id\)=\(40\) exists already; to replace or skip such rows"):
        load_source(database, second, on_duplicate="error", batch_rows=10)
    assert_holds(database, old)
    assert load_source(database, second, on_duplicate="skip", batch_rows=10).rows == 40
    assert_holds(database, np.concatenate([old, new[10:]]))
    assert load_source(database, second, on_duplicate="replace", batch_rows=10, restart=True).rows == 50
    assert_holds(database, np.concatenate([old[:40], new]))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("distance", [1, 7, 35, 90], ids=["same batch", "near", "next batches", "far"])
@pytest.mark.parametrize("on_duplicate", ["replace", "skip"])
def test_duplicate_ids_within_a_source(
    database: Database, tmp_path: Path, on_duplicate: str, distance: int, workers: int
) -> None:
    array = random_vectors(200)
    ids = list(range(200))
    for row in range(distance, 200, 17):
        ids[row] = ids[row - distance]
    path = write_lines(tmp_path / "a.jsonl", with_ids(array, ids))
    load_source(database, path, on_duplicate=on_duplicate, workers=workers, batch_rows=10)
    rows = {}
    for row, id in enumerate(ids):
        if on_duplicate == "replace" or id not in rows:
            rows[id] = row
    assert_holds(database, array[list(rows.values())], list(rows))


@pytest.mark.parametrize("workers", [1, 3])
def test_duplicate_error_keeps_earlier_batches(database: Database, tmp_path: Path, workers: int) -> None:
    array, ids = random_vectors(100), [*range(55), 3, *range(56, 100)]
    path = write_lines(tmp_path / "a.jsonl", with_ids(array, ids))
    for _ in range(2):
        with pytest.raises(CollectionError, match=r"\(id\)=\(3\) exists already"):
            load_source(database, path, on_duplicate="error", workers=workers, batch_rows=10)
        assert_holds(database, array[:50])
    load_source(database, path, on_duplicate="skip", workers=workers, batch_rows=10)
    kept = [*range(55), *range(56, 100)]
    assert_holds(database, array[kept], kept)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rescore": "float16"}, "has rescore int8, not float16"),
        ({"prefilter": "binary"}, "has prefilter levels6, not binary"),
        ({"model": "other"}, "has model mine, not other"),
        ({"calibration": Calibration.fit(random_vectors(100, seed=5))}, "has calibration .* codes of two calibrations"),
    ],
)
def test_settings_that_differ_from_the_collection_are_refused(
    database: Database, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(50))
    load_source(database, path, model="mine")
    with pytest.raises(CollectionError, match=reason):
        load_source(database, path, restart=True, **options)
    same = {"rescore": "int8", "prefilter": "levels6", "model": "mine"}
    assert load_source(database, path, calibration=database.collection("docs").calibration, **same).rows == 0


@pytest.mark.parametrize(
    ("fit", "reason"),
    [
        (FitOptions(metric="ip"), "--metric is ip, but calibration [0-9a-f]{16} has cosine"),
        (FitOptions(threshold=0), "--threshold is 0, but calibration [0-9a-f]{16} has 1.0"),
        (FitOptions(ranges=RangeMethod("minmax")), "--ranges is minmax, but .* has rolling"),
        (FitOptions(dimensions=3), "--dimensions is 3, but .* has 4"),
    ],
)
def test_fit_options_that_differ_from_the_calibration_are_refused(
    database: Database, tmp_path: Path, fit: FitOptions, reason: str
) -> None:
    as_fitted = FitOptions(threshold=1, ranges=RangeMethod("rolling"), dimensions=4)
    load_source(database, save_npy(tmp_path / "a.npy", random_vectors(50)), fit=as_fitted)
    second = save_npy(tmp_path / "b.npy", random_vectors(20, seed=1))
    calibration = database.collection("docs").calibration
    for options in ({"id_start": "auto"}, {"collection": "new", "calibration": calibration}):
        with pytest.raises(CalibrationError, match=reason):
            load_source(database, second, fit=fit, **options)
        assert load_source(database, second, fit=as_fitted, **options).rows == 20


def test_ids_of_another_type_are_refused(database: Database, tmp_path: Path) -> None:
    load_source(database, write_lines(tmp_path / "a.jsonl", with_ids(random_vectors(3), ["a", "b", "ö"])))
    assert_holds(database, random_vectors(3), ["a", "b", "ö"])
    with pytest.raises(CollectionError, match=r"has text ids, but .*b\.jsonl has bigint ids"):
        load_source(database, write_lines(tmp_path / "b.jsonl", with_ids(random_vectors(3))))
    with pytest.raises(CollectionError, match=r"has text ids, but .*c\.npy has no ids, and row numbers are bigint"):
        load_source(database, save_npy(tmp_path / "c.npy", random_vectors(3)))


def test_wrong_dimensions_are_refused_before_any_write(database: Database, tmp_path: Path) -> None:
    calibration = Calibration.fit(random_vectors(50))
    wide = save_npy(tmp_path / "wide.npy", random_vectors(50, dimensions=12))
    with pytest.raises(InputError, match=r"wide\.npy has 12 dimensions, but collection 'docs' takes 8"):
        load_source(database, wide, calibration=calibration)
    assert not database.has_collection("docs")
    load_source(database, save_npy(tmp_path / "a.npy", random_vectors(50)), calibration=calibration)
    with pytest.raises(InputError, match=r"wide\.npy has 12 dimensions"):
        load_source(database, wide)
    assert_holds(database, random_vectors(50))


def test_source_is_loaded_by_one_process_at_a_time(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_SECONDS_BETWEEN_TRIES", 0.01)
    path, other = save_npy(tmp_path / "a.npy", random_vectors(50)), save_npy(tmp_path / "b.npy", random_vectors(50))
    with open_loader(database, "docs", str(path), "replace", 1):
        with pytest.raises(DatabaseError, match=r"another process is loading .*a\.npy into collection 'docs'"):
            load_source(database, path)
        assert not database.has_collection("docs")
        load_source(database, other)
    assert load_source(database, path, id_start="auto").rows == 50


def test_id_start_beyond_bigint_is_refused(database: Database, tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", random_vectors(50))
    for id_start in (2**63 - 50, 2**64, -1):
        with pytest.raises(InputError, match=rf"--id-start is {id_start}, expected 0 to {2**63 - 51} for .*a\.npy"):
            load_source(database, path, id_start=id_start)
    assert not database.has_collection("docs")
    load_source(database, path, id_start=2**63 - 51)
    assert_holds(database, random_vectors(50), range(2**63 - 51, 2**63 - 1))


def test_rows_with_a_zero_prefix_are_rejected_and_not_sampled(database: Database, tmp_path: Path) -> None:
    array = random_vectors(100)
    array[7, :4] = 0
    load_source(database, save_npy(tmp_path / "a.npy", array), fit=FitOptions(dimensions=4), on_error="skip")
    kept = [row for row in range(100) if row != 7]
    assert_holds(database, array[kept], kept)
    assert database.collection("docs").calibration.description["sample"]["size"] == 99


def test_calibration_of_large_float16_vectors_does_not_overflow(database: Database, tmp_path: Path) -> None:
    """The squares exceed float16; a warning would fail the test."""
    array = (100 * random_vectors(50)).astype(np.float16)
    load_source(database, save_npy(tmp_path / "a.npy", array))
    assert_holds(database, array)
