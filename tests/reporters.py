"""Reporters that call a function at a point of a load or a recalibration and record messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qvec.ingest import Reporter


class AtStage(Reporter):
    """Call a function when a stage first begins."""

    def __init__(self, name: str, action: Callable[[], Any]) -> None:
        self._name, self._action = name, action

    def stage(self, name: str, total: int | None) -> None:  # noqa: ARG002
        if name == self._name:
            self._name = ""
            self._action()


class AtRow(Reporter):
    """Call a function once when a load has reached a row; record messages and the progress of indexing."""

    def __init__(self, row: int = 0, action: Callable[[], Any] | None = None) -> None:
        self.messages: list[str] = []
        self.index_progress: list[tuple[int, int | None]] = []
        self._row = row
        self._action = action

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        if name == "index":
            self.index_progress.append((done, total))
        if name == "loading" and done >= self._row and self._action is not None:
            action, self._action = self._action, None
            action()

    def say(self, message: str) -> None:
        self.messages.append(message)

    @property
    def retries(self) -> int:
        return sum("the connection was lost" in message for message in self.messages)
