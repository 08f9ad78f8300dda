"""Indexing a collection on a Qdrant server: during and after loads, failures, restarts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_qdrant import FakeQdrantServer, optimizer
from ingest_helpers import load_source, random_vectors
from killed_commands import run_command
from qdrant_client import models
from qdrant_load_helpers import assert_holds
from reporters import AtRow

from qvec.client import Database
from qvec.errors import DatabaseError
from qvec.qdrant._sync import server_engine
from qvec.qdrant._sync.server_engine import ServerEngine


@pytest.fixture
def url(qdrant_server: FakeQdrantServer) -> str:
    return qdrant_server.url


@pytest.fixture
def low_indexing_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index a collection of few rows."""
    monkeypatch.setattr(server_engine, "INDEXING_THRESHOLD_KB", 1)


def indexing_threshold(qdrant_server: FakeQdrantServer) -> int:
    with qdrant_server.client() as client:
        return client.get_collection("docs").config.optimizer_config.indexing_threshold


@pytest.mark.usefixtures("low_indexing_threshold")
def test_indexing_starts_after_the_load(qdrant_server: FakeQdrantServer, database: Database, source: Path) -> None:
    qdrant_server.optimizer_delay = 0.4
    thresholds = []
    reporter = AtRow(200, lambda: thresholds.append(indexing_threshold(qdrant_server)))
    load_source(database, source, reporter, index=True, batch_rows=20)
    assert thresholds == [0]
    assert indexing_threshold(qdrant_server) == 1
    assert reporter.index_progress[0] == (0, 400)
    assert reporter.index_progress[-1] == (400, 400)
    assert len(reporter.index_progress) > 5
    assert database.collection("docs").info().index == "built"


@pytest.mark.slow
@pytest.mark.usefixtures("low_indexing_threshold")
def test_index_command_builds_a_missing_index(
    qdrant_server: FakeQdrantServer, database: Database, source: Path
) -> None:
    load_source(database, source)
    assert not database.collection("docs").has_index()
    found = run_command("index", "--db", qdrant_server.url, "-c", "docs", batch_rows=20)
    assert found.returncode == 0, found.stderr
    assert database.collection("docs").has_index()
    assert indexing_threshold(qdrant_server) > 0


@pytest.mark.usefixtures("low_indexing_threshold")
def test_second_load_into_an_indexed_collection(
    qdrant_server: FakeQdrantServer, database: Database, tmp_path: Path
) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", random_vectors(400, seed=number))
    load_source(database, tmp_path / "0.npy", index=True)
    load_source(database, tmp_path / "1.npy", index=True, id_start="auto", batch_rows=20)
    with qdrant_server.client() as client:
        info = client.get_collection("docs")
    assert (info.status, info.points_count) == (models.CollectionStatus.GREEN, 800)
    assert info.indexed_vectors_count > 700  # what is left is below the threshold
    assert_holds(database, np.concatenate([random_vectors(400), random_vectors(400, seed=1)]))


@pytest.mark.usefixtures("low_indexing_threshold")
def test_failed_indexing_is_an_error(database: Database, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        self.error, self.is_running = "no space left on device", False

    load_source(database, source)
    monkeypatch.setattr(optimizer.Optimizer, "_run", fail)
    with pytest.raises(DatabaseError, match=r"the server cannot index collection 'docs': no space left on device$"):
        database.collection("docs").build_index()


@pytest.mark.usefixtures("low_indexing_threshold")
def test_indexing_resumes_after_a_server_restart(
    qdrant_server: FakeQdrantServer, database: Database, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restarted server reports grey until the collection is changed."""
    load_source(database, source, index=True)
    info = ServerEngine._info
    updates = qdrant_server.count("Collections/Update")

    def grey(self: Any) -> Any:
        found = info(self)
        if qdrant_server.count("Collections/Update") == updates:
            found.status = models.CollectionStatus.GREY
        return found

    monkeypatch.setattr(ServerEngine, "_info", grey)
    assert not database.collection("docs").has_index()
    database.collection("docs").build_index()
    assert database.collection("docs").has_index()
    assert qdrant_server.count("Collections/Update") == updates + 1
