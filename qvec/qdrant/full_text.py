"""Words in Qdrant: a text index on the documents that the engine ranks by BM25. Servers have it from 1.20 on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qdrant_client import models

from qvec.qdrant.points import DOCUMENT

if TYPE_CHECKING:
    import qdrant_edge

FIELD = DOCUMENT
_WITH_STOPWORDS = {language.value for language in models.Language}


def create(language: str) -> models.TextIndexParams:
    """The schema that create_payload_index takes."""
    is_stemmed = language != "simple"
    return models.TextIndexParams(
        type=models.TextIndexType.TEXT,
        tokenizer=models.TokenizerType.WORD,
        lowercase=True,
        stemmer=models.SnowballParams(type=models.Snowball.SNOWBALL, language=models.SnowballLanguage(language))
        if is_stemmed
        else None,
        stopwords=models.Language(language) if language in _WITH_STOPWORDS else None,
        on_disk=True,
        scoring=True,
    )


def create_embedded(language: str) -> qdrant_edge.TextIndexParams:
    """The same for the embedded engine's UpdateOperation.create_field_index."""
    import qdrant_edge as edge  # an extra: servers need it not

    name = language.capitalize()
    return edge.TextIndexParams(
        tokenizer=edge.TokenizerType.Word,
        lowercase=True,
        stemmer=edge.SnowballParams(getattr(edge.SnowballLanguage, name)) if language != "simple" else None,
        stopwords=getattr(edge.Language, name) if language in _WITH_STOPWORDS else None,
        scoring=True,
    )


def language(index: Any) -> str | None:
    """The language of an index of either kind; None for one that does not rank."""
    if not getattr(index, "scoring", None):
        return None
    return str(index.stemmer.language).rpartition(".")[2].lower() if index.stemmer else "simple"
