"""Calls of several steps, such as embedding and two searches: a database that is closed meanwhile knows that a step is
part of a call that began before."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

_began: ContextVar[float | None] = ContextVar("qvec_began", default=None)


def began() -> float:
    """When the call began that this is part of, by `time.monotonic`; now where it is part of none."""
    outermost = _began.get()
    return time.monotonic() if outermost is None else outermost


@contextmanager
def one_call() -> Iterator[None]:
    """What is done inside is one call: those of its steps that come after a close do not open the database again."""
    if _began.get() is not None:
        yield
        return
    _began.set(time.monotonic())
    try:
        yield
    finally:
        _began.set(None)


@asynccontextmanager
async def one_call_async() -> AsyncIterator[None]:
    """As `one_call`, to decorate what is awaited."""
    with one_call():
        yield
