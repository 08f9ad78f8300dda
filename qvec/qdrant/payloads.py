"""Metadata as Qdrant's payloads hold it."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from qvec.errors import RowError

MOST_NESTED = 30
"""Objects and arrays in each other. A message of gRPC may be nested 100 deep, three for each object; the embedded
engine can never read back, and then not write any more either, what it took of more than 127."""
_INTEGERS = range(-(2**63), 2**63)
_PERHAPS_TOO_LARGE = re.compile(r"\d{19}|[eE]\+?\d{3}")


def parsed(row: int, text: str) -> Any:
    """The value of a JSON text. Raises RowError for one that Qdrant would change, or could not read back."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep(row) from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise RowError(row, f"metadata cannot be read: {error}") from None
    if text.count("{") + text.count("[") > MOST_NESTED or _PERHAPS_TOO_LARGE.search(text):
        _check(row, value, 0)
    return value


def _check(row: int, value: Any, around: int) -> None:
    """Checks a value that stands in `around` others."""
    if isinstance(value, (dict, list)):
        if around == MOST_NESTED:
            raise _too_deep(row)
        for inner in value.values() if isinstance(value, dict) else value:
            _check(row, inner, around + 1)
    elif isinstance(value, int) and value not in _INTEGERS:
        raise RowError(row, f"metadata holds {value}, but Qdrant's integers have 64 bits; store it as a string")
    elif isinstance(value, float) and math.isinf(value):
        raise RowError(row, "metadata holds a number beyond float64; store it as a string")


def _too_deep(row: int) -> RowError:
    return RowError(row, f"metadata is nested more than {MOST_NESTED} deep, which Qdrant does not hold; flatten it")
