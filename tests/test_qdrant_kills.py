"""Loads into Qdrant that are killed at every step lose and duplicate no rows, in a directory and on a server."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from fake_qdrant import FakeQdrantServer
from ingest_helpers import random_vectors, with_ids, write_lines
from killed_commands import run_command, start_command
from qdrant_load_helpers import assert_holds, checkpoint_position, expected_rows, found_rows

import qvec
from qvec.client import Database

ROWS = 1500
INVALID = tuple(range(17, ROWS, 61))
VALID = [row for row in range(ROWS) if row not in INVALID]
ARRAY = random_vectors(ROWS)

UPSERT, FLUSH = "qvec.qdrant.edge:EdgeShard.upsert", "qvec.qdrant.edge:EdgeShard.flush"
WRITE_LOAD, REJECT = "qvec.qdrant.directory:Directory.write_load", "qvec.ingest.rejects:RejectsFile.write"
IN_DIRECTORY = (
    ("after qvec.qdrant.edge:EdgeShard.__init__", 1),
    ("before os:replace", 1),
    ("after os:replace", 1),
    (f"after {WRITE_LOAD}", 1),
    (f"before {UPSERT}", 3),
    (f"after {UPSERT}", 3),
    (f"before {FLUSH}", 3),
    (f"after {FLUSH}", 3),
    ("before os:replace", 4),
    (f"after {WRITE_LOAD}", 4),
    (f"before {REJECT}", 3),
    (f"after {REJECT}", 3),
)
SERVER = "qvec.qdrant._sync.server:ServerBackend"
SEND, SAVE = "qvec.qdrant._sync.server_engine:ServerEngine.upsert", f"{SERVER}.write_load"
ON_SERVER = (
    (f"after {SERVER}.create", 1),
    (f"after {SAVE}", 1),
    (f"before {SEND}", 5),
    (f"after {SEND}", 6),
    (f"before {SAVE}", 5),
    (f"after {REJECT}", 4),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of rows with ids, some of them invalid."""
    lines = with_ids(ARRAY)
    for row in INVALID:
        lines[row] = {"id": row, "vector": [0.0] * 8}
    return write_lines(tmp_path_factory.mktemp("source") / "a.jsonl", lines)


def ingest_command(source: Path, url: str, rejects: Path, *more: object) -> list[object]:
    options = ["--on-error", "skip", "--rejects", rejects, "--json", *more]
    return ["ingest", source, "--db", url, "-c", "docs", *options]


def run_and_kill(arguments: list[object], moment: str, number: int, **options: float) -> None:
    """Run the command, which must kill itself at this moment."""
    process = run_command(*arguments, moment=moment, number=number, batch_rows=20, **options)
    assert process.returncode == (-signal.SIGALRM if moment.startswith("during") else -signal.SIGKILL), process.stderr


def assert_no_row_lost(database: Database, source: Path) -> int:
    """Assert that only rows of the source are stored, and all before the checkpoint; return the checkpoint."""
    if not database.has_collection("docs"):
        return -1
    reached = checkpoint_position(database, source)
    found, expected = found_rows(database), expected_rows(database, ARRAY[VALID], VALID)
    assert found.items() <= expected.items()
    assert {row for row in VALID if row < reached} <= found.keys()
    return reached


def assert_load_is_complete(database: Database, summary: str, rejects: Path) -> None:
    counts = json.loads(summary)
    assert (counts["total_rows"], counts["rejected"]) == (len(VALID), len(INVALID))
    assert 0 < counts["resumed_at"] < ROWS
    assert_holds(database, ARRAY[VALID], VALID)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(INVALID)


@pytest.mark.slow
def test_load_into_a_directory_killed_at_every_step(source: Path, tmp_path: Path) -> None:
    url, rejects = f"qdrant:{tmp_path / 'db'}", tmp_path / "rejects.jsonl"
    arguments = ingest_command(source, url, rejects)
    reached = []
    for moment, number in IN_DIRECTORY:
        run_and_kill(arguments, moment, number)
        with qvec.connect(url) as database:
            reached.append(assert_no_row_lost(database, source))
    assert reached == sorted(reached)
    assert reached[:4] == [-1, -1, -1, 0]
    last = run_command(*arguments, batch_rows=50)
    assert last.returncode == 0, last.stderr
    with qvec.connect(url) as database:
        assert_load_is_complete(database, last.stdout, rejects)


@pytest.mark.slow
def test_load_into_a_directory_killed_at_random_moments(source: Path, tmp_path: Path) -> None:
    """Checkpoints are rare, so that most rows after the last one are already stored."""
    url, rejects = f"qdrant:{tmp_path / 'db'}", tmp_path / "rejects.jsonl"
    arguments, moments = ingest_command(source, url, rejects), random.Random(1)
    for _ in range(4):
        process = start_command(*arguments, batch_rows=4, checkpoint_seconds=0.1)
        loads = tmp_path / "db" / "docs" / "loads.json"
        while not loads.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        with qvec.connect(url) as database:
            assert_no_row_lost(database, source)
    last = run_command(*arguments, batch_rows=50)
    assert last.returncode == 0, last.stderr
    with qvec.connect(url) as database:
        assert_holds(database, ARRAY[VALID], VALID)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(INVALID)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "moments"), [(1, ON_SERVER[:3]), (2, ON_SERVER[3:]), (4, ON_SERVER[2:])])
def test_load_onto_a_server_killed_at_every_step(
    qdrant_server: FakeQdrantServer, source: Path, tmp_path: Path, workers: int, moments: tuple[tuple[str, int], ...]
) -> None:
    url, rejects = qdrant_server.url, tmp_path / "rejects.jsonl"
    arguments = ingest_command(source, url, rejects, "--workers", workers)
    reached = []
    with qvec.connect(url) as database:
        for moment, number in moments:
            run_and_kill(arguments, moment, number)
            reached.append(assert_no_row_lost(database, source))
        assert reached == sorted(reached)
        last = run_command(*arguments, batch_rows=50)
        assert last.returncode == 0, last.stderr
        assert_load_is_complete(database, last.stdout, rejects)
        assert database.collection("docs").has_index()
