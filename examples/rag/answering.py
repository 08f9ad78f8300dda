"""Answers without a language model: the sentence that is nearest to the question."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from qvec import QvecError
from rag.found import Found
from rag.library import Library
from rag.markdown import sentences

NOTHING = "The passages found hold no answer to this question."


class AnswerError(QvecError):
    """An answer could not be had, or broke off."""


class Answering(Protocol):
    """What makes an answer of passages, with [numbers] of those that it is taken from."""

    @property
    def name(self) -> str:
        """What it is called on the page."""

    def answer(self, question: str, passages: Sequence[Found]) -> AsyncGenerator[str, None]:
        """The answer in pieces, as they come. Raises AnswerError where it fails."""


class Extractive:
    """The best sentence of the passages as it stands, by the similarity of its embedding to the question's."""

    name = "extractive"

    def __init__(self, library: Library) -> None:
        self._library = library

    async def answer(self, question: str, passages: Sequence[Found]) -> AsyncGenerator[str, None]:
        """One piece: the sentence and its source."""
        choices = [(passage, sentence) for passage in passages for sentence in sentences(passage.text)]
        if not choices:
            yield NOTHING
            return
        # Under its heading a sentence tells what it is about.
        texts = [f"{passage.heading}: {sentence}" for passage, sentence in choices]
        scores = await asyncio.to_thread(self._library.similarities, question, texts)
        passage, sentence = choices[int(scores.argmax())]
        yield f"{sentence} [{passage.number}]"
