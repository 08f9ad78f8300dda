"""The memory for reading a source does not grow with the size of the source."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROWS, DIMENSIONS = 136_000, 384  # 209 MB
PROGRAM = """
import re, sys
from pathlib import Path
from qvec.sources import open_source

def peak():  # of this program alone; getrusage starts at the peak of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

before = peak()
with open_source(sys.argv[1]) as source:
    rows = sum(len(batch.rows) for batch in source.batches() if batch.vectors.sum() == 0)
    source.sample(1000, 0)
print(rows, peak() - before)
"""


def sparse_npy(file):
    np.lib.format.open_memmap(file, "w+", np.float32, (ROWS, DIMENSIONS)).flush()


def zero_vectors():
    return pa.table(
        {"vector": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(ROWS * DIMENSIONS, "f4")), DIMENSIONS)}
    )


def one_record_batch(file):
    with pa.ipc.new_file(file, zero_vectors().schema) as writer:
        writer.write_table(zero_vectors())


def one_row_group(file):
    pq.write_table(zero_vectors(), file, use_dictionary=False, compression="none")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("name", "write", "limit"),
    [("a.npy", sparse_npy, 80), ("a.arrow", one_record_batch, 80), ("a.parquet", one_row_group, 190)],
)
def test_reading_200_mb_stays_below_the_memory_limit(tmp_path, name, write, limit):
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 200e6
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / name], capture_output=True, text=True, check=True, timeout=60
    )
    rows, grown = done.stdout.split()
    assert int(rows) == ROWS
    assert float(grown) < limit
