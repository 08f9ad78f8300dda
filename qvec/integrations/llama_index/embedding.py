"""qvec's embedding models as LlamaIndex's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr

from qvec.integrations.threads import in_thread

if TYPE_CHECKING:
    from qvec.embedding import TextEmbedder


class QvecEmbedding(BaseEmbedding):
    """An embedder of qvec, such as `qvec.embedding.load_embedder` gives, or a collection's own: `docs.embedder`."""

    _embedder: TextEmbedder = PrivateAttr()

    def __init__(self, embedder: TextEmbedder) -> None:
        super().__init__(model_name=getattr(embedder, "name", type(embedder).__name__))
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        return "QvecEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.embed_documents(texts).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._embedder.embed_queries([query])[0].tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await in_thread(self._get_query_embedding, query)
