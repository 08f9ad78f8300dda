"""Helpers that all framework adapters share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from qvec.client.arguments import new_ids
from qvec.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from qvec.client import Collection

_DELETE_BATCH = 10_000

P = ParamSpec("P")
T = TypeVar("T")


@contextmanager
def require_extra(extra: str, module: str, package: str) -> Iterator[None]:
    """Raise MissingExtraError for `extra` if an import in the block fails because `package` is not installed.

    `module` is what `package` installs. Other missing modules raise ModuleNotFoundError as usual.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(package, extra) from None


def in_thread(method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return the async version of a blocking method: the same parameters and result, run in a worker thread.

    The frameworks' base classes would run the blocking method on the event loop instead.
    """

    @wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        self, *positional = args
        result: T = await asyncio.to_thread(getattr(self, method.__name__), *positional, **kwargs)
        return result

    return run


def row_ids(collection: Collection, ids: Sequence[str | None]) -> list[int | str]:
    """Convert a framework's text ids to the collection's id type; replace None by a new id.

    Raise InputError if the collection has integer ids and one is not an integer.
    """
    generated = iter(new_ids(sum(id is None for id in ids), collection.id_type))
    return [next(generated) if id is None else _row_id(collection, id) for id in ids]


def _row_id(collection: Collection, id: str) -> int | str:
    if collection.id_type == "text":
        return id
    try:
        return int(id)
    except ValueError:
        raise InputError(
            f"id {id!r} is not an integer, and collection {collection.name!r} has integer ids; use integers, or create "
            "a collection with id_type='text'"
        ) from None


def delete_matching(collection: Collection, filter: Mapping[str, Any] | None = None) -> int:
    """Delete the rows whose metadata matches a filter, or all rows; return their number."""
    if filter:
        return collection.delete(filter=filter)
    deleted = 0
    while rows := collection.scroll(filter, _DELETE_BATCH, texts=False):
        deleted += collection.delete([row.id for row in rows])
    return deleted
