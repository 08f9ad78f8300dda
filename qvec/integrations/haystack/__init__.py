"""Haystack: `QvecDocumentStore`, `QvecEmbeddingRetriever`, `QvecHybridRetriever`. Needs the extra haystack.

Haystack loads a pipeline only where it trusts the modules: `Pipeline.loads(text, allowed_modules=["qvec"])`.
"""

from qvec.integrations.extras import extra

with extra("haystack", "haystack", "haystack-ai"):
    from qvec.integrations.haystack.retriever import QvecEmbeddingRetriever, QvecHybridRetriever
    from qvec.integrations.haystack.store import QvecDocumentStore

__all__ = ["QvecDocumentStore", "QvecEmbeddingRetriever", "QvecHybridRetriever"]
