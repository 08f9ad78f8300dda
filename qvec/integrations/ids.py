"""Ids: text to the frameworks, text or integers to collections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qvec.errors import InputError
from qvec.retrieval.texts import new_ids

if TYPE_CHECKING:
    from qvec.integrations.target import Collection


def row_ids(collection: Collection, ids: Sequence[str | None]) -> list[int | str]:
    """A collection's ids for a framework's, new ones in place of None.

    Raises InputError for one that is no integer where the collection's ids are.
    """
    drawn = iter(new_ids(sum(id is None for id in ids), collection.id_type))
    return [next(drawn) if id is None else _row_id(collection, id) for id in ids]


def _row_id(collection: Collection, id: str) -> int | str:
    if collection.id_type == "text":
        return id
    try:
        return int(id)
    except ValueError:
        raise InputError(
            f"id {id!r} is no integer, and collection {collection.name!r} has integer ids; use such, or a collection "
            "that was created with id_type='text'"
        ) from None
