"""The parts of a server's client that differ between the asynchronous source and its synchronous twin, and the settings
that both share."""

from __future__ import annotations

import math
import os
import random
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from qvec.errors import DatabaseError, InputError
from qvec.forking import Lock
from qvec.qdrant.address import API_KEY, Address
from qvec.store.connect_options import LoopOwner

RETRY_SECONDS = (0.1, 0.3, 1.0, 2.0)
"""Pauses before a request is sent again."""
LOAD_RETRY_SECONDS = (4.0, 8.0, 15.0, *(30.0,) * 6)
"""More of them while a load is planned, and for a longer retry budget. Together they last as long as a load that lost
its connection tries to go on."""
_MAX_PAUSE_SECONDS = 60.0
_OUTAGE_GAP_SECONDS = 60.0
_retries_longer = ContextVar("retries_longer", default=False)

AsyncOwner = LoopOwner


class Owner:
    """The process that opened a client: in a forked one gRPC would wait for threads that do not exist."""

    def __init__(self) -> None:
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Return whether this is the process that opened it."""
        return self._process == os.getpid()

    def check(self, database: str) -> None:
        """Raise DatabaseError in another process."""
        if not self.is_here():
            raise DatabaseError(
                f"{database} was opened before this process was forked; connect again in the process that uses it"
            )


@contextmanager
def retrying_longer() -> Iterator[None]:
    """Inside, this thread or task retries requests with the pauses of `LOAD_RETRY_SECONDS` too."""
    token = _retries_longer.set(True)
    try:
        yield
    finally:
        _retries_longer.reset(token)


def is_last_attempt(attempt: int, seconds: float, timeout: float, budget: float | None) -> bool:
    """Return whether a request that failed for the `attempt`th time (from 1), after so many seconds, is given up.

    `timeout` is the time limit of one attempt, `budget` the time in which a request may be sent again: by default it is
    sent again with the pauses of `RETRY_SECONDS`, unless it failed for as long as `timeout`.
    """
    longer = RETRY_SECONDS + LOAD_RETRY_SECONDS
    if _retries_longer.get():
        return attempt > len(longer) or seconds >= max(timeout, sum(longer))
    if budget is not None:
        return attempt > len(longer) or seconds + longer[attempt - 1] > budget
    return attempt > len(RETRY_SECONDS) or seconds >= timeout


def pause_seconds(error: BaseException, attempt: int) -> float:
    """Return how long to wait after a failed attempt (from 1): as long as the server asks for, otherwise a random time
    around that of `RETRY_SECONDS` and `LOAD_RETRY_SECONDS`, so that clients do not come back all at once."""
    if isinstance(error, ResourceExhaustedResponse):
        return min(float(error.retry_after_s), _MAX_PAUSE_SECONDS)
    return (RETRY_SECONDS + LOAD_RETRY_SECONDS)[attempt - 1] * random.uniform(0.5, 1.5)


class Outages:
    """Tells the first failed request of an outage, which is logged, from those that follow."""

    def __init__(self) -> None:
        self._failed_at = -math.inf
        self._lock = Lock()

    @classmethod
    def of(cls, server: str) -> Outages:
        """Return the outages of a server by its name, which all clients of this process share."""
        with _outages_lock:
            return _outages.setdefault(server, cls())

    def begins(self) -> bool:
        """Note that a request failed; return whether none did in the minute before."""
        with self._lock:
            failed_at, self._failed_at = self._failed_at, time.monotonic()
            return self._failed_at - failed_at > _OUTAGE_GAP_SECONDS


_outages: dict[str, Outages] = {}
_outages_lock = Lock()


def client_arguments(address: Address) -> dict[str, Any]:
    """Return the arguments of both clients of qdrant-client."""
    options: dict[str, Any] = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 2000}
    if address.connect_timeout is not None:
        options["grpc.min_reconnect_backoff_ms"] = 1000 * address.connect_timeout
    if address.certificate is not None:
        options["root_certificates"] = _read_certificate(address.certificate)
    return {
        "host": address.bracketed,
        "grpc_port": address.port,
        "prefer_grpc": True,
        "https": address.tls,
        "api_key": _api_key(),
        "timeout": address.timeout,
        "grpc_options": options,
        "check_compatibility": False,
        # qvec sends nothing over REST, for which the client would load the system's certificates: 30 ms per connection.
        "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    }


def key_warning(address: Address) -> str | None:
    """Return a warning where the API key would travel unencrypted over a network."""
    is_remote = any(node.host not in ("localhost", "127.0.0.1", "::1") for node in address.nodes)
    if os.environ.get(API_KEY) and not address.tls and is_remote:
        return f"the API key goes to {address.name} unencrypted; qdrants:// connects with TLS"
    return None


def _api_key() -> str | None:
    """Return the API key. Raise InputError, which does not show it, where it cannot be sent as a header."""
    key = os.environ.get(API_KEY) or None
    if key is not None and not (key.isascii() and key.isprintable()):
        found = "a line break" if set(key) & set("\r\n") else "a character that is not printable ASCII"
        raise InputError(f"{API_KEY} holds {found}, which no API key has; set it to the key alone")
    return key


def _read_certificate(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the certificate {path}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise InputError(f"{path} holds no certificate in PEM, with a line -----BEGIN CERTIFICATE-----")
    return content
