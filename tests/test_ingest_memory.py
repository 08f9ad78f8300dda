"""The memory of a load does not grow with the size of its source."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import resource, sys
from qvec.cli import main
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    main()
finally:
    print("MiB", (peak() - before) // 1024)
"""
MAX_MIB = 300


@pytest.mark.slow
def test_load_of_300_megabytes_stays_below_the_memory_limit(url: str, tmp_path: Path) -> None:
    path = tmp_path / "large.npy"
    array = np.lib.format.open_memmap(path, "w+", np.float32, (200_000, 384))
    block = np.random.default_rng(0).normal(size=(10_000, 384)).astype(np.float32)
    for start in range(0, len(array), len(block)):
        array[start : start + len(block)] = np.roll(block, start // len(block), axis=1)
    array.flush()
    del array
    arguments = ["ingest", str(path), "--db", url, "-c", "docs", "--no-index"]
    result = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "200,000 rows in" in result.stdout
    path.unlink()
    assert int(result.stdout.rpartition("MiB ")[2]) < MAX_MIB
