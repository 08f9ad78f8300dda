"""Helpers for tests of the SQL functions: a database with the schema, and vectors and bits in their SQL form."""

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


def install_schema(url: str) -> psycopg.Connection[Any]:
    """Install the schema; return an autocommit connection."""
    connection = psycopg.connect(url, autocommit=True)
    schema.prepare(connection, install=True)
    return connection


def vector_text(vector: Iterable[float]) -> str:
    """Return a vector as text for pgvector, in the shortest decimals that keep the float32 values."""
    return "[" + ",".join(str(np.float32(x)) for x in vector) + "]"


def pack_bits(bits: str) -> NDArray[np.uint8]:
    """Return the bytes of a bit string."""
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0"))


def import_calibration(connection: psycopg.Connection[Any], calibration: Calibration) -> str:
    """Store a calibration through SQL; return its id."""
    return str(fetch_value(connection, "SELECT qvec.import_calibration(%s::bytea)", calibration.to_bytes()))


def fetch_value(connection: psycopg.Connection[Any], statement: str, *parameters: Any) -> Any:
    """Return the only value of the only row."""
    row = connection.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def find_psql(server_url: str) -> str:
    """Return the path of the server's psql, or of one on PATH; skip the test if there is none."""
    with psycopg.connect(server_url) as connection:
        server_psql = Path(fetch_value(connection, "SELECT setting FROM pg_config WHERE name = 'BINDIR'")) / "psql"
    path = str(server_psql) if server_psql.exists() else shutil.which("psql")
    if path is None:
        pytest.skip("psql is not installed")
    return path
