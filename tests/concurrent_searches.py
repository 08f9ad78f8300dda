"""Search in background threads while a test changes the collection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from patience import wait_until


class BackgroundSearches:
    """Threads that each repeat one kind of search until the block ends; a fault in any of them fails the block.

    A search is called with its number, from 0, and returns a description of each fault in what it found.
    """

    def __init__(self, searches: Mapping[str, Callable[[int], list[str]]]) -> None:
        self._searches = searches
        self._counts = dict.fromkeys(searches, 0)
        self._faults: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(name,)) for name in searches]

    def __enter__(self) -> BackgroundSearches:
        for thread in self._threads:
            thread.start()
        return self

    def wait_for_all(self) -> None:
        """Wait until every thread has made at least three whole searches from now on."""
        wanted = {name: count + 4 for name, count in self._counts.items()}  # the first may have begun before

        def late() -> list[str]:
            return [name for name, count in self._counts.items() if count < wanted[name]]

        wait_until(lambda: not late(), lambda: f"too few searches by {', '.join(late())}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if error is None:
            assert self._faults == []

    def _repeat(self, name: str) -> None:
        while not self._stop.is_set():
            try:
                found = self._searches[name](self._counts[name])
                self._faults.extend(f"{name}: {fault}" for fault in found)
            except Exception as error:
                self._faults.append(f"{name}: {type(error).__name__} {error}")
            self._counts[name] += 1
