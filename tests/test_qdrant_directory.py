"""Directories of the embedded engine: use by several processes, damaged files, files that qvec did not create."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge
from numpy.typing import NDArray

import qvec
from qvec import Calibration, CalibrationError, CollectionError, DatabaseError, QvecError, RowError
from qvec.client import Collection, Database
from qvec.client.bulk import read_checkpoints
from qvec.qdrant import points

Vectors = NDArray[np.float32]

WRITER = """
import sys
import numpy as np
import qvec
db = qvec.connect("qdrant:" + sys.argv[1])
docs = db.collection("docs")
vectors = np.random.default_rng(1).normal(size=(50, 64)).astype(np.float32)
print("open", flush=True)
for line in sys.stdin:
    docs.upsert(range(100, 150), vectors)
    print(docs.count(), flush=True)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def db(directory: Path) -> Iterator[Database]:
    with connect(directory) as database:
        yield database


def connect(directory: Path) -> Database:
    database = qvec.connect(f"qdrant:{directory}")
    assert isinstance(database, Database)
    return database


@pytest.fixture
def docs(db: Database, calibration: Calibration, vectors: Vectors) -> Collection:
    docs = db.create_collection("docs", calibration=calibration, id_type="bigint", model="m")
    docs.upsert(range(100), vectors[:100])  # type: ignore[arg-type]
    return docs


# Processes


