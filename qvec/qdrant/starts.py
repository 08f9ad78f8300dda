"""The beginning of a load into Qdrant: which ids it takes, while others may begin at the same time."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from qvec.errors import DatabaseError, InputError
from qvec.loading import Checkpoint

if TYPE_CHECKING:
    from qvec.qdrant.collection import QdrantCollection
    from qvec.qdrant.database import QdrantDatabase

_FIELDS = frozenset(field.name for field in fields(Checkpoint))


class QdrantStarts:
    """What stands written of a collection's loads.

    A server has no locks. So who begins writes that down and looks once more: of two that begin at the same time at
    least one sees the other, and withdraws before it has written a row.
    """

    def __init__(self, collection: QdrantCollection, database: QdrantDatabase, source: str) -> None:
        self._collection = collection
        self._home = database.home
        self._run = database.run
        self._source = source
        self._found: dict[str, Any] | None = None
        self._took_next_id = False

    def read(self) -> Checkpoint | None:
        self._found = self._run(self._home.read_load(self._collection.name, self._source))
        return None if self._found is None else checkpoint_of(self._found)

    def write(self, checkpoint: Checkpoint) -> None:
        """Raises DatabaseError when this source, InputError when another without ids began to load meanwhile."""
        name = self._collection.name
        if self._run(self._home.read_load(name, self._source)) != self._found:
            raise DatabaseError(f"another process began to load {self._source} into collection {name!r}")
        self._run(self._home.write_load(name, self._source, asdict(checkpoint)))
        if self._took_next_id:
            self._check_alone(checkpoint)

    def _check_alone(self, checkpoint: Checkpoint) -> None:
        name = self._collection.name
        other = self.numbered_and_unfinished()
        if other is not None or self._run(self._collection.next_id()) != checkpoint.first_id:
            self._run(self._home.write_load(name, self._source, self._found))
            raise InputError(
                f"{other or 'another source'} began to load into collection {name!r} at the same time; neither has "
                "ids, so run this load again"
            )

    def next_id(self) -> int:
        self._took_next_id = True
        return self._run(self._collection.next_id())

    def numbered_and_unfinished(self) -> str | None:
        for source, load in self._run(self._home.read_loads(self._collection.name)).items():
            found = checkpoint_of(load)
            if source != self._source and found.first_id is not None and not found.finished:
                return source
        return None


def checkpoint_of(load: dict[str, Any]) -> Checkpoint:
    """The checkpoint in a load as it is written down."""
    return Checkpoint(**{key: value for key, value in load.items() if key in _FIELDS})
