"""Which column is the id, the vector, the text; the rest is metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from qvec.codecs import Codec
from qvec.errors import InputError
from qvec.sources.base import Columns

Kind = Literal["vector", "numbers", "bytes", "text", "scalar", "other"]
"""vector: lists of floats; numbers: lists of another number type, which are not vectors; bytes: may be either."""

ID_NAMES = ("id", "_id", "doc_id", "docid")
VECTOR_NAMES = ("vector", "embedding", "embeddings", "emb", "values")
TEXT_NAMES = ("text", "document", "content", "body", "passage", "contents")


@dataclass(frozen=True)
class Roles:
    """The column of each role. `title` is set for BEIR files, whose documents are title and text together."""

    id: str | None
    vector: str | None
    text: str | None
    title: str | None
    metadata: tuple[str, ...] | None

    def metadata_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The metadata columns among `names`: those the user named, otherwise all without another role."""
        if self.metadata is not None:
            return self.metadata
        return tuple(name for name in names if name not in (self.id, self.vector, self.text))


def assign_roles(found: Mapping[str, Kind], columns: Columns, source: str) -> Roles:
    """Give each role its column: the one the user named, otherwise the one recognized by name.

    Raises InputError when a named column is not there, or when there is neither a vector nor a text.
    """
    for name in (columns.id, columns.vector, columns.text, *(columns.metadata or ())):
        _check_there(name, found, source)
    id_name = columns.id or _first(ID_NAMES, found, ("text", "scalar", "bytes"))
    vector = columns.vector or _first(VECTOR_NAMES, found, _vector_kinds(columns.codec)) or _only_vector(found)
    text = columns.text or _first(TEXT_NAMES, found, ("text",))
    if vector is None and text is None:
        raise InputError(
            f"{source}: no column looks like a vector or a text; name one with --vector-column or --text-column "
            f"({_listed(found)})"
        )
    title = "title" if columns.text is None and _is_beir(id_name, text, found) else None
    return Roles(id_name, vector, text, title, columns.metadata)


def _check_there(name: str | None, found: Mapping[str, Kind], source: str) -> None:
    if name is not None and name not in found:
        raise InputError(f"{source}: there is no column {name!r}; {_listed(found)}")


def _listed(found: Mapping[str, Kind]) -> str:
    return f"columns found: {', '.join(found)}" if found else "no columns found"


def _first(names: Sequence[str], found: Mapping[str, Kind], kinds: Sequence[Kind]) -> str | None:
    return next((name for name in names if found.get(name) in kinds), None)


def _vector_kinds(codec: Codec) -> tuple[Kind, ...]:
    """Kinds that a column named as vectors are may have; text, where it may be base64."""
    kinds: tuple[Kind, ...] = ("vector", "numbers", "bytes")
    return (*kinds, "text") if codec.text else kinds


def _only_vector(found: Mapping[str, Kind]) -> str | None:
    likely = [name for name, kind in found.items() if kind == "vector"]
    return likely[0] if len(likely) == 1 else None


def _is_beir(id_name: str | None, text: str | None, found: Mapping[str, Kind]) -> bool:
    return id_name == "_id" and text == "text" and found.get("title") == "text"
