"""Models on an OpenAI-compatible server: llama-server, vLLM, hosted APIs.

An answer (https://platform.openai.com/docs/api-reference/embeddings) is an object whose `data` holds, for each input,
an object with its `index` and its `embedding`, a list of numbers or base64 of little-endian float32.
"""

from __future__ import annotations

import base64
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.embedding_options import EmbeddingOptions
from qvec.embedding.model_cards import card_of, complete_options
from qvec.embedding.protocol import Embeddings, Progress, require_texts
from qvec.embedding.server_connection import RefusedError, RetryPolicy, ServerConnection
from qvec.errors import EmbeddingError, InputError, RowError

T = TypeVar("T")
R = TypeVar("R")

# Limits of a request, so that a slow server answers in time; hosted APIs accept ten times as much.
_MAX_TEXTS = 32
_MAX_CHARACTERS = 64_000
_MAX_REQUESTS = 4
_PROBE = "How long is a vector?"
_UNIT_TOLERANCE = 1e-2


class ServerEmbedder:
    """A model on a server. Texts are sent with their prefix, in a few requests at a time."""

    def __init__(self, options: EmbeddingOptions, policy: RetryPolicy | None = None) -> None:
        """Connect: ask the server for the model's name, unless it is given, and for one vector."""
        assert options.model is not None
        self._connection = ServerConnection(options.model, policy)
        self.options = complete_options(replace(options, model_name=options.model_name or self._only_model()))
        name = self.options.model_name
        self.name = f"{name} on {self._connection.url}" if name else self._connection.url
        self._normalized = card_of(name) is not None
        self._encoding = "base64"
        self._max_texts = _MAX_TEXTS
        self.dimensions = self._probe()

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Return the vectors of documents; see `Embedder`. Raise EmbeddingError if the server fails."""
        return self._embed(texts, self.options.document_prefix, progress)

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Return the vectors of questions; see `Embedder`. Raise EmbeddingError if the server fails."""
        return self._embed(texts, self.options.query_prefix, progress)

    def _only_model(self) -> str | None:
        """Return the name of the only model that the server lists; None if it lists none."""
        try:
            listed = self._connection.get("models")
        except RefusedError:
            return None
        data = listed.get("data") if isinstance(listed, dict) else None
        names = [item["id"] for item in data or [] if isinstance(item, dict) and isinstance(item.get("id"), str)]
        if len(names) > 1:
            some = self._connection.redacted(_first_few(names))
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
        batches = list(consecutive_batches(sent, self._max_texts, _MAX_CHARACTERS))

        def request(batch: tuple[int, int], stopped: threading.Event) -> Embeddings:
            start, end = batch
            return self._request(sent[start:end], start, stopped)

        with ParallelRequests(request, batches, _MAX_REQUESTS) as answers:
            for (start, end), answer in zip(batches, answers, strict=True):
                vectors[start:end] = answer
                if progress is not None:
                    progress(end)
        return vectors

    def _request(self, texts: list[str], first: int, stopped: threading.Event) -> Embeddings:
        """Return the vectors of texts, the first of them row `first`; split the request if the server refuses it."""
        if len(texts) <= self._max_texts:
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
        # Each half was accepted, so the texts were too many: the next requests are smaller from the beginning.
        self._max_texts = min(self._max_texts, middle)
        return np.concatenate(halves)

    def _ask(self, texts: list[str], dimensions: int | None, stopped: threading.Event) -> Embeddings:
        try:
            answer = self._answer(texts, stopped)
            return read_answer(answer, len(texts), dimensions, normalized=self._normalized)
        except WrongAnswerError as error:
            wrong = self._connection.redacted(str(error))
            raise EmbeddingError(f"the answer of embedding server {self._connection.url} {wrong}") from None

    def _answer(self, texts: list[str], stopped: threading.Event) -> Any:
        """Return the answer in base64, a quarter of the bytes, or as numbers if the server does not support base64."""
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


