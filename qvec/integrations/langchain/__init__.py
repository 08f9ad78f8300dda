"""LangChain: `QvecVectorStore`, `QvecEmbeddings`. Needs the extra langchain."""

from qvec.integrations.extras import extra

with extra("langchain", "langchain_core", "langchain-core"):
    from qvec.integrations.langchain.embeddings import QvecEmbeddings
    from qvec.integrations.langchain.store import QvecVectorStore

__all__ = ["QvecEmbeddings", "QvecVectorStore"]
