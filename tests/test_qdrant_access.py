"""API keys, collection names and requests that a Qdrant server refuses: errors of one line before they are sent."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_qdrant import FakeQdrantServer
from ingest_helpers import load_source, random_vectors
from ingest_helpers import run_command as run_plain_command

import qvec
from qvec.client import Database
from qvec.errors import CollectionError, DatabaseError, InputError

VECTORS = random_vectors(50)
READS_ALL, READS, WRITES, LOADS_TOO = "reads all", "reads", "writes", "loads"
RIGHTS = {
    READS_ALL: {"*": "r"},
    READS: {"docs": "r"},
    WRITES: {"docs": "rw"},
    LOADS_TOO: {"docs": "rw", "qvec_loads": "rw"},
}


@pytest.fixture
def url(qdrant_server: FakeQdrantServer) -> str:
    return qdrant_server.url


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("secret\n", "a line break"),
        ("secret\r\nmore", "a line break"),
        ("ключ", "a character that is not printable ASCII"),
        ("se\tcret", "a character that is not printable ASCII"),
    ],
)
def test_key_that_cannot_be_sent_is_refused_and_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch, key: str, found: str
) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", key)
    with pytest.raises(InputError) as caught:
        qvec.connect(url)
    expected = f"QVEC_QDRANT_API_KEY holds {found}, which no API key has; set it to the key alone"
    assert str(caught.value) == expected


def test_key_that_cannot_be_sent_is_one_line_of_the_command(
    url: str, qdrant_server: FakeQdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", "secret\n")
    found = run_plain_command("info", "--db", url)
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (1, "", 1), found.stderr
    assert "secret" not in found.stderr
    assert qdrant_server.count("HealthCheck") == 0


@pytest.mark.parametrize("name", ["a/b", "a:b", "a?", "a*", 'a"b', "a\\b", "a|b", "<a>"])
def test_new_name_that_a_server_refuses(qdrant_server: FakeQdrantServer, database: Database, name: str) -> None:
    refused = re.escape(f"collection name {name!r} holds ") + ".*, which a Qdrant server refuses in names$"
    before = qdrant_server.count("Collections/Create")
    with pytest.raises(CollectionError, match=refused):
        database.create_collection(name, calibration=qvec.Calibration.fit(VECTORS))
    assert qdrant_server.count("Collections/Create") == before


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "é" * 300])
def test_name_that_no_collection_can_have_is_not_found(
    qdrant_server: FakeQdrantServer, database: Database, name: str
) -> None:
    with pytest.raises(CollectionError, match="collection name"):
        database.create_collection(name, calibration=qvec.Calibration.fit(VECTORS))
    assert not database.has_collection(name)
    missing = re.escape(f"no collection {name!r} in {database.name}; there are: none")
    for call in (database.collection, database.drop_collection):
        with pytest.raises(CollectionError, match=f"^{missing}$"):
            call(name)
    assert qdrant_server.count("Collections/Get") == 0


def test_deleting_no_rows_deletes_none(qdrant_server: FakeQdrantServer, database: Database) -> None:
    docs = database.create_collection("docs", calibration=qvec.Calibration.fit(VECTORS))
    docs.upsert(range(50), VECTORS)
    assert docs.delete([]) == 0
    assert docs.delete(np.array([], np.int64)) == 0  # type: ignore[arg-type]
    assert docs.count() == 50
    assert docs.get([]) == []
    assert docs.vectors([]).shape == (0, 8)
    assert qdrant_server.count("Points/Delete") == 0


@pytest.fixture
def limited(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeQdrantServer]:
    """A server with the loaded and indexed collection `docs`, another one, and keys with limited rights."""
    with FakeQdrantServer(tmp_path / "server", api_key="full", limited_keys=RIGHTS) as server:
        monkeypatch.setenv("QVEC_QDRANT_API_KEY", "full")
        with qvec.connect(server.url) as database:
            for name in ("docs", "other"):
                load_source(database, source, collection=name, index=True)
        yield server


def test_key_for_reading_one_collection(limited: FakeQdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", READS)
    with qvec.connect(limited.url) as database:
        assert [found.name for found in database.collections()] == ["docs"]
        docs = database.collection("docs")
        assert len(docs.search(VECTORS[0], k=3)) == 3
        assert docs.info().rows == 400
        refused = (
            r"^cannot .* collection 'docs': the key in QVEC_QDRANT_API_KEY does not allow this \(Forbidden: Write "
            r"access to collection docs is required\); searching needs read access to the collection, writing needs "
            "write access$"
        )
        for write in (lambda: docs.delete([1]), lambda: docs.upsert([1], VECTORS[:1])):
            with pytest.raises(DatabaseError, match=refused):
                write()
        with pytest.raises(DatabaseError, match="Access to collection other is required"):
            database.collection("other")


def test_key_for_reading_everything(limited: FakeQdrantServer, monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", READS_ALL)
    with qvec.connect(limited.url) as database:
        assert [found.name for found in database.collections()] == ["docs", "other"]
        docs = database.collection("docs")
        assert len(docs.search(VECTORS[0], k=3)) == 3
        refused = (
            r"does not allow this \(Forbidden: Global manage access is required\); this key only reads; writing needs "
            "a key with write or manage access$"
        )
        for write in (lambda: docs.delete([1]), lambda: database.drop_collection("docs")):
            with pytest.raises(DatabaseError, match=refused):
                write()
        with pytest.raises(DatabaseError, match=refused):
            load_source(database, source, restart=True)


def test_key_for_writing_one_collection(
    limited: FakeQdrantServer, monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", WRITES)
    with qvec.connect(limited.url) as database:
        docs = database.collection("docs")
        assert docs.upsert(range(1000, 1050), VECTORS) == 50
        assert docs.delete(range(1000, 1050)) == 50
        with pytest.raises(
            DatabaseError,
            match=r"\(Forbidden: Access to collection qvec_loads is required\); loading also needs write access to "
            "qvec_loads, where the progress of loads is stored$",
        ):
            load_source(database, source)
        needs_manage = (
            r"\(Forbidden: Global access is required\); creating, indexing, tuning, recalibrating and dropping "
            "collections needs manage access$"
        )
        with pytest.raises(DatabaseError, match=needs_manage):
            docs.set_oversampling(5)


def test_key_for_loading_into_one_collection(
    limited: FakeQdrantServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    np.save(tmp_path / "b.npy", random_vectors(100, seed=7))
    monkeypatch.setenv("QVEC_QDRANT_API_KEY", LOADS_TOO)
    with qvec.connect(limited.url) as database:
        assert load_source(database, tmp_path / "b.npy", id_start="auto", index=True).total_rows == 500
