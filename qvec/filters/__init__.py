"""One filter language for all databases: conditions on the metadata of the rows that a search may return.

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
- A field that holds an array has many values: a condition holds if it holds for any element (of that array, not of
  arrays inside it). So `$contains` with a scalar is `$eq`. Negations negate the whole: `$ne` holds if no element is the
  operand.
- Values of different kinds never match: true is not 1, "1" is not 1. Numbers compare by value, 1 is 1.0. A field may
  hold values of several kinds, and so may the lists of `$in`, `$nin` and `$contains`; both ends of `$between` are of
  the same kind.
- Only null equals null; a missing field is not null.
- Strings compare by code points, and `$ilike` ignores the case of A-Z only: the locale of a database does not matter.
- Dates are instants. They are compared with strings in ISO 8601 (see `dates.ISO`); without a zone they are UTC. If the
  operand of an ordering operator is such a string, it is a date, too, because JSON has no dates.
- Missing metadata counts as {}. The empty filter holds for every row.

Every database accepts the whole language and finds the same rows. Qdrant has no conditions for `$ilike`, for the order
of strings, and for `$like` other than a whole string, a prefix (`a%`, on servers from 1.19 on) and a substring (`%a%`,
from 1.20 on). For these, the client reads the fields of all rows that pass the rest of the filter, and searches those
that pass the whole filter by their ids: the hits are the same, but a search takes longer the more rows there are (a
second or two for 200,000 rows in a directory), and fails if more than 100,000 rows pass. Qdrant also refuses numbers
from 2^53 on, except in `$eq` and `$in` of 64-bit integers, and fields whose names hold a double quote or a backslash.

CONTRIBUTING.md says how to add an operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from qvec.filters.nodes import And, Exists, Filter, Like, Not, OneOf, Or, Range, matches
from qvec.filters.parsing import parse

if TYPE_CHECKING:
    from psycopg.sql import Composable
    from qdrant_client.models import Filter as QdrantFilter

__all__ = ["And", "Exists", "Filter", "FilterLike", "Like", "Not", "OneOf", "Or", "Range", "matches", "parse"]

FilterLike: TypeAlias = "Mapping[str, Any] | QdrantFilter | Composable"
"""A filter in the language, or the database's own: models.Filter on Qdrant, psycopg's SQL on Postgres."""
