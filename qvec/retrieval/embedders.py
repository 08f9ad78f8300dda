"""The embedding models of a database's collections, each loaded once, when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qvec.embedding import EmbeddingOptions, load_embedder
from qvec.embedding.asynchronous import in_thread_async
from qvec.embedding.options import choose_embedding
from qvec.errors import InputError
from qvec.forking import Lock

if TYPE_CHECKING:
    from qvec.calibration import Calibration
    from qvec.embedding import TextEmbedder
    from qvec.embedding.options import EmbeddedCollection


class Embedders:
    """Embedders by what they are loaded by. Safe across threads."""

    def __init__(self) -> None:
        self._loaded: dict[EmbeddingOptions, TextEmbedder] = {}
        self._lock = Lock()

    def of(self, collection: EmbeddedCollection, calibration: Calibration) -> TextEmbedder:
        """The embedder of a collection's texts. Raises InputError where none is known."""
        return self._load(_wanted(collection, calibration))

    async def of_async(self, collection: EmbeddedCollection, calibration: Calibration) -> TextEmbedder:
        """As `of`."""
        wanted = _wanted(collection, calibration)
        return self._loaded[wanted] if wanted in self._loaded else await in_thread_async(self._load, wanted)

    def _load(self, wanted: EmbeddingOptions) -> TextEmbedder:
        if wanted in self._loaded:  # without the lock, which is held as long as another model loads
            return self._loaded[wanted]
        with self._lock:
            if wanted not in self._loaded:
                self._loaded[wanted] = load_embedder(wanted)
            return self._loaded[wanted]


def _wanted(collection: EmbeddedCollection, calibration: Calibration) -> EmbeddingOptions:
    """What a collection's embedder is loaded by."""
    wanted = choose_embedding(EmbeddingOptions(), collection, calibration)
    if wanted.model is None:
        raise InputError(
            f"collection {collection.name!r} was loaded as vectors and names no model; set its `embedder`, e.g. "
            "collection.embedder = qvec.embedding.load_embedder(MODEL), or give vectors"
        )
    return wanted
