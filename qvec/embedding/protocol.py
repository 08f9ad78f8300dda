"""What every embedding model can do, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.options import EmbeddingOptions
from qvec.errors import InputError, RowError

Embeddings = NDArray[np.float32]
Progress = Callable[[int], None]
"""Called with the number of texts embedded so far in this call."""


class TextEmbedder(Protocol):
    """What makes vectors of texts, for a collection that is written and asked in text. Many models prompt questions
    differently from documents, hence the two methods."""

    def embed_documents(self, texts: Sequence[str]) -> NDArray[Any]:
        """Vectors of texts, shape (len(texts), dimensions)."""

    def embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        """Vectors of questions, shape (len(texts), dimensions)."""


@runtime_checkable
class AsyncEmbedder(TextEmbedder, Protocol):
    """A `TextEmbedder` that collections of `connect_async` await, instead of having it work in a thread."""

    async def embed_documents_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """Vectors of texts, shape (len(texts), dimensions)."""

    async def embed_queries_async(self, texts: Sequence[str]) -> NDArray[Any]:
        """Vectors of questions, shape (len(texts), dimensions)."""


class Embedder(Protocol):
    """An embedding model that `load_embedder` gives: a `TextEmbedder` that tells what it is and how far it has come."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def options(self) -> EmbeddingOptions:
        """What it was loaded by, with what was found out while loading filled in; loads the same again."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts`: float32, C-contiguous, shape (len(texts), dimensions).

        Raises RowError for a text that cannot be embedded, such as one that is longer than a server takes.
        """

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """As `embed_documents`, with the model's own prompt for questions."""


def require_texts(texts: Sequence[str]) -> None:
    """Raises InputError for one string instead of several, RowError for a text that is no string."""
    if isinstance(texts, str):
        raise InputError("texts is one string; wanted a sequence of them: put it in a list")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise RowError(row, f"text is {type(text).__name__}, wanted a string (an empty one is allowed)")
