"""Documents and metadata as columns: large_string arrays, the metadata as compact JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from qvec.errors import RowError


def document_array(documents: Sequence[str | None] | None) -> pa.Array | None:
    """The documents. Raises RowError for one that is no text, or no valid Unicode."""
    if documents is None:
        return None
    for row, document in enumerate(documents):
        if not isinstance(document, (str, type(None))):
            raise RowError(row, f"document is {type(document).__name__}, expected text or None")
    return _texts(documents, "document")


def _texts(texts: Sequence[str | None], what: str) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError as error:
        row = next(row for row, text in enumerate(texts) if text and error.object in text)
        raise RowError(row, f"{what} holds half of a surrogate pair, which is no Unicode text") from None


def metadata_array(metadata: Sequence[Mapping[str, Any] | None] | None) -> pa.Array | None:
    """JSON texts of the metadata. Raises RowError for what JSON cannot hold."""
    if metadata is None:
        return None
    return _texts([_json(row, value) for row, value in enumerate(metadata)], "metadata")


def _json(row: int, value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RowError(row, f"metadata cannot be stored as JSON: {error}") from None
    except RecursionError:
        raise RowError(row, "metadata cannot be stored as JSON: it is nested too deep") from None
