"""The parts of a server's client that differ between the asynchronous source and its synchronous twin, and the settings
that both share."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from qvec.errors import DatabaseError, InputError
from qvec.qdrant.address import API_KEY, Address
from qvec.store.connect_options import LoopOwner

RETRY_SECONDS = (0.1, 0.3, 1.0, 2.0)
"""Pauses before a request is sent again."""
_MAX_PAUSE_SECONDS = 60.0

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


def pause_seconds(error: BaseException, attempt: int) -> float:
    """Return how long to wait after a failed attempt (from 1): as long as the server asks for, otherwise a random time
    around `RETRY_SECONDS`, so that clients do not come back all at once."""
    if isinstance(error, ResourceExhaustedResponse):
        return min(float(error.retry_after_s), _MAX_PAUSE_SECONDS)
    return RETRY_SECONDS[attempt - 1] * random.uniform(0.5, 1.5)


def client_arguments(address: Address) -> dict[str, Any]:
    """Return the arguments of both clients of qdrant-client."""
    options: dict[str, Any] = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 2000}
    if address.certificate is not None:
        options["root_certificates"] = _read_certificate(address.certificate)
    return {
        "host": address.bracketed,
        "grpc_port": address.port,
        "prefer_grpc": True,
        "https": address.tls,
        "api_key": os.environ.get(API_KEY) or None,
        "timeout": address.timeout,
        "grpc_options": options,
        "check_compatibility": False,
    }


def key_warning(address: Address) -> str | None:
    """Return a warning where the API key would travel unencrypted over a network."""
    if os.environ.get(API_KEY) and not address.tls and address.host not in ("localhost", "127.0.0.1", "::1"):
        return f"the API key goes to {address.name} unencrypted; qdrants:// connects with TLS"
    return None


def _read_certificate(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the certificate {path}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise InputError(f"{path} holds no certificate in PEM, with a line -----BEGIN CERTIFICATE-----")
    return content
