"""The thread pool of the Rust code after a fork, and the environment variable that sets its size."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, threading
import numpy as np
from qvec import _native

def threads():
    return len(os.listdir(f"/proc/{os.getpid()}/task"))

vectors = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
zero, one = np.zeros(64, np.float32), np.ones(64, np.float32)
before = threads()
expected = _native.quantize(vectors, zero, one, 8, False)
print("parent", threads() - before, flush=True)
child = os.fork()
if child == 0:
    alone = threads()
    is_right = all(np.array_equal(_native.quantize(vectors, zero, one, 8, False), expected) for _ in range(3))
    print("child", threads() - alone, is_right, flush=True)
    os._exit(0)
os.waitpid(child, 0)
assert np.array_equal(_native.quantize(vectors, zero, one, 8, False), expected)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_forked_child_computes_on_its_own_threads(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT],
        env={**os.environ, "RAYON_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"parent {threads}", f"child {threads} True"]
