"""Payload indexes of Qdrant: on metadata fields, and on the words of documents, which the engine ranks by BM25.

Servers rank by words from version 1.20 on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qdrant_client import models

from qvec.metadata_index import MetadataIndex
from qvec.qdrant.filters import payload_key
from qvec.qdrant.points import DOCUMENT

if TYPE_CHECKING:
    import qdrant_edge

TEXT_FIELD = DOCUMENT
_WITH_STOPWORDS = {language.value for language in models.Language}


def metadata_schema(index: MetadataIndex) -> tuple[str, models.PayloadSchemaType]:
    """Return the field's path in the payload and the schema that a server's create_payload_index takes."""
    return payload_key(index.keys), models.PayloadSchemaType(index.type)


def embedded_metadata_schema(index: MetadataIndex) -> tuple[str, qdrant_edge.PayloadSchemaType]:
    """Return the same for the embedded engine's create_field_index."""
    from qdrant_edge import PayloadSchemaType  # an extra that servers do not need

    return payload_key(index.keys), getattr(PayloadSchemaType, index.type.capitalize())


def text_schema(language: str) -> models.TextIndexParams:
    """Return the schema of an index on words, stemmed unless the language is `simple`, for a server."""
    return models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType.WORD,
        lowercase=True,
        stemmer=_stemmer(language) if language != "simple" else None,
        stopwords=models.Language(language) if language in _WITH_STOPWORDS else None,
        on_disk=True,
        scoring=True,
    )


def _stemmer(language: str) -> models.SnowballParams:
    return models.SnowballParams(type=models.Snowball.SNOWBALL, language=models.SnowballLanguage(language))


def embedded_text_schema(language: str) -> qdrant_edge.TextIndexParams:
    """Return the same for the embedded engine."""
    import qdrant_edge as edge  # an extra that servers do not need

    name = language.capitalize()
    return edge.TextIndexParams(
        tokenizer=edge.TokenizerType.Word,
        lowercase=True,
        stemmer=edge.SnowballParams(getattr(edge.SnowballLanguage, name)) if language != "simple" else None,
        stopwords=getattr(edge.Language, name) if language in _WITH_STOPWORDS else None,
        scoring=True,
    )


def text_language(index: Any) -> str | None:
    """Return the language of an index on words, of either engine; None for one that does not rank."""
    if not getattr(index, "scoring", None):
        return None
    return str(index.stemmer.language).rpartition(".")[2].lower() if index.stemmer else "simple"
