"""Sending a request again after overload or a broken connection."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from qvec.qdrant.errors import is_transient, reason

T = TypeVar("T")

_LOG = logging.getLogger("qvec.qdrant")

_RETRY_SECONDS = (0.1, 0.3, 1.0, 2.0)
_LONGEST_WAIT = 60.0


class Retries:
    """Sends requests that may be sent twice: one that was refused or whose answer was lost is repeated a few times."""

    def __init__(self, timeout: float) -> None:
        """`timeout` is how many seconds a request may take; one that has failed for as long is not repeated."""
        self._timeout = timeout
        self._given_up = threading.Event()

    def __call__(self, request: Callable[[], T]) -> T:
        """The answer to a request. Raises what its last try raised."""
        began = time.monotonic()
        for seconds in _RETRY_SECONDS:
            try:
                return request()
            except Exception as error:
                late = time.monotonic() - began >= self._timeout
                if late or not is_transient(error) or self._given_up.wait(_wait(error, seconds)):
                    raise
                _LOG.warning("a request to Qdrant failed and is sent again: %s", reason(error))
        return request()

    def give_up(self) -> None:
        """No request is repeated from now on, also none that waits for it."""
        self._given_up.set()


class AsyncRetries:
    """As `Retries`, for requests that are awaited."""

    def __init__(self, timeout: float) -> None:
        """`timeout` is how many seconds a request may take; one that has failed for as long is not repeated."""
        self._timeout = timeout

    async def __call__(self, request: Callable[[], Awaitable[T]]) -> T:
        """The answer to a request. Raises what its last try raised."""
        began = time.monotonic()
        for seconds in _RETRY_SECONDS:
            try:
                return await request()
            except Exception as error:
                if time.monotonic() - began >= self._timeout or not is_transient(error):
                    raise
                await asyncio.sleep(_wait(error, seconds))
                _LOG.warning("a request to Qdrant failed and is sent again: %s", reason(error))
        return await request()


def _wait(error: Exception, seconds: float) -> float:
    """What the server asks for, otherwise about `seconds`, so that clients do not come back all at once."""
    if isinstance(error, ResourceExhaustedResponse):
        return min(float(error.retry_after_s), _LONGEST_WAIT)
    return seconds * random.uniform(0.5, 1.5)
