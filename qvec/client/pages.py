"""Pages of hits. A cursor holds the fingerprint of its search, and where its page ended by score and id, so that no row
is shown twice."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qvec.errors import InputError
from qvec.results import Hit
from qvec.store.requests import MAX_ROWS


@dataclass(frozen=True, slots=True)
class Page:
    """The hits of one page, best first, and the cursor of the next page; None after the last."""

    hits: list[Hit]
    cursor: str | None


WIDEN = 4
"""Factor by which the limit grows while a page is not certain to be complete."""
VERIFIED_FROM = 10_000
"""Rows before a page from which on a cursor is checked against the collection: it may be forged."""


def search_fingerprint(collection: str, query: ArrayLike | str, filter: Any) -> str:
    """Return a hash of a search that its cursors share: 16 hex digits.

    A question counts by its text: an embedding server need not return the same vector twice.
    """
    asked = query if isinstance(query, str) else np.asarray(query, np.float32).tobytes()
    search = repr((collection, asked, _in_order(filter or None)))
    return hashlib.sha256(search.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _in_order(filter: Any) -> Any:
    """Return a filter in a form that does not depend on the order of its fields."""
    if isinstance(filter, Mapping):
        return sorted((repr(name), _in_order(value)) for name, value in filter.items())
    return [_in_order(one) for one in filter] if isinstance(filter, (list, tuple)) else repr(filter)


Rank = tuple[float, bool, Any]
"""The position of a hit: score, type of id, id."""


def check_seen(seen: int, rows: int) -> None:
    """Raise InputError for a cursor behind more rows than there are."""
    if seen > rows:
        raise InputError(f"the cursor is behind {seen} rows, but there are {rows}; begin without a cursor")


def is_complete(following: list[Hit], k: int) -> bool:
    """Return whether a lower score follows the k hits: of equal scores a search may have found any."""
    return len(following) > k and following[-1].score < following[k - 1].score


def rank_of(hit: Hit) -> Rank:
    return _rank(hit.score, hit.id)


def _rank(score: float, id: int | str) -> Rank:
    """Sort best first, then by id; some collections hold ids of both types."""
    return -score, isinstance(id, str), id


def write_cursor(fingerprint: str, seen: int, last: Hit) -> str:
    return base64.urlsafe_b64encode(json.dumps([fingerprint, seen, last.score, last.id]).encode()).decode()


def read_cursor(cursor: str, fingerprint: str) -> tuple[int, Rank]:
    """Return the number of rows seen and the rank of the last one. Raise InputError for a malformed cursor, and for the
    cursor of another search."""
    try:
        of, seen, score, id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{cursor!r} is not a cursor; expected that of the page before") from None
    is_place = isinstance(seen, int) and isinstance(score, float) and isinstance(id, (int, str))
    if not is_place or not 0 < seen <= MAX_ROWS or not math.isfinite(score):
        raise InputError(f"{cursor!r} is not a cursor; expected that of the page before")
    if of != fingerprint:
        raise InputError(
            "the cursor belongs to another search; expected one of the same collection, query and filter: "
            "search as for the page before, or begin without a cursor"
        )
    return seen, _rank(score, id)


def page_of(following: list[Hit], k: int, seen: int, fingerprint: str) -> Page:
    """Return the page of the first k hits after `seen` rows."""
    shown = following[:k]
    return Page(shown, write_cursor(fingerprint, seen + len(shown), shown[-1]) if len(following) > k else None)
