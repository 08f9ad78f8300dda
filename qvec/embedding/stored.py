"""Which model embeds a collection's texts: the one asked for, the one it stores, the one its calibration names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from qvec.embedding.options import EmbeddingOptions
from qvec.errors import CollectionError

if TYPE_CHECKING:
    from qvec.calibration import Calibration


class Embedded(Protocol):
    """A collection, as far as it tells how its texts were embedded."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str | None: ...

    @property
    def embedding(self) -> Mapping[str, Any] | None: ...


def stored_embedding(collection: Embedded) -> EmbeddingOptions:
    """How a collection's texts were embedded, as far as it stores that."""
    if collection.embedding is None:
        return EmbeddingOptions(collection.model)
    return EmbeddingOptions.from_json(collection.embedding, collection.name)


def described(embedding: EmbeddingOptions) -> Mapping[str, str] | None:
    """What a collection stores beside its model's name; None where there is no more to say."""
    stored = embedding.as_json()
    return stored if embedding.model and len(stored) > 1 else None


def wanted_embedding(
    asked: EmbeddingOptions, collection: Embedded | None, calibration: Calibration | None
) -> EmbeddingOptions:
    """What embeds texts and questions: as asked for, otherwise as stored, otherwise as the calibration names."""
    stored = stored_embedding(collection) if collection else EmbeddingOptions()
    found = asked.over(stored)
    if found.model is None and calibration is not None and calibration.model is not None:
        return found.over(EmbeddingOptions(calibration.model))
    return found


def check_embedding(asked: EmbeddingOptions, collection: Embedded) -> None:
    """Raises CollectionError where other vectors are asked for than the collection's texts were embedded to."""
    stored = stored_embedding(collection)
    differing = asked.differing(stored) if stored.model else None
    if differing:
        name, wanted, found = differing
        shown = repr if name.endswith("prefix") else str
        raise CollectionError(f"collection {collection.name!r} has {name} {shown(found)}, not {shown(wanted)}")
