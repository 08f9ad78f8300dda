"""What the tests of the SQL side share: a database with the schema, vectors and bits as SQL has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from qvec.postgres.steps import perform

from qvec import Calibration
from qvec.postgres import schema

Vectors = NDArray[np.float32]


def installed(url: str) -> psycopg.Connection[Any]:
    """A connection in autocommit to a database that now has the schema."""
    connection = psycopg.connect(url, autocommit=True)
    perform(connection, schema.prepare(install=True))
    return connection


def text(vector: Iterable[float]) -> str:
    """A vector as pgvector reads it; the shortest decimals give the same float32."""
    return "[" + ",".join(str(np.float32(x)) for x in vector) + "]"


def from_bits(bits: str) -> NDArray[np.uint8]:
    """Bytes of a bit value's text."""
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0"))


def stored(connection: psycopg.Connection[Any], calibration: Calibration) -> str:
    """The id of a calibration, stored through SQL."""
    return str(value(connection, "SELECT qvec.import_calibration(%s::bytea)", calibration.to_bytes()))


def value(connection: psycopg.Connection[Any], statement: str, *parameters: Any) -> Any:
    """The only value of the only row."""
    row = connection.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    return row[0]
