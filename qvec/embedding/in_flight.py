"""Requests that are on their way together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class InFlight(Generic[T, R]):
    """What `work` makes of items, `most` of them at a time in threads. As a context it yields the results, in the order
    of the items; once it is left no further item is begun, and the event that `work` is called with is set."""

    def __init__(self, work: Callable[[T, threading.Event], R], items: Sequence[T], most: int) -> None:
        self._work = work
        self._results: list[Future[R]] = [Future() for _ in items]
        self._waiting = deque(zip(self._results, items, strict=True))
        self._stopped = threading.Event()
        # A request that is on its way cannot be called back, and a process that ends waits for threads but for daemons.
        self._threads = [
            threading.Thread(target=self._run, name=f"qvec-embedding-{number}", daemon=True)
            for number in range(min(most, len(items)))
        ]

    def __enter__(self) -> Iterator[R]:
        for thread in self._threads:
            thread.start()
        return (result.result() for result in self._results)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Waits for what is on its way, unless the user wants to be gone at once."""
        self._stopped.set()
        if not isinstance(error, KeyboardInterrupt):
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while self._waiting and not self._stopped.is_set():
            try:
                result, item = self._waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                result.set_result(self._work(item, self._stopped))
            except BaseException as error:
                result.set_exception(error)
