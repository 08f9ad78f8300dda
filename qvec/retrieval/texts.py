"""Text in, text out: collections that embed what they are given."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from qvec.errors import InputError
from qvec.tracing import span

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from qvec.calibration import Calibration
    from qvec.embedding import TextEmbedder
    from qvec.retrieval.embedders import Embedders
    from qvec.sources import IdType


class OfTexts:
    """What a collection and its async twin share of it."""

    name: str
    calibration: Calibration
    model: str | None
    embedding: Mapping[str, Any] | None
    _embedders: Embedders
    _embedder: TextEmbedder | None = None

    @property
    def embedder(self) -> TextEmbedder:
        """What makes vectors of texts: the model that the collection names, loaded when it is first needed, or one that
        was set. Raises InputError where there is neither."""
        return self._embedder or self._embedders.of(self, self.calibration)

    @embedder.setter
    def embedder(self, embedder: TextEmbedder) -> None:
        self._embedder = embedder

    def _embedded(self, query: ArrayLike | str | Sequence[str]) -> ArrayLike:
        """Queries as vectors: a question (d,), several (m, d), and vectors as they are."""
        if isinstance(query, str):
            vector: NDArray[Any] = self._embed_queries([query])[0]
            return vector
        return self._embed_queries(query) if are_texts(query) else query

    def _embed_queries(self, texts: Sequence[str]) -> NDArray[Any]:
        with span("embed", collection=self.name, texts=len(texts)):
            return self.embedder.embed_queries(texts)


def are_texts(query: Any) -> TypeGuard[Sequence[str]]:
    """Whether a query is several questions, and not vectors."""
    return isinstance(query, Sequence) and len(query) > 0 and all(isinstance(one, str) for one in query)


def check_texts(texts: Any) -> list[str]:
    """Texts as a list. Raises InputError for one string instead of several, or for what is no string."""
    if isinstance(texts, str):
        raise InputError("texts is one string; wanted a sequence of them: put it in a list")
    found = list(texts)
    for position, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"text {position} is {type(text).__name__}, wanted a string")
    return found


def new_ids(count: int, id_type: IdType) -> list[int | str]:
    """Random ids for rows that come without: UUIDs, or integers of 63 bits."""
    drawn = [uuid.uuid4() for _ in range(count)]
    return [id.int >> 65 for id in drawn] if id_type == "bigint" else [str(id) for id in drawn]
