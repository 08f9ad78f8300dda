"""sentence-transformers models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.batching import padded_batches
from qvec.embedding.hub import load, quiet
from qvec.embedding.options import EmbeddingOptions
from qvec.embedding.protocol import Embeddings, Progress, require_texts

# Texts and, with padding, tokens a pass. On 2 cores 8 and 16 texts are alike, 32 are 8% slower and 64 a third: the
# activations leave the cache. The tokens keep long texts of models that take thousands from filling the memory.
_CPU_BATCH = (16, 4_096)
_ACCELERATOR_BATCH = (128, 65_536)


class SentenceTransformerEmbedder:
    """A sentence-transformers model, in float32 on a CPU, in its own precision on an accelerator."""

    def __init__(self, options: EmbeddingOptions) -> None:
        """Loads the model; its own prompts are used on the sides that `options` give no prefix for."""
        assert options.model is not None
        self.options = options
        self.name = options.model
        self._model = load(options.model)
        self._batch = _CPU_BATCH if self._model.device.type == "cpu" else _ACCELERATOR_BATCH
        self._prefixes = {"query": options.query_prefix, "document": options.document_prefix}
        self.dimensions = self._encode([""], "document").shape[1]

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts` as documents; see `Embedder`."""
        return self._embed(texts, "document", progress)

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts` as questions; see `Embedder`."""
        return self._embed(texts, "query", progress)

    def _embed(self, texts: Sequence[str], role: str, progress: Progress | None) -> Embeddings:
        require_texts(texts)
        # Texts of similar length share a batch, so that little is spent on padding (2% of the tokens; sorted by
        # characters 48% on Python's documentation). The longest go first: one that does not fit fails at once.
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for rows in padded_batches(self._lengths(texts), *self._batch):
            vectors[rows] = self._encode([texts[row] for row in rows], role)
            done += len(rows)
            if progress is not None:
                progress(done)
        return vectors

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text; characters where the tokenizer is of another kind, as in models that do not pad."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._model.tokenizer
        if not texts or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return np.array([len(text) for text in texts], dtype=np.int64)
        with quiet():
            tokens = tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"]
        return np.array([len(ids) for ids in tokens], dtype=np.int64)

    def _encode(self, texts: list[str], role: str) -> Embeddings:
        encode = getattr(self._model, f"encode_{role}", None)
        options: dict[str, Any] = {}
        if encode is None:  # sentence-transformers before 5
            encode = self._model.encode
            options = {"prompt_name": role} if role in self._model.prompts else {}
        if self._prefixes[role] is not None:
            options = {"prompt": self._prefixes[role]}
        with quiet():
            vectors = encode(texts, batch_size=len(texts), show_progress_bar=False, **options)
        return np.asarray(vectors, dtype=np.float32)
