"""Locks and values that work in forked processes, such as the workers of gunicorn or celery."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lock:
    """A reentrant lock that is free in a forked process even if another thread of its parent holds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def free(self) -> None:
        """Replace the lock if another thread than the current one holds it."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


class ProcessLocal(Generic[T]):
    """A value that each process makes when it first needs it, such as one with sockets or threads, which a process
    cannot share with those forked from it."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = Lock()
        self._made: tuple[int, T] | None = None

    def __call__(self) -> T:
        """Return this process's value, which all of its threads share."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), self._make()
            return self._made[1]

    def if_made(self) -> T | None:
        """Return this process's value; None if it has not made one yet."""
        made = self._made
        return made[1] if made is not None and made[0] == os.getpid() else None


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _free_locks() -> None:
    for lock in _locks:
        lock.free()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)
