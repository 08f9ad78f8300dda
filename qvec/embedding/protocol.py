"""The protocols of embedding models, wherever they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.embedding_options import EmbeddingOptions
from qvec.errors import InputError, RowError

Embeddings = NDArray[np.float32]
Progress = Callable[[int], None]
"""Called with the number of texts embedded so far in this call."""


class TextEmbedder(Protocol):
    """Embeds the texts of a collection. Many models prompt questions differently from documents, hence two methods."""

    def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of texts, shape (len(texts), dimensions)."""

    def embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of questions, shape (len(texts), dimensions)."""


@runtime_checkable
class AsyncEmbedder(TextEmbedder, Protocol):
    """A `TextEmbedder` that async collections await, instead of calling it in a thread."""

    async def embed_documents_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of texts, shape (len(texts), dimensions)."""

    async def embed_queries_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return the vectors of questions, shape (len(texts), dimensions)."""


class Embedder(Protocol):
    """An embedding model returned by `load_embedder`: a `TextEmbedder` that tells its options and its progress."""

    @property
    def name(self) -> str:
        """Name in messages."""

    @property
    def options(self) -> EmbeddingOptions:
        """The options it was loaded by, completed by what loading found out; they load the same model again."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Return the vectors of `texts`: float32, C-contiguous, shape (len(texts), dimensions).

        Raise RowError for a text that cannot be embedded, such as one that is longer than a server accepts.
        """

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Return the vectors of questions; like `embed_documents`, with the model's prompt for questions."""


def require_texts(texts: Sequence[str]) -> None:
    """Raise InputError if `texts` is a single string, RowError for an item that is not a string."""
    if isinstance(texts, str):
        raise InputError("texts is one string; wanted a sequence of them: put it in a list")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise RowError(row, f"text is {type(text).__name__}, wanted a string (an empty one is allowed)")
