"""Databases opened read-only: every store refuses to write, before it writes anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from conftest import realistic
from databases import Store
from numpy.typing import NDArray

import qvec
from qvec import Calibration, DatabaseError
from qvec.client import Collection
from qvec.client.bulk import open_loader
from qvec.defaults import DEFAULT_OVERSAMPLING
from qvec.metadata_index import MetadataIndex

Vectors = NDArray[np.float32]

WRITES: dict[str, Callable[[Any, Any, Vectors], Any]] = {
    "upsert": lambda _, docs, vectors: docs.upsert([1], vectors[:1]),
    "delete": lambda _, docs, __: docs.delete([1]),
    "set_oversampling": lambda _, docs, __: docs.set_oversampling(2),
    "build_index": lambda _, docs, __: docs.build_index(),
    "index_metadata": lambda _, docs, __: docs.index_metadata([MetadataIndex.parse("a:integer")]),
    "create": lambda db, docs, _: db.create_collection(docs.name + "_new", calibration=docs.calibration),
    "drop": lambda db, docs, _: db.drop_collection(docs.name),
}


@pytest.fixture(scope="module")
def docs(store: Store) -> Collection:
    vectors = realistic(1000)
    docs = store.create(Calibration.fit(vectors))
    docs.upsert(np.arange(100), vectors[:100])
    return docs


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])
def test_writes_are_refused(store: Store, docs: Collection, vectors: Vectors, write: str, use_async: bool) -> None:
    def attempt() -> None:
        with qvec.connect(store.url, read_only=True) as db:
            WRITES[write](db, db.collection(docs.name), vectors)

    async def attempt_async() -> None:
        async with await qvec.connect_async(store.url, read_only=True) as db:
            await WRITES[write](db, await db.collection(docs.name), vectors)

    with pytest.raises(DatabaseError, match=r" is opened read-only; to write to it, connect without read_only$"):
        asyncio.run(attempt_async()) if use_async else attempt()
    again = store.database.collection(docs.name)
    assert (again.count(), again.oversampling) == (100, DEFAULT_OVERSAMPLING)


def test_reads_are_allowed(store: Store, docs: Collection, queries: Vectors) -> None:
    with qvec.connect(store.url, read_only=True) as db:
        other = db.collection(docs.name)
        for options in ({}, {"exact": True}, {"rescore": False}):
            assert other.search(queries[0], 5, **options) == docs.search(queries[0], 5, **options)
        assert (other.count(), other.get([3])[0].id) == (100, 3)  # type: ignore[union-attr]
        assert sum(len(part.ids) for part in other.iter_rows(0, 30)) == 100
        assert other.info() == docs.info()
        assert db.has_collection(docs.name)


def test_loads_are_refused(store: Store, docs: Collection) -> None:
    with (
        qvec.connect(store.url, read_only=True) as db,
        pytest.raises(DatabaseError, match=r" is opened read-only; "),
    ):
        open_loader(db, docs.name, "a.npy", "replace", 1)


@pytest.mark.usefixtures("docs")
def test_postgres_sessions_are_read_only(store: Store) -> None:
    if not store.is_postgres:
        pytest.skip("only Postgres has sessions")
    with qvec.connect(store.url, read_only=True) as db:
        for open_connection in (db.store.direct_connection, db.store.connection):  # type: ignore[attr-defined]
            with open_connection() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("CREATE TABLE nothing ()")


@pytest.mark.parametrize("scheme", ["postgres", "qdrant"])
def test_opening_read_only_does_not_create_a_database(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(DatabaseError, match=r"^there is no database in "):
        qvec.connect(f"{scheme}:{tmp_path}/none", read_only=True)
    with pytest.raises(DatabaseError, match=r"^there is no database in "):
        asyncio.run(qvec.connect_async(f"{scheme}:{tmp_path}/none", read_only=True))
    assert not (tmp_path / "none").exists()
