"""The background optimizer of one collection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Optimizer:
    """Run the engine's `optimize()` in a background thread after changes, as the server does.

    `delay` returns the seconds to wait before each run. `error` is the message of a failed run.
    """

    def __init__(self, optimize: Callable[[], object], delay: Callable[[], float]) -> None:
        self._optimize = optimize
        self._delay = delay
        self._changed = threading.Condition()
        self._is_requested = False
        self.is_running = False
        self.error = ""

    def request(self) -> None:
        """Ask for a run that covers everything written so far."""
        with self._changed:
            self._is_requested = True
            if not self.is_running:
                self.is_running = True
                threading.Thread(target=self._run, daemon=True).start()

    def wait(self) -> None:
        """Wait until all requested runs are done."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_running)

    def _run(self) -> None:
        while self._has_request():
            time.sleep(self._delay())
            try:
                self._optimize()
            except Exception as error:
                self.error = str(error)

    def _has_request(self) -> bool:
        with self._changed:
            self.is_running, self._is_requested = self._is_requested, False
            self._changed.notify_all()
            return self.is_running
