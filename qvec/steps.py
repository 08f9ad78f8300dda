"""Running work that is written as a generator of steps: it does no I/O, so that it is written once for callers that
wait and for callers that await."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")


def run(steps: Generator[S, Any, T], answer: Callable[[S], Any]) -> T:
    """Gives each step its answer, and returns what the generator returns. An error is raised in it, at the step."""
    try:
        step = next(steps)
        while True:
            try:
                given = answer(step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(given)
    except StopIteration as end:
        result: T = end.value
        return result


async def run_async(steps: Generator[S, Any, T], answer: Callable[[S], Awaitable[Any]]) -> T:
    """As `run`, with answers that are awaited."""
    try:
        step = next(steps)
        while True:
            try:
                given = await answer(step)
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(given)
    except StopIteration as end:
        result: T = end.value
        return result
