"""Clients of a server, over gRPC: one that is waited for and one that is awaited."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient

from qvec.connecting import LoopOwner
from qvec.errors import DatabaseError, InputError
from qvec.qdrant.address import API_KEY, Address
from qvec.qdrant.retries import AsyncRetries, Retries
from qvec.qdrant.steps import Ask


class ServerClient:
    """For threads: sends requests, those that fail for a while several times. Safe across threads."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._process = os.getpid()
        self._connect()

    def _connect(self) -> None:
        self._repeated = Retries(self._address.timeout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unencrypted API key: `Server.warning` tells of it
            self._client = QdrantClient(**_arguments(self._address))

    def send(self, ask: Ask) -> Any:
        """The answer to a request. Raises DatabaseError in a process forked from the one that connected, where gRPC
        would wait for threads that are not there."""
        if self._process != os.getpid():
            raise DatabaseError(
                f"{self._address.name} was opened before this process was forked; connect again in the process that "
                "uses it"
            )
        client = self._client
        return self._repeated(lambda: ask(client))

    def break_off(self) -> None:
        """Ends every request that is under way, and those that wait to be repeated; later ones go over a new
        connection."""
        self.close()
        self._connect()

    def close(self) -> None:
        if self._process == os.getpid():
            self._repeated.give_up()
            self._client.close()


class AsyncServerClient:
    """For the tasks of one event loop."""

    def __init__(self, address: Address) -> None:
        self._name = address.name
        self._owner = LoopOwner()
        self._repeated = AsyncRetries(address.timeout)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unencrypted API key: `Server.warning` tells of it
            self._client = AsyncQdrantClient(**_arguments(address))

    async def send(self, ask: Ask) -> Any:
        """The answer to a request. Raises InputError in another event loop or process than the one that connected."""
        self._owner.check(self._name)
        return await self._repeated(lambda: ask(self._client))

    async def close(self) -> None:
        if self._owner.is_here():
            await self._client.close()


def _arguments(address: Address) -> dict[str, Any]:
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


def _read_certificate(path: str) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the certificate {path}: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise InputError(f"{path} holds no certificate in PEM, with a line -----BEGIN CERTIFICATE-----")
    return content
