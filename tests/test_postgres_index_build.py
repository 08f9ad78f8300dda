"""Building a collection's index in Postgres: memory, workers, progress, and concurrent builds."""

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from ingest_helpers import random_vectors
from psycopg import errors

import qvec
from qvec import Calibration, Collection
from qvec.postgres import machine
from qvec.postgres._sync import indexes
from qvec.postgres.machine import Machine


@pytest.fixture
def collection(url: str) -> Iterator[Collection]:
    with qvec.connect(url) as database:
        array = random_vectors(3000)
        collection = database.create_collection("docs", calibration=Calibration.fit(array))
        collection.upsert(range(3000), array)
        yield collection


def test_progress_is_reported_until_the_index_exists(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_POLL_SECONDS", 0.005)
    reported: list[tuple[int, int | None]] = []
    assert not collection.has_index()
    collection.build_index(lambda done, total: reported.append((done, total)))
    assert collection.has_index()
    assert reported
    assert all(total is not None and 0 <= done <= total for done, total in reported)
    reported.clear()
    collection.build_index(lambda done, total: reported.append((done, total)))
    assert not reported


def test_build_is_serial_without_shared_memory(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    create, tried = indexes._create, []

    def create_without_shared_memory(connection: Any, table: Any, machine: Machine) -> None:
        tried.append(machine.workers)
        if machine.workers:
            raise errors.DiskFull("could not resize shared memory segment: No space left on device")
        create(connection, table, machine)

    monkeypatch.setattr(indexes, "_create", create_without_shared_memory)
    monkeypatch.setattr(indexes, "remote_machine", lambda _: Machine(256 << 20, 2))
    collection.build_index()
    assert tried == [2, 0]
    assert collection.has_index()


def test_memory_and_workers_are_set_only_for_the_build(
    collection: Collection, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("maintenance_work_mem", "max_parallel_maintenance_workers", "statement_timeout")
    seen: list[tuple[str, ...]] = []
    create_index = indexes.statements.create_index

    def show_settings(table: Any) -> Any:
        seen.append(tuple(builder.execute(f"SHOW {name}".encode()).fetchone()[0] for name in names))
        return create_index(table)

    monkeypatch.setattr(indexes.statements, "create_index", show_settings)
    with psycopg.connect(url, autocommit=True) as builder:
        builder.execute("SET statement_timeout = '5s'")
        indexes.build(builder, collection.stored.table, Machine(100 << 20, 1))
        assert seen == [("64MB", "1", "0")]
        assert builder.execute("SHOW statement_timeout").fetchone() == ("5s",)


def test_concurrent_builds_end_with_one_index(collection: Collection) -> None:
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
