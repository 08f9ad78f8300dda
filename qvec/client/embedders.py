"""The embedding models of a database's collections, each loaded once, when first needed."""

from __future__ import annotations

from qvec.calibration import Calibration
from qvec.embedding import EmbeddingOptions, TextEmbedder, load_embedder
from qvec.embedding.embedding_options import EmbeddedCollection, choose_embedding
from qvec.errors import InputError
from qvec.forking import Lock


class Embedders:
    """Embedders by the options that they were loaded with. Safe across threads."""

    def __init__(self) -> None:
        self._loaded: dict[EmbeddingOptions, TextEmbedder] = {}
        self._lock = Lock()

    def loaded(self, options: EmbeddingOptions) -> TextEmbedder | None:
        """Return an embedder unless it has to be loaded first."""
        return self._loaded.get(options)

    def load(self, options: EmbeddingOptions) -> TextEmbedder:
        """Return an embedder, loaded if necessary, which takes seconds."""
        if options in self._loaded:  # without the lock, which is held while another model loads
            return self._loaded[options]
        with self._lock:
            if options not in self._loaded:
                self._loaded[options] = load_embedder(options)
            return self._loaded[options]


def embedding_of(collection: EmbeddedCollection, calibration: Calibration) -> EmbeddingOptions:
    """Return the options of a collection's embedder. Raise InputError where no model is known."""
    wanted = choose_embedding(EmbeddingOptions(), collection, calibration)
    if wanted.model is None:
        raise InputError(
            f"collection {collection.name!r} was loaded as vectors and names no model; set its `embedder`, e.g. "
            "collection.embedder = qvec.embedding.load_embedder(MODEL), or give vectors"
        )
    return wanted
