"""Helpers for tests of the SQL functions: a database with the schema, vectors and bits in their SQL form."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from qvec import Calibration
from qvec.postgres._sync import schema

Vectors = NDArray[np.float32]


def installed(url: str) -> psycopg.Connection[Any]:
    """Install the schema; return a connection in autocommit."""
    connection = psycopg.connect(url, autocommit=True)
    schema.prepare(connection, install=True)
    return connection


def text(vector: Iterable[float]) -> str:
    """A vector as text for pgvector; the shortest decimals keep the float32 values."""
    return "[" + ",".join(str(np.float32(x)) for x in vector) + "]"


def from_bits(bits: str) -> NDArray[np.uint8]:
    """Bytes from the text of a bit string."""
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0"))


def stored(connection: psycopg.Connection[Any], calibration: Calibration) -> str:
    """Store a calibration through SQL; return its id."""
    return str(value(connection, "SELECT qvec.import_calibration(%s::bytea)", calibration.to_bytes()))


def value(connection: psycopg.Connection[Any], statement: str, *parameters: Any) -> Any:
    """The only value of the only row."""
    row = connection.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def psql(server_url: str) -> str:
    """The psql of the server, or one on the path; skip the test if there is none."""
    with psycopg.connect(server_url) as connection:
        own = Path(value(connection, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / "psql"
    found = str(own) if own.exists() else shutil.which("psql")
    if found is None:
        pytest.skip("psql is not installed")
    return found
