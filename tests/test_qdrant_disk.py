"""A full disk under the embedded engine: a one-line error, and no row is lost."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import realistic
from ingest_helpers import load_source, random_vectors
from qdrant_load_helpers import assert_holds, checkpoint_position

import qvec
from qvec.errors import DatabaseError

MEGABYTE = 1 << 20


class Usage(NamedTuple):
    free: int


def test_load_stops_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", random_vectors(100))
    checked_paths = []

    def disk_usage(path: Any) -> Usage:
        checked_paths.append(path)
        return Usage(1000 * MEGABYTE if len(checked_paths) < 4 else 10 * MEGABYTE)

    with qvec.connect(f"qdrant:{tmp_path / 'db'}") as database:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", disk_usage)
            with pytest.raises(
                DatabaseError, match=r"^the disk of .*db.* is full: 10 MB are left, and 64 MB are wanted"
            ):
                load_source(database, tmp_path / "a.npy", batch_rows=10)
        assert {str(path) for path in checked_paths} == {str(tmp_path / "db" / "docs" / "shard")}
        assert checkpoint_position(database, tmp_path / "a.npy") == 30
        assert_holds(database, random_vectors(100)[:30])
        assert load_source(database, tmp_path / "a.npy", batch_rows=10).rows == 70
        assert_holds(database, random_vectors(100))


def test_required_disk_space_grows_with_the_written_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100 * MEGABYTE))
    with qvec.connect(f"qdrant:{tmp_path / 'db'}") as database:
        collection = database.create_collection("docs", calibration=qvec.Calibration.fit(random_vectors(100)))
        collection.upsert([1], random_vectors(1), ["x" * (10 * MEGABYTE)])
        with pytest.raises(DatabaseError, match="100 MB are left, and 104 MB are wanted"):
            collection.upsert([2], random_vectors(1), ["x" * (20 * MEGABYTE)])
        assert collection.count() == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A mounted disk of 100 MB, and a function that enlarges it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    yield disk, lambda size: subprocess.run(["mount", "-o", f"remount,size={size}m", str(disk)], check=True) and None
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_load_continues_after_the_full_disk_was_enlarged(
    small_disk: tuple[Path, Callable[[int], None]], tmp_path: Path
) -> None:
    disk, enlarge = small_disk
    array = realistic(30_000, 256)
    np.save(tmp_path / "a.npy", array)
    url = f"qdrant:{disk / 'db'}"
    with (
        qvec.connect(url) as database,
        pytest.raises(DatabaseError, match=r"^the disk of .* is full: \d+ MB are left") as caught,
    ):
        load_source(database, tmp_path / "a.npy", batch_rows=500)
    assert "\n" not in str(caught.value)
    enlarge(400)
    with qvec.connect(url) as database:
        summary = load_source(database, tmp_path / "a.npy", batch_rows=500)
        assert 0 < summary.resumed_at < 30_000
        assert_holds(database, array)
