"""The client of a Qdrant server, over gRPC: it sends a request again after overload or a broken connection."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
from qdrant_client import AsyncQdrantClient
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from qvec.qdrant import connection
from qvec.qdrant.address import Address
from qvec.qdrant.connection import AsyncOwner, Outages
from qvec.qdrant.errors import is_nodes_fault, is_transient, reason
from qvec.waiting import AsyncEvent

T = TypeVar("T")

_LOG = logging.getLogger("qvec.qdrant")


class AsyncServerClient:
    """Sends requests, again where they failed for a while, to a node of the cluster that answers.

    Belongs to the process, or the event loop, that opened it. The synchronous client is safe across threads.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._owner = AsyncOwner()
        self._outages = Outages.of(address.name)
        self._active = 0
        """The node that is asked, by its position in the address."""
        self._connect()

    def _connect(self) -> None:
        self._retries = AsyncRetries(self._address.timeout, self._outages, self._address.retry)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unencrypted API key: `install` returns a warning
            self._clients = [AsyncQdrantClient(**connection.client_arguments(node)) for node in self._address.nodes]

    async def send(self, request: Callable[[AsyncQdrantClient], Awaitable[T]]) -> T:
        """Return the answer to a request. Raise an error in another process or event loop than the owner's."""
        self._owner.check(self._address.name)
        return await self._retries(partial(self._send, request))

    async def _send(self, request: Callable[[AsyncQdrantClient], Awaitable[T]]) -> T:
        """Send a request to the active node; where that is lost, the next one becomes active."""
        asked = self._active
        try:
            return await request(self._clients[asked])
        except grpc.RpcError as error:
            if is_nodes_fault(error) and self._active == asked:
                self._active = (asked + 1) % len(self._clients)
            raise

    async def break_off(self) -> None:
        """End all requests, those that wait for another attempt too; later requests use a new connection."""
        await self.close()
        self._connect()

    async def close(self) -> None:
        if self._owner.is_here():
            self._retries.give_up()
            for client in self._clients:
                await client.close()


class AsyncRetries:
    """Sends requests again that were refused, or whose answer was lost: every request may be sent twice."""

    def __init__(self, timeout: float, outages: Outages | None = None, budget: float | None = None) -> None:
        """`timeout` is the time limit of a request in seconds; one that failed for as long is not sent again, unless
        `budget` sets another time."""
        self._timeout = timeout
        self._budget = budget
        self._outages = outages or Outages()
        self._given_up = AsyncEvent()
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(is_transient), stop=self._is_last, before_sleep=self._pause, reraise=True
        )

    async def __call__(self, request: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a request. Raise what its last attempt raised."""

        async def attempt() -> T:
            return await request()

        # A copy, since the object keeps the state of a call.
        return await self._retrying.copy()(attempt)

    def give_up(self) -> None:
        """Send no request again from now on, not even those that wait for it."""
        self._given_up.set()

    def _is_last(self, state: RetryCallState) -> bool:
        seconds = state.seconds_since_start or 0
        return connection.is_last_attempt(state.attempt_number, seconds, self._timeout, self._budget)

    async def _pause(self, state: RetryCallState) -> None:
        """Wait before the next attempt. Raise the last error where that is given up meanwhile."""
        error: Any = state.outcome and state.outcome.exception()
        if await self._given_up.wait(connection.pause_seconds(error, state.attempt_number)):
            raise error
        if self._outages.begins():
            _LOG.warning("a request to Qdrant failed and is sent again: %s", reason(error))
