"""Haystack: `QvecDocumentStore`, `QvecEmbeddingRetriever`, `QvecHybridRetriever`. Needs the extra haystack.

Haystack loads a pipeline only if its modules are allowed: `Pipeline.loads(text, allowed_modules=["qvec"])`.
"""

from qvec.integrations.adapters import require_extra

with require_extra("haystack", "haystack", "haystack-ai"):
    from qvec.integrations.haystack.retrievers import QvecEmbeddingRetriever, QvecHybridRetriever
    from qvec.integrations.haystack.store import QvecDocumentStore

__all__ = ["QvecDocumentStore", "QvecEmbeddingRetriever", "QvecHybridRetriever"]
