"""What is asked of Qdrant, apart from how it is sent.

Work of several requests is a generator: it yields steps, is given what each answers, and returns a result. So it is
written once; `perform` goes through it with a client that is waited for, `perform_async` with one that is awaited. An
error of a step is raised in the generator, at the step. The embedded engine answers at once: nothing is yielded then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from qvec.steps import run, run_async

T = TypeVar("T")
P = ParamSpec("P")

Ask = Callable[[Any], Any]
"""A request: given a client of qdrant-client, or its async one, whose methods are the same, it gives the answer, or
what is awaited for it."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Waits so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Compute:
    """What a function gives that takes too long for an event loop."""

    work: Callable[[], Any]


Step = Ask | Pause | Compute
Steps = Generator[Step, Any, T]


def perform(steps: Steps[T], send: Callable[[Ask], Any]) -> T:
    """Goes through steps, sending what they ask, and returns what they return."""
    return run(steps, lambda step: _done(step, send))


def _done(step: Step, send: Callable[[Ask], Any]) -> Any:
    if isinstance(step, Pause):
        return time.sleep(step.seconds)
    return step.work() if isinstance(step, Compute) else send(step)


async def perform_async(steps: Steps[T], send: Callable[[Ask], Awaitable[Any]]) -> T:
    """Goes through steps, sending what they ask, and returns what they return."""
    return await run_async(steps, lambda step: _done_async(step, send))


async def _done_async(step: Step, send: Callable[[Ask], Awaitable[Any]]) -> Any:
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    return await (asyncio.to_thread(step.work) if isinstance(step, Compute) else send(step))


def at_once(work: Callable[P, T]) -> Callable[P, Steps[T]]:
    """A function as steps that ask nothing: it is called when they are begun."""

    @wraps(work)
    def steps(*arguments: P.args, **options: P.kwargs) -> Steps[T]:
        yield from ()
        return work(*arguments, **options)

    return steps
