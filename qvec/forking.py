"""Locks and values that are right in a forked process too, as in the workers of gunicorn or celery."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lock:
    """A reentrant lock that a forked process does not find held by a thread that it does not have."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()

    def free(self) -> None:
        """Makes it new where another thread than this one holds it."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


class OwnValue(Generic[T]):
    """A value that each process makes for itself when it first needs it: one with sockets or threads, which a process
    and those forked from it cannot share."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = Lock()
        self._made: tuple[int, T] | None = None

    def __call__(self) -> T:
        """This process's value, one for all of its threads."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), self._make()
            return self._made[1]

    def if_made(self) -> T | None:
        """This process's value; None where it has not made one."""
        made = self._made
        return made[1] if made is not None and made[0] == os.getpid() else None


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _free_locks() -> None:
    for lock in _locks:
        lock.free()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)