def consecutive_batches(texts: list[str], max_rows: int, max_characters: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of batches of consecutive texts within both limits; a longer text is a batch alone."""
    start = characters = 0
    for row, text in enumerate(texts):
        if row > start and (row - start == max_rows or characters + len(text) > max_characters):
            yield start, row
            start, characters = row, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)


class ParallelRequests(Generic[T, R]):
    """Calls `work` with each item in up to `max_threads` threads. As a context manager it yields the results in order.

    When the context is left, no further item is begun, and the event that `work` is called with is set.
    """

    def __init__(self, work: Callable[[T, threading.Event], R], items: Sequence[T], max_threads: int) -> None:
        self._work = work
        self._results: list[Future[R]] = [Future() for _ in items]
        self._waiting = deque(zip(self._results, items, strict=True))
        self._stopped = threading.Event()
        # Daemons, because a request cannot be cancelled, and a process that ends would wait for other threads.
        self._threads = [
            threading.Thread(target=self._run, name=f"qvec-embedding-{number}", daemon=True)
            for number in range(min(max_threads, len(items)))
        ]

    def __enter__(self) -> Iterator[R]:
        for thread in self._threads:
            thread.start()
        return (result.result() for result in self._results)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Wait for the running requests, unless the user interrupts."""
        self._stopped.set()
        if not isinstance(error, KeyboardInterrupt):
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while self._waiting and not self._stopped.is_set():
            try:
                result, item = self._waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                result.set_result(self._work(item, self._stopped))
            except BaseException as error:
                result.set_exception(error)


class WrongAnswerError(ValueError):
    """A server's answer is invalid. The message continues "the answer of embedding server URL …"."""


def read_answer(answer: Any, rows: int, dimensions: int | None, *, normalized: bool) -> Embeddings:
    """Return the vectors (rows, dimensions) float32 of an answer to `rows` texts, in the order of `index`.

    `dimensions` None accepts those of the first vector. Raise WrongAnswerError for an invalid answer, RowError for a
    vector that is not finite, because other texts may succeed.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise WrongAnswerError("has no list of embeddings under `data`")
    if len(data) != rows:
        raise WrongAnswerError(f"has {len(data)} embeddings for {rows} texts")
    vectors = [_vector(item.get("embedding")) for item in _in_order(data)]
    wanted = len(vectors[0]) if dimensions is None else dimensions
    for vector in vectors:
        if len(vector) != wanted:
            raise WrongAnswerError(f"has an embedding of {len(vector)} dimensions, expected {wanted}")
    found = np.stack(vectors)
    _check_finite(found)
    if normalized:
        _check_unit(found)
    return found


def _in_order(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items ordered by `index`, which must hold each number from 0 once."""
    indexes = [item.get("index") for item in data]
    if sorted(index for index in indexes if type(index) is int) != list(range(len(data))):
        found = _first_few(indexes)
        raise WrongAnswerError(f"has embeddings whose index is {found}, expected each of 0 to {len(data) - 1}")
    return sorted(data, key=lambda item: item["index"])


def _first_few(values: list[Any]) -> str:
    return ", ".join(map(str, values[:5])) + (", …" if len(values) > 5 else "")


def _vector(embedding: Any) -> NDArray[np.float32]:
    try:
        if isinstance(embedding, str):
            vector = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
        else:
            with np.errstate(over="ignore"):
                vector = np.asarray(embedding, np.float32)
    except (ValueError, TypeError):
        raise WrongAnswerError("has an embedding that is neither a list of numbers nor base64 of float32") from None
    if vector.ndim != 1 or not len(vector):
        raise WrongAnswerError(
            f"has an embedding of shape {vector.shape}, expected one vector a text; "
            "serve the model with pooling (llama-server: --pooling mean)"
        )
    return vector


def _check_finite(vectors: Embeddings) -> None:
    bad = np.argwhere(~np.isfinite(vectors))
    if len(bad):
        row, dimension = bad[0]
        raise RowError(int(row), f"the server's embedding has {vectors[row, dimension]} at dimension {dimension}")


def _check_unit(vectors: Embeddings) -> None:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    worst = lengths[np.abs(lengths - 1).argmax()]
    if abs(worst - 1) > _UNIT_TOLERANCE:
        raise WrongAnswerError(
            f"has an embedding of length {worst:.3g}, expected 1 of this model; "
            "serve it with mean pooling and normalized (llama-server: --pooling mean)"
        )
