"""How a database is reached, and by whom."""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import dataclass

from qvec.errors import DatabaseError, InputError


@dataclass(frozen=True)
class ConnectOptions:
    """What `qvec.connect` takes beside the URL. Times are in seconds."""

    pool_size: int = 8
    timeout: float = 30
    statement_timeout: float | None = None
    read_only: bool = False

    def __post_init__(self) -> None:
        if self.pool_size < 1:
            raise InputError(f"pool_size is {self.pool_size}, expected at least 1")
        for name, seconds in (("timeout", self.timeout), ("statement_timeout", self.statement_timeout)):
            if seconds is not None and not 0 < seconds < math.inf:
                raise InputError(f"{name} is {seconds}, expected a number of seconds above 0")

    def check_writable(self, database: str) -> None:
        """Raises DatabaseError where the database is opened to be read."""
        if self.read_only:
            raise DatabaseError(f"{database} is opened read-only; to write to it, connect without read_only")


class LoopOwner:
    """The event loop and the process in which a database was opened: its connections are of no use in others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Whether this is that process."""
        return self._process == os.getpid()

    def check(self, database: str) -> None:
        """Raises InputError in another loop or process."""
        if not self.is_here() or self._loop is not asyncio.get_running_loop():
            raise InputError(
                f"{database} was opened in another event loop or process; call connect_async in the one that uses it"
            )
