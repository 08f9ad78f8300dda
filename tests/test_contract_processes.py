"""The contract of all stores: threads, processes and use after close."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from databases import Store
from numpy.typing import NDArray

import qvec
from qvec import Calibration, InputError

Vectors = NDArray[np.float32]


# Threads


def test_readers_see_consistent_rows_while_a_writer_replaces_them(
    store: Store, vectors: Vectors, calibration: Calibration
) -> None:
    docs = store.create(calibration)
    docs.upsert(np.arange(300), vectors[:300], [f"{row} old" for row in range(300)])
    errors: list[object] = []
    stop = threading.Event()

    def read(thread: int) -> None:
        for number in range(15):
            row = (37 * thread + number) % 300
            found = docs.search(vectors[row], k=5)
            if found[0].id != row or len(found) != 5 or found[0].document.split()[0] != str(row):
                errors.append((row, found))
            if docs.count() != 300 or docs.get([row])[0] is None:
                errors.append(("get", row))

    def write() -> None:
        start = 0
        while not stop.is_set():
            batch = np.arange(start, start + 50)
            docs.upsert(batch, vectors[batch], [f"{row} new" for row in batch])
            start = (start + 50) % 300

    def collecting_errors(work: Callable[..., None], *arguments: Any) -> Callable[[], None]:
        def run() -> None:
            try:
                work(*arguments)
            except Exception as error:
                errors.append(error)

        return run

    writer = threading.Thread(target=collecting_errors(write))
    readers = [threading.Thread(target=collecting_errors(read, thread)) for thread in range(6)]
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join(60)
    stop.set()
    writer.join(60)
    assert errors == []
    assert docs.count() == 300


# Processes

WRITER = """
import json, os, signal, sys
import numpy as np
import qvec
url, name, end = sys.argv[1:]
vectors = np.load(sys.stdin.buffer)
calibration = qvec.Calibration.fit(vectors)
db = qvec.connect(url)
docs = db.create_collection(name, calibration=calibration, id_type="text", model="m")
ids = [f"doc {row}" for row in range(len(vectors))]
docs.upsert(ids, vectors, ids, [{"row": row} for row in range(len(vectors))])
found = [[hit.id, hit.score, hit.document, hit.metadata] for hit in docs.search(vectors[3], k=5)]
print(json.dumps([calibration.id, found]), flush=True)
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "closed":
    db.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["closed", "left open", "killed"])
def test_rows_written_by_another_process_exist_after_its_end(
    store: Store, vectors: Vectors, tmp_path: Path, end: str
) -> None:
    url, name = store.new_url(tmp_path), store.new_name()
    np.save(tmp_path / "vectors.npy", vectors[:200])
    command = [sys.executable, "-c", WRITER, url, name, end]
    with (tmp_path / "vectors.npy").open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, timeout=60)
    assert done.returncode == (-9 if end == "killed" else 0), done.stderr
    calibration, found = json.loads(done.stdout)
    with qvec.connect(url) as db:
        docs = db.collection(name)
        assert (docs.count(), docs.id_type, docs.model, docs.calibration.id) == (200, "text", "m", calibration)
        hits = docs.search(vectors[3], k=5)
        assert [[hit.id, hit.score, hit.document, hit.metadata] for hit in hits] == found
        assert docs.upsert(["doc 3", "more"], vectors[:2]) == 2
        assert docs.count() == 201
        db.drop_collection(name)


def test_use_after_close(store: Store, calibration: Calibration, vectors: Vectors, tmp_path: Path) -> None:
    db = qvec.connect(store.new_url(tmp_path))
    name = store.new_name()
    docs = db.create_collection(name, calibration=calibration)
    docs.upsert([1], vectors[:1])
    db.close()
    db.close()
    if store.reopens_after_close:
        assert docs.count() == 1
        db.close()
    else:
        uses: list[Callable[[], Any]] = [
            docs.count,
            docs.info,
            docs.build_index,
            db.collections,
            lambda: docs.search(vectors[0]),
            lambda: docs.upsert([1], vectors[:1]),
            lambda: docs.get([1]),
            lambda: docs.delete([1]),
            lambda: db.collection(name),
            lambda: db.create_collection("new", calibration=calibration),
        ]
        for use in uses:
            with pytest.raises(InputError, match=r" is closed; connect again$"):
                use()
    with qvec.connect(store.new_url(tmp_path) if not store.is_postgres else db.store._connections.url) as again:  # type: ignore[attr-defined]
        assert again.collection(name).count() == 1
        again.drop_collection(name)
