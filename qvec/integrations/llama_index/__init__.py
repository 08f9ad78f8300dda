"""LlamaIndex: `QvecVectorStore`, `QvecEmbedding`. Needs the extra llama-index."""

from qvec.integrations.adapters import require_extra

with require_extra("llama-index", "llama_index", "llama-index-core"):
    from qvec.integrations.llama_index.store import QvecEmbedding, QvecVectorStore

__all__ = ["QvecEmbedding", "QvecVectorStore"]
