"""Hits page by page. A cursor tells where a page ended by score and id, so no row is shown twice."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.errors import InputError
from qvec.hits import Hit
from qvec.retrieval.steps import Search, Steps


@dataclass(frozen=True, slots=True)
class Page:
    """Hits of one page, best first, and the cursor of the next; None after the last."""

    hits: list[Hit]
    cursor: str | None


_WIDER = 4
"""How many times more hits are asked for when the page was not certain to be complete."""


def page(query: NDArray[np.float32], k: int, after: str | None, options: Mapping[str, Any]) -> Steps[Page]:
    """The k hits after a cursor. Equal scores go by id, so that pages meet without overlap.

    More hits are asked for where rows were written before the cursor since, and until a lower score follows the page:
    of equal scores a search may have found any.
    """
    seen, last = _read(after) if after else (0, None)
    limit = seen + k + 1
    while True:
        hits = yield Search(query, limit, options)
        ranked = sorted(hits, key=_rank)
        following = ranked if last is None else [hit for hit in ranked if _rank(hit) > last]
        if len(hits) < limit or (len(following) > k and following[-1].score < following[k - 1].score):
            break
        limit *= _WIDER
    shown, more = following[:k], len(following) > k
    return Page(shown, _write(seen + len(shown), shown[-1]) if more else None)


def _rank(hit: Hit) -> tuple[float, int | str]:
    return -hit.score, hit.id


def _write(seen: int, last: Hit) -> str:
    return base64.urlsafe_b64encode(json.dumps([seen, last.score, last.id]).encode()).decode()


def _read(cursor: str) -> tuple[int, tuple[float, int | str]]:
    """How many rows were seen, and the rank of the last one. Raises InputError for what `page` did not write."""
    try:
        seen, score, id = json.loads(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, TypeError):
        raise InputError(f"{cursor!r} is no cursor; expected the one of the page before") from None
    if not (isinstance(seen, int) and isinstance(score, float) and isinstance(id, (int, str))):
        raise InputError(f"{cursor!r} is no cursor; expected the one of the page before")
    return seen, (-score, id)
