"""Options of a connection, its URL in messages, and who may use it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

from qvec.errors import DatabaseError, InputError

_MAX_SECONDS = (2**31 - 1) // 1000
"""Postgres counts milliseconds in 32 bits; about 24 days."""

SECRETS = frozenset(
    {
        "password",
        "sslpassword",
        "oauth_client_secret",
        "scram_client_key",
        "scram_server_key",
        "api_key",
        "api-key",
        "apikey",
        "token",
    }
)
"""Parameters of a URL whose values are never shown."""


@dataclass(frozen=True)
class ConnectOptions:
    """The options of `qvec.connect` beside the URL. Times are in seconds."""

    pool_size: int = 8
    timeout: float = 30
    statement_timeout: float | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.pool_size, int):
            raise InputError(f"pool_size is {self.pool_size!r}, expected a whole number of at least 1")
        if self.pool_size < 1:
            raise InputError(f"pool_size is {self.pool_size}, expected at least 1")
        _check_seconds("timeout", self.timeout)
        if self.statement_timeout is not None:
            _check_seconds("statement_timeout", self.statement_timeout)

    def check_writable(self, database: str) -> None:
        """Raise DatabaseError where the database was opened read-only."""
        if self.read_only:
            raise DatabaseError(f"{database} is opened read-only; to write to it, connect without read_only")


def redact(url: str) -> str:
    """Return a connection URL without its password, for messages. Anything before the last @ may be one."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    user = credentials.partition(":")[0] + "@" if at else ""
    kept = urlencode([pair for pair in parse_qsl(query) if pair[0].lower() not in SECRETS], safe="/@")
    return f"{scheme}://{user}{place}" + ("?" + kept if kept else "")


def _check_seconds(name: str, seconds: Any) -> None:
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        raise InputError(f"{name} is {seconds!r}, expected a number of seconds above 0")
    if seconds > _MAX_SECONDS:
        raise InputError(f"{name} is {seconds!r}, expected at most {_MAX_SECONDS} seconds")


class LoopOwner:
    """The event loop and the process that opened an asynchronous database; its sockets are useless in others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Return whether this is the process that opened it."""
        return self._process == os.getpid()

    def check(self, database: str) -> None:
        """Raise InputError in another event loop or process."""
        if not self.is_here() or self._loop is not asyncio.get_running_loop():
            raise InputError(
                f"{database} was opened in another event loop or process; call connect_async in the one that uses it"
            )
