"""Rows per second into an embedded Postgres, without an index.

Run: python benchmarks/load.py
qvec loads a .npy file into a collection that keeps int8 codes and into one that keeps float16, with a calibration that
is given. It is compared with pgvector-python's row-wise binary COPY of bit + halfvec from memory (goals: 4 and 1.3
times as fast), and with one COPY of bytes that are computed beforehand for the same table (goal: 0.9 times as fast).
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness import Session, Sizes, Table, Vectors, alternate, embedded_postgres, open_session, rates, size_options
from numpy.typing import NDArray
from pgvector import Bit, HalfVector
from realistic import mixtures

import qvec
from qvec import Calibration, Database
from qvec.ingest import LoadOptions, ingest
from qvec.prefilter_levels import DEFAULT_PREFILTER, LEVELS
from qvec.sources import open_source

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, repeat=5))
def main(sizes: Sizes) -> None:
    vectors = mixtures(sizes).rows(sizes.rows)
    calibration = Calibration.fit(vectors)
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_postgres() as (database, url),
        open_session(url) as session,
    ):
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors)
        session.execute("SET synchronous_commit = off")
        table = Table(sizes)
        for rescore, goal in (("int8", 4.0), ("float16", 1.3)):
            prepared = copy_bytes(vectors, calibration, rescore)
            database.create_collection("prepared", calibration=calibration, rescore=rescore)
            works = {
                "qvec": partial(load_qvec, database, path, calibration, rescore),
                "prepared": partial(load_prepared, session, prepared),
                "rows": partial(load_by_rows, session, vectors),
            }
            rate = rates(sizes.rows, alternate(works, sizes.repeat))
            database.drop_collection("prepared")
            title = f"load, {rescore}, against "
            table.compare(title + "bit + halfvec by rows", rate["qvec"], rate["rows"], "rows/s", f"at least {goal:g}")
            table.compare(title + "COPY of prepared bytes", rate["qvec"], rate["prepared"], "rows/s", "at least 0.9")


def load_qvec(database: Database, path: Path, calibration: Calibration, rescore: str) -> None:
    if database.has_collection("loaded"):
        database.drop_collection("loaded")
    with open_source(path) as source:
        ingest(database, source, LoadOptions("loaded", calibration=calibration, rescore=rescore, index=False))


def load_by_rows(session: Session, vectors: Vectors) -> None:
    """Load as pgvector-python's examples do."""
    dimensions = vectors.shape[1]
    session.execute("DROP TABLE IF EXISTS by_rows")
    session.execute(
        f"CREATE TABLE by_rows (id bigint PRIMARY KEY, bits bit({dimensions}), embedding halfvec({dimensions}));"
        " ALTER TABLE by_rows ALTER embedding SET STORAGE EXTERNAL".encode()
    )
    with session.cursor().copy("COPY by_rows (id, bits, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "bit", "halfvec"])
        for row, vector in enumerate(vectors):
            copy.write_row([row, Bit(vector > 0), HalfVector(vector)])


def load_prepared(session: Session, rows: bytes) -> None:
    """Copy bytes into the table of an empty collection."""
    session.execute("TRUNCATE prepared")
    with session.cursor().copy("COPY prepared FROM STDIN (FORMAT binary)") as copy:
        copy.write(rows)


def copy_bytes(vectors: Vectors, calibration: Calibration, rescore: str) -> bytes:
    """Return rows in the format of COPY BINARY: id, codes, halfvec where floats are kept, no document, no metadata."""
    codes = qvec.quantize(vectors, calibration)
    if rescore == "float16":
        codes = qvec.levels(codes, calibration, LEVELS[DEFAULT_PREFILTER])
    columns = [
        np.arange(len(vectors)).astype(">i8")[:, None].view(np.uint8),
        _prefixed(codes, [8 * codes.shape[1]], ">i4"),
    ]
    if rescore == "float16":
        columns.append(_prefixed(vectors.astype(">f2").view(np.uint8), [vectors.shape[1], 0], ">i2"))
    fields = [_repeated([len(columns) + 2], ">i2", vectors)]
    for column in columns:
        fields += [_repeated([column.shape[1]], ">i4", vectors), column]
    fields.append(_repeated([-1, -1], ">i4", vectors))
    return _HEADER + np.hstack(fields).tobytes() + _TRAILER


def _prefixed(column: NDArray[np.uint8], prefix: list[int], dtype: str) -> NDArray[np.uint8]:
    """Put the number of bits or dimensions before the value of each row, as Postgres sends it."""
    return np.hstack([_repeated(prefix, dtype, column), column])


def _repeated(numbers: list[int], dtype: str, rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of numbers, repeated for each row."""
    return np.tile(np.array(numbers, dtype).view(np.uint8), (len(rows), 1))


if __name__ == "__main__":
    main()
