"""Embedding models, local or on a server, behind one small protocol.

torch, sentence-transformers and the HTTP client are imported when a model is loaded, not before.
"""

from qvec.embedding.cached import CachedQueries
from qvec.embedding.embedding_options import EmbeddingOptions
from qvec.embedding.loading import lasting_name, load_embedder
from qvec.embedding.model_cards import TASKS, check_cut
from qvec.embedding.protocol import AsyncEmbedder, Embedder, Embeddings, Progress, TextEmbedder
from qvec.embedding.sentence_transformer import PACKAGED_MODEL, SentenceTransformerEmbedder

__all__ = [
    "PACKAGED_MODEL",
    "TASKS",
    "AsyncEmbedder",
    "CachedQueries",
    "Embedder",
    "EmbeddingOptions",
    "Embeddings",
    "Progress",
    "SentenceTransformerEmbedder",
    "TextEmbedder",
    "check_cut",
    "lasting_name",
    "load_embedder",
]
