"""Indexes on fields of `metadata jsonb`, on the expressions that `qvec.postgres.filters` compiles to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from psycopg.sql import SQL, Composable, Composed, Identifier

from qvec.metadata_index import MetadataIndex
from qvec.postgres.filters import head_of, is_type, value_of
from qvec.postgres.layout import Table

if TYPE_CHECKING:
    from typing_extensions import LiteralString


def create(table: Table, index: MetadataIndex) -> list[Composed]:
    """Return the statements that create the index where it is missing, with statistics; run ANALYZE afterwards.

    Equality of strings and booleans needs one GIN index, which holds hashes: no value is too long for it. Ordered types
    get a B-tree on the single values and a GIN index on the arrays, which is mostly empty.
    """
    value = value_of(index.keys)
    if index.type in ("keyword", "bool", "uuid"):
        return [_create(table, index, "values", SQL("gin ({} jsonb_path_ops)").format(value))]
    if index.type in ("integer", "float"):
        lone, type = value, "number"  # noqa: A001 - jsonb's word
    else:
        lone, type = SQL("({})").format(head_of(value)), "string"  # noqa: A001
    arrays = SQL("gin ({} jsonb_path_ops) WHERE {}").format(value, is_type(value, "array"))
    return [
        _create(table, index, "values", SQL("btree ({}) WHERE {}").format(lone, is_type(value, type))),
        _create(table, index, "arrays", arrays),
        _statistics(table, index, "spread", SQL("({})").format(lone)),
        _statistics(table, index, "types", SQL("(jsonb_typeof({}))").format(value)),
    ]


def drop(table: Table, index: MetadataIndex) -> list[Composed]:
    """Return the statements that drop those parts of the index that exist."""
    return [
        SQL("DROP {} IF EXISTS {}").format(kind, Identifier(table.schema, _name(table, index, part)))
        for kind, parts in ((SQL("INDEX"), ("values", "arrays")), (SQL("STATISTICS"), ("spread", "types")))
        for part in parts
    ]


def _create(table: Table, index: MetadataIndex, part: LiteralString, method: Composable) -> Composed:
    name = Identifier(_name(table, index, part))
    return SQL("CREATE INDEX IF NOT EXISTS {} ON {} USING {}").format(name, table.identifier, method)


def _statistics(table: Table, index: MetadataIndex, part: str, expression: Composable) -> Composed:
    """Create statistics of an expression, which a partial index does not have: without them the planner expects every
    filter to let few rows pass, and never searches the graph."""
    name = Identifier(table.schema, _name(table, index, part))
    return SQL("CREATE STATISTICS IF NOT EXISTS {} ON {} FROM {}").format(name, expression, table.identifier)


def _name(table: Table, index: MetadataIndex, part: str) -> str:
    """Return a name of at most 63 bytes: the beginning of the table's, and a hash of table and field."""
    digest = hashlib.sha256("\0".join((table.name, index.field, index.type)).encode()).hexdigest()[:12]
    return table.name.encode()[:40].decode(errors="ignore") + f"_{digest}_{part}"
