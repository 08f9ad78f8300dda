"""Hits page by page. A cursor tells of which search it is, and where a page ended by score and id: no row is shown
twice."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qvec.errors import InputError
from qvec.hits import Hit
from qvec.retrieval.steps import Count, Search, Steps
from qvec.stores import MOST_ROWS, check_count


@dataclass(frozen=True, slots=True)
class Page:
    """Hits of one page, best first, and the cursor of the next; None after the last."""

    hits: list[Hit]
    cursor: str | None


_WIDER = 4
"""How many times more hits are asked for when the page was not certain to be complete."""
_COUNTED_FROM = 10_000
"""Rows before a page from which on a cursor is held against the collection: anyone may have written it."""


def search_mark(collection: str, query: ArrayLike | str, filter: Any) -> str:
    """What the cursors of one search have in common: a hash of what was asked of which collection, 16 hex digits.

    A question counts as its text: a server of embeddings need not give the same vector twice.
    """
    asked = query if isinstance(query, str) else np.asarray(query, np.float32).tobytes()
    search = repr((collection, asked, _in_order(filter or None)))
    return hashlib.sha256(search.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _in_order(filter: Any) -> Any:
    """A filter that is the same however its fields are ordered; of a database's own kind it stands as it is."""
    if isinstance(filter, Mapping):
        return sorted((repr(name), _in_order(value)) for name, value in filter.items())
    return [_in_order(one) for one in filter] if isinstance(filter, (list, tuple)) else repr(filter)


def page(query: NDArray[np.float32], k: int, after: str | None, mark: str, options: Mapping[str, Any]) -> Steps[Page]:
    """The k hits after a cursor of the same `mark`. Equal scores go by id, so that pages meet without overlap.

    More hits are asked for where rows were written before the cursor since, and until a lower score follows the page:
    of equal scores a search may have found any.
    """
    check_count("k", k)
    seen, last = _read(after, mark) if after else (0, None)
    if seen >= _COUNTED_FROM and seen > (rows := (yield Count())):
        raise InputError(f"the cursor stands behind {seen} rows, but there are {rows}; begin without a cursor")
    limit = seen + k + 1
    while True:
        hits = yield Search(query, limit, options)
        ranked = sorted(hits, key=_rank)
        following = ranked if last is None else [hit for hit in ranked if _rank(hit) > last]
        if len(hits) < limit or (len(following) > k and following[-1].score < following[k - 1].score):
            break
        limit *= _WIDER
    shown, more = following[:k], len(following) > k
    return Page(shown, _write(mark, seen + len(shown), shown[-1]) if more else None)


_Rank = tuple[float, bool, Any]


def _rank(hit: Hit) -> _Rank:
    return _rank_of(hit.score, hit.id)


def _rank_of(score: float, id: int | str) -> _Rank:
    """Best first, then by id; some databases have both kinds in one collection."""
    return -score, isinstance(id, str), id


def _write(mark: str, seen: int, last: Hit) -> str:
    return base64.urlsafe_b64encode(json.dumps([mark, seen, last.score, last.id]).encode()).decode()


def _read(cursor: str, mark: str) -> tuple[int, _Rank]:
    """How many rows were seen, and the rank of the last one. Raises InputError for what `page` did not write, or wrote
    for another search."""
    try:
        of, seen, score, id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{cursor!r} is no cursor; expected the one of the page before") from None
    is_place = isinstance(seen, int) and isinstance(score, float) and isinstance(id, (int, str))
    if not is_place or not 0 < seen <= MOST_ROWS or not math.isfinite(score):
        raise InputError(f"{cursor!r} is no cursor; expected the one of the page before")
    if of != mark:
        raise InputError(
            "the cursor is of another search; expected one of the same collection, query and filter: "
            "search as for the page before, or begin without a cursor"
        )
    return seen, _rank_of(score, id)
