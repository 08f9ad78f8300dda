"""Prefixes and dimensions that model cards prescribe, for models on a server that does not know them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from qvec.embedding.embedding_options import EmbeddingOptions
from qvec.errors import InputError

TASKS = ("retrieval", "text-matching", "code")


@dataclass(frozen=True)
class ModelCard:
    """What is known of a family of models on a server."""

    family: str
    prefixes: Mapping[str, tuple[str, str]]
    """The prefixes of a question and of a document, by task."""
    cuts: tuple[int, ...]
    """The dimensions that its vectors may be cut to."""
    task_in_name: re.Pattern[str]
    """Finds the task in the name of a model that serves only one: the group `task`."""
    short_tasks: Mapping[str, str]

    def task_of(self, name: str) -> str | None:
        """Return the task that a model's name contains, if any."""
        found = self.task_in_name.search(name.lower())
        return found and self.short_tasks[found["task"]]


# https://huggingface.co/jinaai/jina-embeddings-v4-text-retrieval-GGUF; text-matching has queries on both sides.
JINA_V4 = ModelCard(
    family="jina-embeddings-v4",
    prefixes={
        "retrieval": ("Query: ", "Passage: "),
        "text-matching": ("Query: ", "Query: "),
        "code": ("Query: ", "Passage: "),
    },
    cuts=(128, 256, 512, 1024, 2048),
    task_in_name=re.compile(r"jina-embeddings-v4.*[-_](?P<task>retrieval|matching|code)\b"),
    short_tasks={"retrieval": "retrieval", "matching": "text-matching", "code": "code"},
)
_CARDS = (JINA_V4,)


def card_of(name: str | None) -> ModelCard | None:
    """Return the card of a model on a server, if there is one."""
    return next((card for card in _CARDS if card.family in (name or "").lower()), None)


def complete_options(options: EmbeddingOptions) -> EmbeddingOptions:
    """Return the options of a server's model with the task in its name and the prefixes on its card.

    Given prefixes stay. Raise InputError if the model does not have the given task, or needs one and has none.
    """
    card = card_of(options.model_name)
    if card is None:
        if options.task is not None:
            raise InputError(
                f"--task {options.task} is for {', '.join(known.family for known in _CARDS)}; give the prefixes of "
                f"model {options.model_name!r} by --query-prefix and --document-prefix"
            )
        return options
    assert options.model_name is not None
    named = card.task_of(options.model_name)
    if named and options.task not in (None, named):
        raise InputError(f"--task is {options.task}, but model {options.model_name!r} is for {named}")
    task = options.task or named
    if task is None:
        if None not in (options.query_prefix, options.document_prefix):
            return options
        raise InputError(f"model {options.model_name!r} does not tell its task; add --task {'|'.join(card.prefixes)}")
    if task not in card.prefixes:
        raise InputError(f"{card.family} has no task {task!r}; expected one of: {', '.join(card.prefixes)}")
    query, document = card.prefixes[task]
    return replace(
        options,
        task=task,
        query_prefix=query if options.query_prefix is None else options.query_prefix,
        document_prefix=document if options.document_prefix is None else options.document_prefix,
    )


def check_cut(options: EmbeddingOptions, dimensions: int | None) -> None:
    """Raise InputError unless the model's card allows to cut vectors to `dimensions`."""
    card = card_of(options.model_name)
    if card and dimensions is not None and dimensions not in card.cuts:
        lengths = ", ".join(map(str, card.cuts))
        raise InputError(f"--dimensions is {dimensions}, but {card.family} is trained for {lengths}")
