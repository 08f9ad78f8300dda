"""One filter language for all databases: which rows a search may return, by their metadata.

    {"lang": "en", "year": {"$gte": 2020}, "$or": [{"source.name": "wiki"}, {"tags": {"$contains": "news"}}]}

Every entry must hold. Fields are nested by dots; a field that is not an object has nothing below it.

| operator | operand | holds where |
|---|---|---|
| `$eq` (or the operand alone) | scalar | the field is the operand |
| `$ne` | scalar | not `$eq`: also rows without the field |
| `$in`, `$nin` | list of scalars | `$eq` one of them; none of them, also rows without the field |
| `$lt` `$lte` `$gt` `$gte` | number, string, date | the field is of the operand's kind and so ordered |
| `$between` | [low, high] | one value of the field is within both, ends included |
| `$exists` | true, false | the field has a value: null and [] are none |
| `$like`, `$ilike` | pattern | a string: `%` is any text, `_` one character, backslash escapes |
| `$contains` | scalar or list of scalars | the field holds the operand, or all of a list |
| `$and`, `$or` | list of filters | all, any of them hold |
| `$not` | filter, or operators of a field | not so: also rows without the field |

- Scalars are strings, numbers, true and false, null, and dates (`datetime`, `date`).
- A field that holds an array is a field of many values: a condition holds where it does for any element (of that array,
  not of arrays inside). So `$contains` is `$eq` where its operand is a scalar. Negations deny the whole: `$ne` holds
  where no element is the operand.
- A value of another kind never matches: true is not 1, "1" is not 1. Numbers compare by value, 1 is 1.0. That is no
  error, for a field may hold values of several kinds, and so may the lists of `$in`, `$nin` and `$contains`; the ends
  of `$between` are of one kind.
- Null is a value that only null equals; a missing field is not null.
- Strings compare by code points, `$ilike` takes A-Z and a-z as one and nothing else: no database's locale matters.
- Dates are instants, compared with the field's strings that are written in ISO 8601 (as `dates.ISO` says); without a
  zone they are UTC. An ordering operator's string that is written so is a date too, since JSON has no others.
- A row without metadata is one whose metadata is {}. The empty filter holds for every row.

Every database takes all of it, and finds the same rows. Qdrant itself has no conditions for `$ilike`, for the order of
strings, and for `$like` other than of a whole, a beginning (`a%`) and a middle (`%a%`; both from qdrant-client 1.20
on). There the client reads these fields of all rows that the rest of the filter lets pass and searches those that pass
by their ids: the same hits, but slower the more rows there are (200,000 in a directory take a second or two), and an
error where more than 100,000 pass. Qdrant also refuses numbers from 2^53 on, of which it has `$eq` and `$in` of 64-bit
integers alone, and names of fields that hold a double quote or a backslash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from qvec.filters.matching import matches
from qvec.filters.nodes import And, Exists, Filter, Like, Not, OneOf, Or, Range
from qvec.filters.parsing import parse

if TYPE_CHECKING:
    from psycopg.sql import Composable
    from qdrant_client.models import Filter as QdrantFilter

__all__ = ["And", "Exists", "Filter", "FilterLike", "Like", "Not", "OneOf", "Or", "Range", "matches", "parse"]

FilterLike: TypeAlias = "Mapping[str, Any] | QdrantFilter | Composable"
"""What a search takes: the language, or the database's own (models.Filter on Qdrant, psycopg's SQL on Postgres)."""


def is_none(filter: object) -> bool:
    """Whether what a search was given for a filter is none: None, or the empty filter. Other empty things are wrong."""
    return filter is None or (isinstance(filter, Mapping) and not filter)


@dataclass(frozen=True)
class Both:
    """A filter of a search that keeps to a database's own filter and to one in the language."""

    native: QdrantFilter | Composable
    conditions: Mapping[str, Any]
