"""LlamaIndex: `QvecVectorStore`, `QvecEmbedding`. Needs the extra llama-index."""

from qvec.integrations.extras import extra

with extra("llama-index", "llama_index", "llama-index-core"):
    from qvec.integrations.llama_index.embedding import QvecEmbedding
    from qvec.integrations.llama_index.store import QvecVectorStore

__all__ = ["QvecEmbedding", "QvecVectorStore"]
