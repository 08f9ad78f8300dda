"""Filters that Qdrant has no conditions for, finished here: what rows hold is read and tested, and those that pass are
searched by their ids. So a search takes as long as it takes to read a field of all rows that Qdrant lets pass: of
200,000 in a directory a second or two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from qdrant_client import models

from qvec.errors import InputError
from qvec.filters import And, Filter, Not, Or, matches
from qvec.qdrant.filters import Rest, payload_key
from qvec.qdrant.ids import PointId, plain
from qvec.qdrant.points import METADATA
from qvec.qdrant.steps import Steps

if TYPE_CHECKING:
    from qvec.qdrant.engine import Engine, Record, Request

MOST_IDS = 100_000
"""Of points that a search names: each takes 8 to 40 bytes of the request, of which a server takes 32 MB."""
_PAGE = 1_000


def finished(engine: Engine, request: Request) -> Steps[Request]:
    """The request with a filter that the engine can test: as it was or, where there was a rest, by ids.

    Raises InputError where more than `MOST_IDS` rows pass.
    """
    if request.rest is None:
        return request
    ids: list[models.ExtendedPointId] = []
    following: PointId | None = 0
    while following is not None:
        records, following = yield from engine.scroll(
            following, _PAGE, vectors=False, filter=request.filter, payload=_fields(request.rest.parsed)
        )
        ids += [plain(record.id) for record in records if passes(request.rest, record)]
        if len(ids) > MOST_IDS:
            raise _too_many(request.rest)
    by_ids = models.Filter(must=[models.HasIdCondition(has_id=ids)])
    return replace(request, filter=by_ids, rest=None, named=len(ids))


def passes(rest: Rest | None, record: Record) -> bool:
    """Whether a record that the engine let pass does so by the whole filter."""
    return rest is None or matches(rest.parsed, (record.payload or {}).get(METADATA))


def batches(request: Request, queries: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The queries (m, d) that are sent at once: each of them names all ids again."""
    at_once = max(MOST_IDS // max(request.named, 1), 1)
    for start in range(0, len(queries), at_once):
        yield queries[start : start + at_once]


def _fields(parsed: Filter) -> list[str]:
    """What is read of payloads: the outermost keys, since below them arrays may be met."""
    return sorted({payload_key(key) for key in _keys(parsed)})


def _keys(node: Filter) -> Iterator[tuple[str, ...]]:
    if isinstance(node, Not):
        yield from _keys(node.part)
    elif isinstance(node, (And, Or)):
        for part in node.parts:
            yield from _keys(part)
    else:
        yield node.field[:1]


def _too_many(rest: Rest) -> InputError:
    return InputError(
        f"the filter lets more than {MOST_IDS:,} rows pass, and Qdrant has no condition for {', '.join(rest.unknown)}; "
        "such rows are searched by their ids: add conditions that let fewer pass, or store what you ask for in a field "
        "of its own (lower-case text, a number, a date)"
    )
