"""Async methods of the frameworks whose base classes would call the blocking ones on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a blocking call returns, awaited while a thread runs it."""
    return await asyncio.to_thread(work, *args, **kwargs)
