"""Memory of `ingest`: 1,000,000 vectors of 384 dimensions from a .npy file, above what importing takes.

Run: python benchmarks/memory.py
Goal: at most 400 MB. The figure is the kernel's peak of resident memory (VmHWM) of the process that loads.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import click
from harness import Sizes, Table, size_options
from realistic import mixtures

from qvec import connect
from qvec.ingest import LoadOptions, Summary, ingest
from qvec.sources import open_source


@click.command(help=__doc__)
@size_options(Sizes(rows=1_000_000, dimensions=384))
def main(sizes: Sizes) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "vectors.npy"
        mixtures(sizes).write_rows(path, sizes.rows)
        with ProcessPoolExecutor(1, get_context("spawn")) as executor:
            imported, peak, summary = executor.submit(load, f"postgres:{folder}/db", path).result()
    print(f"{summary.rows:,} rows at {summary.rows_per_second:,.0f} rows/s; {imported:.0f} MB after importing")
    Table(sizes).show("peak of resident memory above that after importing", peak - imported, "MB", "at most 400")


def load(url: str, path: Path) -> tuple[float, float, Summary]:
    """Return the peak of this process before and after a load, and the load's summary."""
    imported = peak_megabytes()
    with connect(url) as database, open_source(path) as source:
        summary = ingest(database, source, LoadOptions("loaded", index=False))
    return imported, peak_megabytes(), summary


def peak_megabytes() -> float:
    """Return the largest resident memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
