"""Resident memory of `ingest` of 1,000,000 vectors of 384 dimensions from a .npy file, above what importing takes.

Run: python benchmarks/memory.py
Wanted: at most 400 MB. Peaks are the kernel's VmHWM of the loading process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from measure import compare
from realistic import write_npy

ROWS, DIMENSIONS = 1_000_000, 384
LOAD = """
import sys
from qvec.client import connect
from qvec.ingest import IngestOptions, ingest
from qvec.sources import open_source

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

imported = peak()
with connect(f"postgres:{sys.argv[1]}/db") as database, open_source(sys.argv[2]) as source:
    summary = ingest(database, source, IngestOptions("loaded", index=False))
print(imported, peak(), summary.rows, summary.rows_per_second)
"""


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "vectors.npy"
        write_npy(path, ROWS, DIMENSIONS)
        command = [sys.executable, "-c", LOAD, folder, str(path)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        imported, peak, rows, rate = printed.split()
        print(f"{rows} rows at {float(rate):,.0f} rows/s; {int(imported) / 1024:.0f} MB after import")
        above = (int(peak) - int(imported)) / 1024
        compare("resident memory of ingest above import", above, 400, 1.0, "MB", smaller=True)


if __name__ == "__main__":
    main()
