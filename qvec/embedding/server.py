"""Models behind an OpenAI-compatible server: llama-server, vLLM, hosted APIs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qvec.embedding.answers import WrongAnswerError, read_answer
from qvec.embedding.batching import joined_batches
from qvec.embedding.cards import card_of, completed
from qvec.embedding.connection import Connection, Patience, RefusedError
from qvec.embedding.in_flight import InFlight
from qvec.embedding.options import EmbeddingOptions
from qvec.embedding.protocol import Embeddings, Progress, require_texts
from qvec.errors import EmbeddingError, InputError, RowError

_TEXTS = 32
_CHARACTERS = 64_000
"""A request's most, so that a slow server answers in time; hosted APIs take ten times as much."""
_IN_FLIGHT = 4
_PROBE = "How long is a vector?"


class ServerEmbedder:
    """A model on a server. Texts are sent in a few requests at a time, with the prefix of their side."""

    def __init__(self, options: EmbeddingOptions, patience: Patience | None = None) -> None:
        """Asks the server for the model's name, where none is given, and for one vector."""
        assert options.model is not None
        self._connection = Connection(options.model, patience)
        self.options = completed(replace(options, model_name=options.model_name or self._only_model()))
        name = self.options.model_name
        self.name = f"{name} on {self._connection.url}" if name else self._connection.url
        card = card_of(name)
        self._normalized = card is not None
        self._encoding = "base64"
        self._most_texts = _TEXTS
        self.dimensions = self._probe()

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts` as documents; see `Embedder`. Raises EmbeddingError."""
        return self._embed(texts, self.options.document_prefix, progress)

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts` as questions; see `Embedder`. Raises EmbeddingError."""
        return self._embed(texts, self.options.query_prefix, progress)

    def _only_model(self) -> str | None:
        """The name of the model that the server lists; None where it lists none."""
        try:
            listed = self._connection.get("models")
        except RefusedError:
            return None
        data = listed.get("data") if isinstance(listed, dict) else None
        names = [item["id"] for item in data or [] if isinstance(item, dict) and isinstance(item.get("id"), str)]
        if len(names) > 1:
            some = self._connection.redacted(", ".join(names[:5])) + (", …" if len(names) > 5 else "")
            url = self._connection.url
            raise InputError(f"embedding server {url} has several models ({some}); name one: --model-name NAME")
        return names[0] if names else None

    def _probe(self) -> int:
        try:
            return int(self._ask([_PROBE], None, threading.Event()).shape[1])
        except RefusedError as refusal:
            raise EmbeddingError(f"embedding server {self._connection.url} refuses a request: {refusal}") from None
        except RowError as error:
            raise EmbeddingError(f"{self.name}: {error.reason}") from None

    def _embed(self, texts: Sequence[str], prefix: str | None, progress: Progress | None) -> Embeddings:
        require_texts(texts)
        sent = [f"{prefix or ''}{text}" for text in texts]
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        batches = list(joined_batches(sent, self._most_texts, _CHARACTERS))

        def request(batch: tuple[int, int], stopped: threading.Event) -> Embeddings:
            start, end = batch
            return self._request(sent[start:end], start, stopped)

        with InFlight(request, batches, _IN_FLIGHT) as answers:
            for (start, end), answer in zip(batches, answers, strict=True):
                vectors[start:end] = answer
                if progress is not None:
                    progress(end)
        return vectors

    def _request(self, texts: list[str], first: int, stopped: threading.Event) -> Embeddings:
        """Vectors of texts of which the first is row `first`, in smaller requests where the server refuses them."""
        if len(texts) <= self._most_texts:
            try:
                return self._ask(texts, self.dimensions, stopped)
            except RowError as error:
                raise RowError(first + error.row, error.reason) from None
            except RefusedError as refusal:
                if len(texts) == 1:
                    reason = f"the embedding server refuses this text of {len(texts[0]):,} characters: {refusal}"
                    raise RowError(first, reason) from None
        middle = len(texts) // 2
        halves = [
            self._request(texts[:middle], first, stopped),
            self._request(texts[middle:], first + middle, stopped),
        ]
        # No text was to blame, so they were too many; the next requests are smaller from the beginning.
        self._most_texts = min(self._most_texts, middle)
        return np.concatenate(halves)

    def _ask(self, texts: list[str], dimensions: int | None, stopped: threading.Event) -> Embeddings:
        try:
            answer = self._answer(texts, stopped)
            return read_answer(answer, len(texts), dimensions, normalized=self._normalized)
        except WrongAnswerError as error:
            wrong = self._connection.redacted(str(error))
            raise EmbeddingError(f"the answer of embedding server {self._connection.url} {wrong}") from None

    def _answer(self, texts: list[str], stopped: threading.Event) -> Any:
        """The answer in base64, a quarter of the bytes, or as numbers from a server that has no base64."""
        encoding = self._encoding
        name = {"model": self.options.model_name} if self.options.model_name else {}
        body = {**name, "input": texts, "encoding_format": encoding}
        try:
            return self._connection.post("embeddings", body, stopped)
        except RefusedError as refusal:
            if encoding == "float" or not any(word in str(refusal) for word in ("encoding_format", "base64")):
                raise
        self._encoding = "float"
        return self._connection.post("embeddings", {**body, "encoding_format": "float"}, stopped)
