"""Searches in several steps, written once: generators that yield what to ask of a collection and are given the answer.

They neither know the store nor wait for it. `run` and `run_async` ask a collection and its async twin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

import qvec.steps
from qvec.errors import InputError
from qvec.hits import Hit
from qvec.stores import check_count
from qvec.tracing import span

T = TypeVar("T")


class Request(Protocol):
    """Something to ask of a collection."""

    def ask(self, collection: Any) -> Any:
        """The answer, or of an async collection what gives it when awaited."""


@dataclass(frozen=True)
class Search:
    """The k rows nearest to a vector (d,), or of several (m, d) those of each; answered by hits."""

    query: NDArray[Any]
    k: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the collection's `search`."""

    def ask(self, collection: Any) -> Any:
        return collection.search(self.query, self.k, **self.options)


@dataclass(frozen=True)
class Vectors:
    """The vectors of rows by id, answered by float32 (n, d), NaN for a row that is not there."""

    ids: Sequence[int | str]

    def ask(self, collection: Any) -> Any:
        return collection.vectors(self.ids)


@dataclass(frozen=True)
class Rows:
    """Rows by id, answered by a hit for each, None for a row that is not there."""

    ids: Sequence[int | str]

    def ask(self, collection: Any) -> Any:
        return collection.get(self.ids)


@dataclass(frozen=True)
class Count:
    """How many rows there are."""

    def ask(self, collection: Any) -> Any:
        return collection.count()


@dataclass(frozen=True)
class Words:
    """The k rows that hold words of a question, by how well they match; answered by hits."""

    question: str
    k: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of the collection's `search_text`."""

    def ask(self, collection: Any) -> Any:
        return collection.search_text(self.question, self.k, **self.options)


@dataclass(frozen=True)
class Compute:
    """What a function gives that takes too long for an event loop, such as a model's judgement."""

    work: Callable[[], Any]


Steps = Generator[Request | Compute, Any, T]


def considered(among: int | None, k: int, default: int) -> int:
    """Of how many rows k are chosen. Raises InputError for fewer."""
    if among is None:
        return default
    check_count("among", among)
    if among < k:
        raise InputError(f"among is {among}, expected at least k, {k}")
    return among


def with_texts(hits: Sequence[Hit]) -> Steps[list[Hit]]:
    """Hits with the documents and metadata that they were found without; one whose row is gone stays without."""
    if not hits:
        return []
    with span("texts", rows=len(hits)):
        rows: list[Hit | None] = yield Rows([hit.id for hit in hits])
    return [
        replace(hit, document=row.document, metadata=row.metadata) if row else hit
        for hit, row in zip(hits, rows, strict=True)
    ]


def run(collection: Any, steps: Steps[T]) -> T:
    """Goes through the steps, asking the collection what they ask for."""
    return qvec.steps.run(steps, lambda step: step.work() if isinstance(step, Compute) else step.ask(collection))


async def run_async(collection: Any, steps: Steps[T]) -> T:
    """As `run`, of an async collection."""
    return await qvec.steps.run_async(
        steps, lambda step: asyncio.to_thread(step.work) if isinstance(step, Compute) else step.ask(collection)
    )


def single(query: Any) -> NDArray[np.float32]:
    """One query as an array, for the steps that look at it themselves."""
    return np.asarray(query, np.float32).reshape(-1)
