"""Loads into Qdrant that are killed at every step: no row is lost or doubled, in a directory or on a server."""

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ingest_helpers import vectors, with_ids, write_lines
from qdrant_loading import assert_holds, expected_rows, found_rows, position, run, start
from qdrant_wire import WireServer

import qvec
from qvec.client import Database

ROWS = 1500
BAD = tuple(range(17, ROWS, 61))
KEPT = [row for row in range(ROWS) if row not in BAD]
ARRAY = vectors(ROWS)

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
    """Rows with ids, some of them bad."""
    lines = with_ids(ARRAY)
    for row in BAD:
        lines[row] = {"id": row, "vector": [0.0] * 8}
    return write_lines(tmp_path_factory.mktemp("source") / "a.jsonl", lines)


def command(source: Path, url: str, rejects: Path, *more: object) -> list[object]:
    options = ["--on-error", "skip", "--rejects", rejects, "--json", *more]
    return ["ingest", source, "--db", url, "-c", "docs", *options]


def killed(arguments: list[object], moment: str, number: int, **options: float) -> None:
    """Runs the command, which has to come to this moment and no further."""
    process = run(*arguments, moment=moment, number=number, batch_rows=20, **options)
    assert process.returncode == (-signal.SIGALRM if moment.startswith("during") else -signal.SIGKILL), process.stderr


def assert_no_row_lost(database: Database, source: Path) -> int:
    """All good rows before the checkpoint are there, and none that is not the source's; returns the checkpoint."""
    if not database.has_collection("docs"):
        return -1
    reached = position(database, source)
    found, expected = found_rows(database), expected_rows(database, ARRAY[KEPT], KEPT)
    assert found.items() <= expected.items()
    assert {row for row in KEPT if row < reached} <= found.keys()
    return reached


def assert_all_is_there(database: Database, summary: str, rejects: Path) -> None:
    told = json.loads(summary)
    assert (told["total_rows"], told["rejected"]) == (len(KEPT), len(BAD))
    assert 0 < told["resumed_at"] < ROWS
    assert_holds(database, ARRAY[KEPT], KEPT)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(BAD)


def test_a_load_into_a_directory_is_killed_at_every_step(source: Path, tmp_path: Path) -> None:
    url, rejects = f"qdrant:{tmp_path / 'db'}", tmp_path / "rejects.jsonl"
    arguments = command(source, url, rejects)
    reached = []
    for moment, number in IN_DIRECTORY:
        killed(arguments, moment, number)
        with qvec.connect(url) as database:
            reached.append(assert_no_row_lost(database, source))
    assert reached == sorted(reached)
    assert reached[:4] == [-1, -1, -1, 0]
    last = run(*arguments, batch_rows=50)
    assert last.returncode == 0, last.stderr
    with qvec.connect(url) as database:
        assert_all_is_there(database, last.stdout, rejects)


def test_a_load_into_a_directory_is_killed_at_any_moment(source: Path, tmp_path: Path) -> None:
    """With a checkpoint only now and then, so that most rows after it are there already."""
    url, rejects = f"qdrant:{tmp_path / 'db'}", tmp_path / "rejects.jsonl"
    arguments, moments = command(source, url, rejects), random.Random(1)
    for _ in range(4):
        process = start(*arguments, batch_rows=4, checkpoint_seconds=0.1)
        loads = tmp_path / "db" / "docs" / "loads.json"
        while not loads.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        with qvec.connect(url) as database:
            assert_no_row_lost(database, source)
    last = run(*arguments, batch_rows=50)
    assert last.returncode == 0, last.stderr
    with qvec.connect(url) as database:
        assert_holds(database, ARRAY[KEPT], KEPT)
    assert [json.loads(line)["row"] for line in rejects.read_text().splitlines()] == list(BAD)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[WireServer]:
    with WireServer(tmp_path / "wire") as server:
        yield server


@pytest.mark.parametrize(("workers", "moments"), [(1, ON_SERVER[:3]), (2, ON_SERVER[3:]), (4, ON_SERVER[2:])])
def test_a_load_onto_a_server_is_killed_at_every_step(
    wire: WireServer, source: Path, tmp_path: Path, workers: int, moments: tuple[tuple[str, int], ...]
) -> None:
    url, rejects = f"qdrant://127.0.0.1:{wire.port}", tmp_path / "rejects.jsonl"
    arguments = command(source, url, rejects, "--workers", workers)
    reached = []
    with qvec.connect(url) as database:
        for moment, number in moments:
            killed(arguments, moment, number)
            reached.append(assert_no_row_lost(database, source))
        assert reached == sorted(reached)
        last = run(*arguments, batch_rows=50)
        assert last.returncode == 0, last.stderr
        assert_all_is_there(database, last.stdout, rejects)
        assert database.collection("docs").has_index()
