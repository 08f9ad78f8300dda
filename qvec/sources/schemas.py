"""The roles of columns over one or more Arrow schemas that must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qvec.errors import InputError
from qvec.sources.base import Columns, IdType
from qvec.sources.columns import Roles, assign_roles
from qvec.sources.ids import id_type_of
from qvec.sources.vectors import check_vector_type, kind_of


def schema_roles(schemas: Mapping[str, Any], columns: Columns) -> Roles:
    """Recognize the columns in the first schema and expect the same in the others; keys name the files."""
    (first, schema), *_ = schemas.items()
    roles = assign_roles(_kinds(schema), columns, first)
    named = Columns(roles.id, roles.vector, roles.text, roles.metadata, columns.codec)
    for name, other in schemas.items():
        assign_roles(_kinds(other), named, name)
        if roles.vector is not None:
            check_vector_type(other.field(roles.vector).type, columns.codec, f"{name}: column {roles.vector!r}")
        if roles.text is not None:
            _check_text_type(other.field(roles.text).type, roles.text, name)
    return replace(roles, metadata=columns.metadata)


def schema_id_type(schemas: Mapping[str, Any], roles: Roles) -> IdType | None:
    """bigint when the ids are integers in all schemas, otherwise text."""
    if roles.id is None:
        return None
    types = {id_type_of(schema.field(roles.id).type, roles.id, name) for name, schema in schemas.items()}
    return "bigint" if types == {"bigint"} else "text"


def _check_text_type(declared: Any, column: str, source: str) -> None:
    if kind_of(declared) not in ("text", "scalar"):
        raise InputError(f"{source}: text column {column!r} is {declared}; expected text")


def _kinds(schema: Any) -> dict[str, Any]:
    return {field.name: kind_of(field.type) for field in schema}
