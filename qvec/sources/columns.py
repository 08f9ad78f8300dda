"""Which column is the id, the vector and the text; the others are metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from qvec.codecs import FLOAT, Codec, check_dtype
from qvec.errors import InputError
from qvec.sources.base import Columns, IdType

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
        """Return the metadata columns among `names`: those the user named, otherwise all without another role."""
        if self.metadata is not None:
            return self.metadata
        return tuple(name for name in names if name not in (self.id, self.vector, self.text))

    def vectors_only(self) -> Roles:
        """Return the roles without texts and metadata."""
        return replace(self, text=None, title=None, metadata=())


def assign_roles(found: Mapping[str, Kind], columns: Columns, source: str) -> Roles:
    """Give each role the column that the user named, otherwise the one recognized by its name.

    Raise InputError if a named column is missing, or if there is neither a vector nor a text.
    """
    for name in (columns.id, columns.vector, columns.text, *(columns.metadata or ())):
        if name is not None and name not in found:
            raise InputError(f"{source}: there is no column {name!r}; {_listed(found)}")
    id_name = columns.id or _first(ID_NAMES, found, ("text", "scalar", "bytes"))
    vector = columns.vector or _first(VECTOR_NAMES, found, _vector_kinds(columns.codec)) or _only_vector(found)
    text = columns.text or _first(TEXT_NAMES, found, ("text",))
    if vector is None and text is None:
        raise InputError(
            f"{source}: no column looks like a vector or a text; name one with --vector-column or --text-column "
            f"({_listed(found)})"
        )
    is_beir = columns.text is None and (id_name, text, found.get("title")) == ("_id", "text", "text")
    return Roles(id_name, vector, text, "title" if is_beir else None, columns.metadata)


def _listed(found: Mapping[str, Kind]) -> str:
    return f"columns found: {', '.join(found)}" if found else "no columns found"


def _first(names: Sequence[str], found: Mapping[str, Kind], kinds: Sequence[Kind]) -> str | None:
    return next((name for name in names if found.get(name) in kinds), None)


def _vector_kinds(codec: Codec) -> tuple[Kind, ...]:
    """Return the kinds that a column with the name of a vector may have; text may be base64."""
    return ("vector", "numbers", "bytes", "text") if codec.text else ("vector", "numbers", "bytes")


def _only_vector(found: Mapping[str, Kind]) -> str | None:
    likely = [name for name, kind in found.items() if kind == "vector"]
    return likely[0] if len(likely) == 1 else None


def schema_roles(schemas: Mapping[str, Any], columns: Columns) -> Roles:
    """Recognize the columns in the first Arrow schema and require them in the others; keys are the files' names."""
    (first, schema), *_ = schemas.items()
    roles = assign_roles(_kinds(schema), columns, first)
    named = Columns(roles.id, roles.vector, roles.text, roles.metadata, columns.codec)
    for name, other in schemas.items():
        assign_roles(_kinds(other), named, name)
        if roles.vector is not None:
            _check_vector_type(other.field(roles.vector).type, columns.codec, f"{name}: column {roles.vector!r}")
        if roles.text is not None and kind_of(declared := other.field(roles.text).type) not in ("text", "scalar"):
            raise InputError(f"{name}: text column {roles.text!r} is {declared}; expected text")
    return replace(roles, metadata=columns.metadata)


def schema_id_type(schemas: Mapping[str, Any], column: str | None) -> IdType | None:
    """Return bigint if the ids are integers in all Arrow schemas, text if not, None without an id column.

    Raise InputError for lists and structs.
    """
    if column is None:
        return None
    types = {name: schema.field(column).type for name, schema in schemas.items()}
    for name, declared in types.items():
        if pa.types.is_nested(plain_type(declared)):
            raise InputError(f"{name}: id column {column!r} is {declared}; expected integers or text")
    return "bigint" if all(pa.types.is_integer(plain_type(declared)) for declared in types.values()) else "text"


def _kinds(schema: Any) -> dict[str, Kind]:
    return {field.name: kind_of(field.type) for field in schema}


def kind_of(declared: Any) -> Kind:
    """Return what a column of an Arrow type can be."""
    kind, types = plain_type(declared), pa.types
    if is_list(kind):
        value = plain_type(kind.value_type)
        numbers: Kind = "numbers" if types.is_integer(value) or types.is_decimal(value) else "other"
        return "vector" if types.is_floating(value) else numbers
    if types.is_fixed_size_binary(kind) or is_binary(kind):
        return "bytes"
    if types.is_nested(kind):
        return "other"
    return "text" if is_text(kind) else "scalar"


def _check_vector_type(declared: Any, codec: Codec, where: str) -> None:
    """Raise InputError if an Arrow type cannot hold vectors of the codec. Under FLOAT, integers are taken for codes."""
    kind = kind_of(declared)
    if kind == "numbers" and codec.quantized:
        check_dtype(np.dtype(plain_type(declared).value_type.to_pandas_dtype()), codec, where)
    elif kind != "bytes" and not (kind == "text" and codec.text) and (kind != "vector" or codec.quantized):
        raise InputError(f"{where} is {declared}; expected {_expected_types(codec)}")


def _expected_types(codec: Codec) -> str:
    if codec == FLOAT:
        return (
            "lists of float16, float32 or float64, or binary values of little-endian float32; if the vectors are "
            "quantized already, name their encoding (--encoding)"
        )
    lists = f"lists of {'integers' if codec.quantized else 'floats'}"
    return f"{lists}, binary values of {codec.dtype} or their base64 for encoding {codec.name!r}"


def plain(array: Any) -> Any:
    """Return an Arrow array without dictionary encoding and extension types."""
    if isinstance(array, pa.DictionaryArray):
        return plain(array.dictionary_decode())
    return plain(array.storage) if isinstance(array, pa.ExtensionArray) else array


def plain_type(kind: Any) -> Any:
    """Return the type of an array that went through `plain`."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    return plain_type(kind.storage_type) if isinstance(kind, pa.BaseExtensionType) else kind


def is_list(kind: Any) -> bool:
    """Tell whether an Arrow type is a list of variable or fixed size."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_binary(kind: Any) -> bool:
    """Tell whether an Arrow type holds bytes of variable length."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_text(kind: Any) -> bool:
    """Tell whether an Arrow type is a string."""
    return str(kind) in ("string", "large_string", "string_view")
