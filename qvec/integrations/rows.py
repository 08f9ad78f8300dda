"""Work on the rows that a filter lets pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qvec.integrations.target import Collection

_AT_ONCE = 10_000


def delete_matching(collection: Collection, filter: Mapping[str, Any] | None = None) -> int:
    """Deletes the rows whose metadata passes a filter, or all; returns how many there were."""
    deleted = 0
    while rows := collection.scroll(filter, _AT_ONCE, texts=False):
        deleted += collection.delete([row.id for row in rows])
    return deleted
