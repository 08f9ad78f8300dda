"""Indexes on metadata fields as Qdrant's payload indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qdrant_client import models

from qvec.metadata_index import MetadataIndex
from qvec.qdrant.filters import payload_key

if TYPE_CHECKING:
    import qdrant_edge


def create(index: MetadataIndex) -> tuple[str, models.PayloadSchemaType]:
    """The field's path in the payload and the schema that create_payload_index takes."""
    return payload_key(index.keys), models.PayloadSchemaType(index.type)


def create_embedded(index: MetadataIndex) -> tuple[str, qdrant_edge.PayloadSchemaType]:
    """The same for the embedded engine's UpdateOperation.create_field_index."""
    from qdrant_edge import PayloadSchemaType  # an extra: servers need it not

    return payload_key(index.keys), getattr(PayloadSchemaType, index.type.capitalize())
