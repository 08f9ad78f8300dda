"""How psycopg reads pgvector's bit values."""

from __future__ import annotations

from typing import Any

import psycopg
from pgvector.psycopg.bit import register_bit_info
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

_BIT_OID = 1560
_BIT_ARRAY_OID = 1561


class _BitLoader(Loader):
    """The bytes of a bit value, without the length before them."""

    format = Format.BINARY

    def load(self, data: Any) -> bytes:
        return bytes(data)[4:]


def adapt(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Let a connection send `pgvector.Bit` and receive bit values as bytes."""
    register_bit_info(connection, TypeInfo("bit", _BIT_OID, _BIT_ARRAY_OID))
    connection.adapters.register_loader(_BIT_OID, _BitLoader)
