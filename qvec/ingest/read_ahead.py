"""Reading ahead: an iterator that runs in a thread, a few items ahead of its consumer."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_ITEMS = 2
_POLL_SECONDS = 0.1
_LAST_ITEM_SECONDS = 2
"""How long to wait for an item that is no longer needed: enough to read it, though embedding may take minutes."""


class ReadAhead(Generic[T]):
    """Takes items from an iterator that runs in a thread. Items can be put back; an error of the iterator is kept in
    `error` until the items before it are taken. Once `stop` is set no more items are given."""

    def __init__(self, items: Callable[[], Iterator[T]], stop: threading.Event) -> None:
        self.exhausted = False
        self.error: BaseException | None = None
        self._items = items
        self._stop = stop
        self._back: deque[T] = deque()
        self._queue: queue.Queue[T | BaseException | None] = queue.Queue(_ITEMS)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def take(self) -> T | None:
        """Return the next item; None at the end or after a stop."""
        if self._back:
            return self._back.popleft()
        while not (self.exhausted or self._stop.is_set()):
            try:
                item = self._queue.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                continue
            if item is not None and not isinstance(item, BaseException):
                return item
            self.exhausted, self.error = True, item
        return None

    def put_back(self, items: Iterable[T]) -> None:
        """Let `take` return these items first, in this order."""
        self._back.extendleft(reversed(list(items)))

    def __enter__(self) -> ReadAhead[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait for the current item: briefly after a stop, and not at all after Ctrl-C."""
        self._closed.set()
        if not isinstance(error, KeyboardInterrupt):
            self._thread.join(_LAST_ITEM_SECONDS if self._stop.is_set() else None)

    def _run(self) -> None:
        try:
            for item in self._items():
                if not self._put(item):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: T | BaseException | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
