"""Waiting for a condition on a machine of any speed."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 120


def wait_until(condition: Callable[[], object], failure: Callable[[], str] = str) -> None:
    """Wait until a condition holds. Fail after two minutes, with what `failure` returns."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s: {failure()}"
        time.sleep(0.005)
