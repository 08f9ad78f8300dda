"""Operation scopes: the steps of one public call, such as embedding and two searches, belong together.

A database that is closed while a call is under way recognizes its later steps by the time when the call began, and does
not open again for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_began: ContextVar[float | None] = ContextVar("qvec_operation_began", default=None)


def operation_began() -> float:
    """Return when the current operation began, by `time.monotonic`; now where there is none."""
    began = _began.get()
    return time.monotonic() if began is None else began


@contextmanager
def operation() -> Iterator[None]:
    """Group the steps inside as one operation; an inner scope belongs to the outer one."""
    if _began.get() is not None:
        yield
        return
    _began.set(time.monotonic())
    try:
        yield
    finally:
        _began.set(None)
