"""Full-text search beside vectors: the languages that both databases stem."""

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
"""`simple` takes words as they are, of any language."""


def check_language(language: str) -> None:
    """Raises InputError for a language that is none of `Language`."""
    if language not in get_args(Language):
        raise InputError(f"language is {language!r}, expected one of: {', '.join(get_args(Language))}")


MOST_ASKED = 10_000
"""Characters of a question whose words are looked for."""


def asked(question: str) -> str:
    """A question as the databases take it: no longer than they can search for, without halves of surrogate pairs.

    Raises InputError for what is no string.
    """
    if not isinstance(question, str):
        raise InputError(f"the question is {question!r}, expected a string")
    return question[:MOST_ASKED].encode("utf-8", "replace").decode()


def check_indexed_language(collection: str, found: str, wanted: str) -> None:
    """Raises InputError where the texts of a collection are indexed in another language than is wanted."""
    if found != wanted:
        raise InputError(
            f"the texts of collection {collection!r} are indexed in {found!r} already, not in {wanted!r}; "
            f"go on with {found!r}, or load them into another collection"
        )


def no_index(collection: str) -> InputError:
    """The error of a collection that is searched for words before they are indexed."""
    return InputError(
        f"the texts of collection {collection!r} are not indexed; run: qvec index --collection {collection} "
        "--texts english, or call index_texts('english')"
    )
