"""Rows per second into an embedded Postgres, 100,000 vectors of 1,024 dimensions, no index.

Run: python benchmarks/load.py
Wanted, of qvec's int8 and float16 paths (from a .npy file; calibration given, as in every load but the first):
4 and 1.3 times pgvector-python's row-wise binary COPY of bit + halfvec (from memory), and 0.9 times COPY of qvec's own
bytes prepared beforehand.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import psycopg
from measure import alternate, compare, plain_connection, print_header, scratch_database
from numpy.typing import NDArray
from pgvector import Bit, HalfVector
from realistic import realistic_vectors

from qvec.calibration import Calibration
from qvec.client import Database
from qvec.ingest import IngestOptions, ingest
from qvec.ingest.encoder import Encoder, batch_rows
from qvec.postgres import loading, statements
from qvec.postgres.rows import HEADER, TRAILER
from qvec.sources import open_source

ROWS, DIMENSIONS, REPETITIONS = 100_000, 1024, 5


def load_qvec(database: Database, path: Path, calibration: Calibration, rescore: str) -> None:
    _drop(database, "loaded")
    with open_source(path) as source:
        options = IngestOptions("loaded", calibration=calibration, rescore=rescore, index=False)  # type: ignore[arg-type]
        ingest(database, source, options)


def load_by_rows(connection: psycopg.Connection, vectors: NDArray[np.float32]) -> None:
    """As pgvector-python's examples do it."""
    connection.execute("DROP TABLE IF EXISTS rows")
    connection.execute(
        f"CREATE TABLE rows (id bigint PRIMARY KEY, bits bit({DIMENSIONS}), embedding halfvec({DIMENSIONS}))"
    )
    connection.execute("ALTER TABLE rows ALTER embedding SET STORAGE EXTERNAL")
    with connection.cursor().copy("COPY rows (id, bits, embedding) FROM STDIN WITH (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "bit", "halfvec"])
        for row, vector in enumerate(vectors):
            copy.write_row([row, Bit(vector > 0), HalfVector(vector)])


def prepare(database: Database, path: Path, calibration: Calibration, rescore: str) -> list[bytes]:
    """The bytes of each batch that ingest would send."""
    _drop(database, "prepared")
    collection = database.create_collection("prepared", calibration=calibration, rescore=rescore)  # type: ignore[arg-type]
    with open_source(path) as source:
        encoder = Encoder(source, calibration, collection.stored.table.layout, 0, None, {}, False, lambda _: None)
        return [batch.rows for batch in encoder.batches(0, batch_rows(source))]


def load_prepared(database: Database, batches: list[bytes]) -> None:
    table = database.collection("prepared").table
    with database.store.direct_connection() as connection:
        loading.settings_for_loading(connection)
        connection.execute(b"TRUNCATE prepared")
        with connection.cursor().copy(statements.copy_into(table.identifier, table)) as copy:
            copy.write(HEADER)
            for rows in batches:
                copy.write(rows)
            copy.write(TRAILER)


def _drop(database: Database, name: str) -> None:
    if database.has_collection(name):
        database.drop_collection(name)


def main() -> None:
    vectors = realistic_vectors(ROWS, DIMENSIONS)
    calibration = Calibration.fit(vectors)
    with tempfile.TemporaryDirectory() as folder, scratch_database() as database:
        path = Path(folder) / "vectors.npy"
        np.save(path, vectors)
        connection = plain_connection(database)
        print_header()
        for rescore, wanted in (("int8", 4.0), ("float16", 1.3)):
            batches = prepare(database, path, calibration, rescore)
            seconds = alternate(
                {
                    "qvec": lambda rescore=rescore: load_qvec(database, path, calibration, rescore),
                    "prepared": lambda batches=batches: load_prepared(database, batches),
                    "rows": lambda: load_by_rows(connection, vectors),
                },
                REPETITIONS,
            )
            rate = {name: ROWS / time for name, time in seconds.items()}
            title = f"load, {rescore}"
            compare(f"{title}, against bit + halfvec by rows", rate["qvec"], rate["rows"], wanted, "rows/s")
            compare(f"{title}, against COPY of prepared bytes", rate["qvec"], rate["prepared"], 0.9, "rows/s")
        connection.close()


if __name__ == "__main__":
    main()
