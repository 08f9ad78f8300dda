"""Full-text search: the languages that both databases stem, and the checks and errors that they share."""

from __future__ import annotations

from typing import Literal, get_args

from qvec.errors import InputError

Language = Literal[
    "simple",
    "arabic",
    "armenian",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
]
"""`simple` does not stem words, and fits any language."""


def check_language(language: str) -> None:
    """Raise InputError unless the language is one of `Language`."""
    if language not in get_args(Language):
        raise InputError(f"language is {language!r}, expected one of: {', '.join(get_args(Language))}")


MAX_QUESTION_CHARACTERS = 10_000
"""Questions are cut to this length."""


def clean_question(question: str) -> str:
    """Return a question that the databases accept: cut to their limit, without halves of surrogate pairs.

    Raise InputError unless it is a string.
    """
    if not isinstance(question, str):
        raise InputError(f"the question is {question!r}, expected a string")
    return question[:MAX_QUESTION_CHARACTERS].encode("utf-8", "replace").decode()


def check_indexed_language(collection: str, found: str, wanted: str) -> None:
    """Raise InputError if the texts of a collection are indexed already, in another language than `wanted`."""
    if found != wanted:
        raise InputError(
            f"the texts of collection {collection!r} are indexed in {found!r} already, not in {wanted!r}; "
            f"use {found!r}, or load the texts into another collection"
        )


def not_indexed_error(collection: str) -> InputError:
    """Return the error for a full-text search in a collection without an index of its texts."""
    return InputError(
        f"the texts of collection {collection!r} are not indexed; run: qvec index --collection {collection} "
        "--texts english, or call index_texts('english')"
    )
