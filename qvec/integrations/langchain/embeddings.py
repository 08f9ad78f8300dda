"""qvec's embedding models as LangChain's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.embeddings import Embeddings

if TYPE_CHECKING:
    from qvec.embedding import TextEmbedder


class QvecEmbeddings(Embeddings):
    """An embedder of qvec, such as `qvec.embedding.load_embedder` gives, or a collection's own: `docs.embedder`."""

    def __init__(self, embedder: TextEmbedder) -> None:
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self.embedder.embed_documents(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self.embedder.embed_queries([text])[0].tolist()
        return vector