@contextmanager
def open_in_another_process(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has the directory open and writes 50 rows for each line of input."""
    command = [sys.executable, "-c", WRITER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


def write_in(process: subprocess.Popen[str]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("write\n")
    process.stdin.flush()
    return int(process.stdout.readline())


@pytest.mark.slow
def test_only_one_process_can_open_a_directory(
    directory: Path, docs: Collection, db: Database, vectors: Vectors
) -> None:
    db.close()
    with open_in_another_process(directory) as process:
        for _ in range(2):
            with pytest.raises(DatabaseError, match=rf"data is open in another process \(pid {process.pid}, or one "):
                connect(directory)
        assert write_in(process) == 150
        process.send_signal(signal.SIGKILL)
        process.wait()
    with connect(directory) as again:
        docs = again.collection("docs")
        assert docs.count() == 150
        assert docs.search(vectors[3], k=1)[0].id == 3
        assert docs.upsert([1000], vectors[:1]) == 1


def test_databases_in_one_process_share_a_directory(directory: Path, docs: Collection, db: Database) -> None:
    other = connect(directory / ".." / "data")
    assert other.collection("docs").count() == docs.count() == 100
    db.close()
    assert other.collection("docs").delete([1]) == 1
    other.close()
    with open_in_another_process(directory) as process:
        assert write_in(process) == 149


@contextmanager
def in_forked_child(work: Callable[[], str]) -> Iterator[str]:
    """Yield what `work` returns in a forked child, which lives until the block ends."""
    answer_read, answer_write = os.pipe()
    end_read, end_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(answer_write, work().encode())
        finally:
            os.close(answer_write)
            os.close(end_write)
            os.read(end_read, 1)
            os._exit(0)
    os.close(answer_write)
    with os.fdopen(answer_read) as file:
        yield file.read()
    os.close(end_write)
    os.close(end_read)
    assert os.waitpid(child, 0)[1] == 0


def outcome(use: Callable[[], Any]) -> str:
    try:
        return f"no error: {use()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_gets_an_error_to_connect_again(
    directory: Path, docs: Collection, db: Database, vectors: Vectors
) -> None:
    uses: list[Callable[[], Any]] = [
        docs.count,
        lambda: docs.search(vectors[0]),
        lambda: docs.upsert([1], vectors[:1]),
        db.collections,
        lambda: connect(directory),
        db.close,
    ]
    with in_forked_child(lambda: "\n".join(outcome(use) for use in uses)) as output:
        *errors, connect_error, close_outcome = output.splitlines()
        assert len(errors) == 4
        for line in errors:
            assert line.startswith("DatabaseError: ")
            assert line.endswith("was opened before this process was forked; connect again in the process that uses it")
        assert "is open in another process" in connect_error
        assert close_outcome == "no error: None"
        assert docs.search(vectors[3], k=1)[0].id == 3
        assert docs.upsert([100], vectors[:1]) == 1
        db.close()
        with pytest.raises(DatabaseError, match="or one forked from it"):
            connect(directory)  # the child holds the locks too
    with open_in_another_process(directory) as process:
        assert write_in(process) == 150


def test_paths_that_cannot_be_a_database_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "under"):
        with pytest.raises(DatabaseError, match=r"^cannot open .*file"):
            connect(path)
    with pytest.raises(DatabaseError, match=r"^there is no database in .*none yet; load one: qvec ingest"):
        qvec.connect(f"qdrant:{tmp_path / 'none'}", create=False)
    assert not (tmp_path / "none").exists()


# Damage


def read_description(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "docs" / "collection.json").read_text())
    return found


def write_description(directory: Path, value: Any) -> None:
    text = value if isinstance(value, (str, bytes)) else json.dumps(value)
    (directory / "docs" / "collection.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def flip_bit(content: str) -> str:
    """Return the base64 of a calibration with one bit of its last array flipped."""
    data = bytearray(base64.b64decode(content))
    data[-2] ^= 1
    return base64.b64encode(bytes(data)).decode()


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda _: "",
    "not JSON": lambda _: "{",
    "not UTF-8": lambda _: b"\xff\xfe",
    "a list": lambda d: [d],
    "an empty object": lambda _: {},
    "null": lambda _: None,
    "truncated": lambda d: json.dumps(d)[:500],
    "nested too deep": lambda _: "[" * 100_000,
    "format null": lambda d: {**d, "format": None},
    "a newer format": lambda d: {**d, "format": 99},
    "no content": lambda d: {key: value for key, value in d.items() if key != "content"},
    "content null": lambda d: {**d, "content": None},
    "content not base64": lambda d: {**d, "content": "!" + d["content"]},
    "content truncated": lambda d: {**d, "content": d["content"][: len(d["content"]) // 8 * 4]},
    "content changed": lambda d: {**d, "content": flip_bit(d["content"])},
    "another calibration's id": lambda d: {**d, "calibration": "0" * 16},
    "calibration id null": lambda d: {**d, "calibration": None},
    "an unknown prefilter": lambda d: {**d, "prefilter": "ternary"},
    "a prefilter of another type": lambda d: {**d, "prefilter": []},
    "sharding null": lambda d: {**d, "sharding": None},
    "unknown sharding fields": lambda d: {**d, "sharding": {"nodes": 1}},
    "infinite shards": lambda d: {**d, "sharding": {"shards": float("inf")}},
    "oversampling a string": lambda d: {**d, "oversampling": "much"},
    "another precision": lambda d: {**d, "rescore": "float32"},
    "unknown precision": lambda d: {**d, "rescore": "float64"},
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.usefixtures("docs")
def test_errors_for_damaged_descriptions_name_the_collection(
    directory: Path, db: Database, calibration: Calibration, damage: str
) -> None:
    original = read_description(directory)
    write_description(directory, DAMAGES[damage](original))
    uses: list[Callable[[], Any]] = [
        lambda: db.collection("docs"),
        lambda: db.has_collection("docs"),
        lambda: db.collections(),
        lambda: db.create_collection("docs", calibration=calibration),
    ]
    for use in uses:
        with pytest.raises((CollectionError, CalibrationError), match="collection 'docs'") as caught:
            use()
        assert "\n" not in str(caught.value)
    write_description(directory, original)
    assert db.collection("docs").count() == 100


def test_description_with_another_calibration_is_refused(
    directory: Path, docs: Collection, db: Database, vectors: Vectors
) -> None:
    """The calibration is valid, but for vectors of other dimensions than the stored ones."""
    original = read_description(directory)
    other = Calibration.fit(vectors, dimensions=32, model="other")
    content = base64.b64encode(other.to_bytes()).decode()
    write_description(directory, {**original, "content": content})
    with pytest.raises(
        CalibrationError, match=f"^collection 'docs' wants calibration {docs.calibration.id}, but {other.id} is"
    ):
        db.collection("docs")
    write_description(directory, {**original, "content": content, "calibration": other.id})
    with pytest.raises(
        CollectionError, match=r"'docs' holds float16 vectors of 64 .* but its description is of .* 32 "
    ):
        db.collection("docs")


def test_collection_without_description_opens_read_only_with_its_calibration(
    directory: Path, docs: Collection, db: Database, vectors: Vectors
) -> None:
    (directory / "docs" / "collection.json").unlink()
    with pytest.raises(CollectionError, match=r"^collection 'docs' was not made by qvec and has no calibration; give"):
        db.collection("docs")
    found = db.collection("docs", calibration=docs.calibration)
    assert found.count() == 100
    assert found.search(vectors[3], k=1)[0].id == 3
    with pytest.raises(CollectionError, match="is only read"):
        found.delete([3])


@pytest.mark.parametrize("lost", ["shard", "shard/edge_config.json"])
@pytest.mark.usefixtures("docs")
def test_missing_engine_files_are_an_error(directory: Path, db: Database, lost: str) -> None:
    db.close()
    path = directory / "docs" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with connect(directory) as again, pytest.raises(QvecError, match=r"collection 'docs' holds nothing, but its desc"):
        again.collection("docs")


def test_damaged_load_registry_is_an_error(directory: Path, docs: Collection, db: Database) -> None:
    (directory / docs.name / "loads.json").write_text("[")
    with pytest.raises(CollectionError, match=r"^collection 'docs' is damaged: cannot read .*loads\.json: "):
        read_checkpoints(db, "docs")


# Files that qvec did not create, interrupted operations


def test_foreign_folders_are_not_changed(directory: Path, db: Database, calibration: Calibration) -> None:
    (directory / "src" / "shard").mkdir(parents=True)
    (directory / "src" / "shard" / "main.py").write_text("precious")
    (directory / "notes").write_text("precious")
    (directory / "raw").mkdir()
    config = qdrant_edge.EdgeConfig(vectors=qdrant_edge.EdgeVectorParams(64, qdrant_edge.Distance.Dot))
    qdrant_edge.EdgeShard.create(str(directory / "raw"), config).close()
    for name in ("src", "notes", "raw"):
        before = sorted(directory.rglob("*"))
        with pytest.raises(CollectionError, match=rf"{name} holds something that qvec did not make; choose another"):
            db.create_collection(name, calibration=calibration)
        assert sorted(directory.rglob("*")) == before
        assert not db.has_collection(name)
    assert db.collections() == []


def test_collection_whose_creation_failed_can_be_created_again(
    directory: Path, db: Database, calibration: Calibration, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raise_no_space)
        with pytest.raises(DatabaseError, match=r"^cannot write .*\.json: no space$"):
            db.create_collection("docs", calibration=calibration)
    assert (directory / "docs" / "shard").is_dir()
    assert not db.has_collection("docs")
    assert db.collections() == []
    cut = Calibration.fit(vectors, dimensions=32)
    docs = db.create_collection("docs", calibration=cut)
    docs.upsert([1], vectors[:1])
    assert docs.search(vectors[0])[0].id == 1


def raise_no_space(*_: object) -> None:
    raise OSError(28, "no space")


def test_collection_can_be_created_again_after_an_interrupted_drop(
    docs: Collection, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", raise_no_space)
        with pytest.raises(DatabaseError, match=r"^cannot drop collection 'docs': no space$"):
            db.drop_collection("docs")
    assert not db.has_collection("docs")
    assert db.create_collection("docs", calibration=docs.calibration).count() == 0


@pytest.mark.parametrize("kind", ["object", "array"])
def test_engine_reads_metadata_of_the_maximum_nesting(docs: Collection, vectors: Vectors, kind: str) -> None:
    value: Any = 1
    for _ in range(points.MAX_NESTING - 1):
        value = {"a": value} if kind == "object" else [value]
    docs.upsert([1], vectors[:1], None, [{"a": value}])
    found = docs.get([1])[0]
    assert found is not None
    assert found.metadata == {"a": value}
    with pytest.raises(RowError, match="nested more than 30 deep"):
        docs.upsert([1], vectors[:1], None, [{"a": {"a": value}}])


def test_damaged_collection_can_be_dropped(directory: Path, docs: Collection, db: Database) -> None:
    (directory / "docs" / "collection.json").write_text("{}")
    with pytest.raises(CollectionError, match="damaged"):
        db.collection(docs.name)
    db.drop_collection(docs.name)
    assert db.collections() == []
    assert not (directory / "docs").exists()


def test_description_of_another_collection_is_refused(
    directory: Path, docs: Collection, db: Database, vectors: Vectors
) -> None:
    """It has the same shape, but another calibration."""
    other = db.create_collection("other", calibration=Calibration.fit(vectors, threshold=1))
    shutil.copy(directory / "other" / "collection.json", directory / docs.name / "collection.json")
    found = f"was made with calibration {docs.calibration.id}, but its description is of {other.calibration.id}"
    with pytest.raises(CollectionError, match=found):
        db.collection(docs.name)
