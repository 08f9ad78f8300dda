"""Waiting and blocking work, for asynchronous code and its synchronous twin.

Each function exists twice: `name_async` is awaited in `_async` modules, `name` takes its place in the generated ones.
So does an event: `AsyncEvent`, and `Event` of `threading`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import Event
from typing import ParamSpec, TypeVar

__all__ = ["AsyncEvent", "Event", "in_thread", "in_thread_async", "sleep", "sleep_async"]

P = ParamSpec("P")
T = TypeVar("T")


async def sleep_async(seconds: float) -> None:
    """Wait for some seconds, while the event loop goes on."""
    await asyncio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait for some seconds."""
    time.sleep(seconds)


async def in_thread_async(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Return the result of a blocking call, made in a thread of the event loop."""
    return await asyncio.to_thread(work, *arguments, **options)


def in_thread(work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Return the result of a blocking call, made in this thread."""
    return work(*arguments, **options)


class AsyncEvent:
    """`threading.Event` for the tasks of one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self, timeout: float) -> bool:
        """Wait until the event is set, at most `timeout` seconds; return whether it is set."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except asyncio.TimeoutError:
            return False
        return True
