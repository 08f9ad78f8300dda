"""Building a collection's index: memory, workers, progress, and what happens beside it."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from ingest_helpers import vectors
from psycopg import errors
from qvec.postgres.indexing import Machine
from qvec.postgres.steps import Steps, perform

import qvec
from qvec import Calibration
from qvec.client import Collection
from qvec.postgres import indexing


@pytest.fixture
def collection(url: str) -> Iterator[Collection]:
    with qvec.connect(url) as database:
        array = vectors(3000)
        collection = database.create_collection("docs", calibration=Calibration.fit(array))
        collection.upsert(range(3000), array)
        yield collection


def test_progress_is_told_and_the_index_is_there(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "_POLL_SECONDS", 0.005)
    told: list[tuple[int, int]] = []
    assert not collection.has_index()
    collection.build_index(lambda done, total: told.append((done, total)))
    assert collection.has_index()
    assert told
    assert all(0 <= done <= total for done, total in told)
    told.clear()
    collection.build_index(lambda done, total: told.append((done, total)))
    assert not told


def test_without_shared_memory_the_build_is_serial(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    create, tried = indexing._create, []

    def full(table: Any, machine: Machine) -> Steps[None]:
        tried.append(machine.workers)
        if machine.workers:
            raise errors.DiskFull("could not resize shared memory segment: No space left on device")
        yield from create(table, machine)

    def two_workers() -> Steps[Machine]:
        yield from ()
        return Machine(256 << 20, 2)

    monkeypatch.setattr(indexing, "_create", full)
    monkeypatch.setattr(collection._store, "machine", two_workers)
    collection.build_index()
    assert tried == [2, 0]
    assert collection.has_index()


def test_memory_and_workers_are_set_for_the_build_alone(
    collection: Collection, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("maintenance_work_mem", "max_parallel_maintenance_workers", "statement_timeout")
    seen: list[tuple[str, ...]] = []
    create_index = indexing.statements.create_index

    def looking(table: Any) -> Any:
        seen.append(tuple(builder.execute(f"SHOW {name}".encode()).fetchone()[0] for name in names))
        return create_index(table)

    monkeypatch.setattr(indexing.statements, "create_index", looking)
    with psycopg.connect(url, autocommit=True) as builder:
        builder.execute("SET statement_timeout = '5s'")
        perform(builder, indexing.build(collection.stored.table, Machine(100 << 20, 1)))
        assert seen == [("64MB", "1", "0")]
        assert builder.execute("SHOW statement_timeout").fetchone() == ("5s",)


def test_two_builds_at_once_end_with_one_index(collection: Collection) -> None:
    failures: list[BaseException] = []

    def build() -> None:
        try:
            collection.build_index()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert collection.has_index()
