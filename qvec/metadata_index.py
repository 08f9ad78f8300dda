"""Indexes on metadata fields, named as the user writes them: `lang`, `year:integer`, `source.name:keyword`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qvec.errors import InputError

IndexType = Literal["keyword", "integer", "float", "bool", "datetime", "text", "uuid"]


@dataclass(frozen=True)
class MetadataIndex:
    """An index for filters on one field. The type is that of the field's values, alone or in arrays.

    | type | used by Postgres for | used by Qdrant for |
    |---|---|---|
    | keyword, uuid | `$eq` `$in` `$contains` of strings | these, and `$like` of a beginning or a middle (keyword) |
    | bool | `$eq` of true and false | the same |
    | integer, float | `$eq` `$in` and the ordering operators of numbers | the same |
    | datetime | all operators with dates | the same |
    | text | the ordering operators of strings, `$like` with a beginning | native full-text conditions |

    In Postgres, values of other types do no harm. In Qdrant, filters on the field use only the index, so that all
    values and operands must have its type: an index of integers does not find fractions, one of UUIDs treats all
    spellings of a UUID as equal, one of numbers treats dates as numbers.
    """

    field: str
    type: IndexType = "keyword"

    def __post_init__(self) -> None:
        if self.type not in get_args(IndexType):
            raise InputError(
                f"index on metadata field {self.field!r}: type {self.type!r} found, one of these wanted: "
                + ", ".join(get_args(IndexType))
            )
        if not all(self.field.split(".")):
            raise InputError(
                f"index on metadata field {self.field!r}: an empty name found, FIELD or FIELD:TYPE wanted, with one dot"
                " between the names of a nested field (source.name:keyword)"
            )

    @classmethod
    def parse(cls, text: str) -> MetadataIndex:
        """Parse `FIELD` or `FIELD:TYPE`. Raise InputError for an unknown type or an empty name."""
        field, colon, type = text.rpartition(":")  # noqa: A001 - the field's word
        return cls(field, type) if colon else cls(text)  # type: ignore[arg-type]  # checked above

    @property
    def keys(self) -> tuple[str, ...]:
        """Path of the field: the keys of nested objects."""
        return tuple(self.field.split("."))
