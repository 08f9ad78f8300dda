"""The background optimizer of one collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Optimizer:
    """Runs the engine's `optimize()` in a thread after changes, as the server does by itself.

    `delay` says how many seconds to stand still before each run. `error` is what the engine said of one that failed.
    """

    def __init__(self, optimize: Callable[[], object], delay: Callable[[], float]) -> None:
        self._optimize = optimize
        self._delay = delay
        self._changed = threading.Condition()
        self._is_wanted = False
        self.is_running = False
        self.error = ""

    def request(self) -> None:
        """Ask for a run that covers everything written so far."""
        with self._changed:
            self._is_wanted = True
            if not self.is_running:
                self.is_running = True
                threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> None:
        """Return when all that was asked for is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_running)

    def _run(self) -> None:
        while self._has_more():
            time.sleep(self._delay())
            try:
                self._optimize()
            except Exception as error:
                self.error = str(error)

    def _has_more(self) -> bool:
        with self._changed:
            self.is_running, self._is_wanted = self._is_wanted, False
            self._changed.notify_all()
            return self.is_running
