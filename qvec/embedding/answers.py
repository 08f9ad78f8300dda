"""Reading what a server of embeddings answers, and refusing what is wrong with it by name.

Format: https://platform.openai.com/docs/api-reference/embeddings, an object whose `data` holds for each input an
object with its `index` and its `embedding`, a list of numbers or base64 of little-endian float32.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qvec.embedding.protocol import Embeddings
from qvec.errors import RowError

_UNIT_TOLERANCE = 1e-2


class WrongAnswerError(ValueError):
    """An answer that cannot be used; says what is wrong with it."""


def read_answer(answer: Any, rows: int, dimensions: int | None, *, normalized: bool) -> Embeddings:
    """Vectors (rows, dimensions) float32 of an answer to so many texts, in the order of the texts by `index`.

    With `dimensions` None those of the first vector are right. Raises WrongAnswerError, and RowError for a vector that
    is not finite: another text may do better.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise WrongAnswerError("has no list of embeddings under `data`")
    if len(data) != rows:
        raise WrongAnswerError(f"has {len(data)} embeddings for {rows} texts")
    vectors = [_vector(item.get("embedding")) for item in _in_order(data)]
    wanted = len(vectors[0]) if dimensions is None else dimensions
    for vector in vectors:
        if len(vector) != wanted:
            raise WrongAnswerError(f"has an embedding of {len(vector)} dimensions, expected {wanted}")
    found = np.stack(vectors)
    _check_finite(found)
    if normalized:
        _check_unit(found)
    return found


def _in_order(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items by `index`, which has to be each number from 0 once."""
    places = [item.get("index") for item in data]
    if sorted(place for place in places if type(place) is int) != list(range(len(data))):
        raise WrongAnswerError(f"has embeddings whose index is {_some(places)}, expected each of 0 to {len(data) - 1}")
    return sorted(data, key=lambda item: item["index"])


def _some(places: list[Any]) -> str:
    return ", ".join(map(str, places[:5])) + (", …" if len(places) > 5 else "")


def _vector(embedding: Any) -> NDArray[np.float32]:
    try:
        if isinstance(embedding, str):
            vector = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
        else:
            with np.errstate(over="ignore"):
                vector = np.asarray(embedding, np.float32)
    except (ValueError, TypeError):
        raise WrongAnswerError("has an embedding that is neither a list of numbers nor base64 of float32") from None
    if vector.ndim != 1 or not len(vector):
        raise WrongAnswerError(
            f"has an embedding of shape {vector.shape}, expected one vector a text; "
            "serve the model with pooling (llama-server: --pooling mean)"
        )
    return vector


def _check_finite(vectors: Embeddings) -> None:
    bad = np.argwhere(~np.isfinite(vectors))
    if len(bad):
        row, dimension = bad[0]
        raise RowError(int(row), f"the server's embedding has {vectors[row, dimension]} at dimension {dimension}")


def _check_unit(vectors: Embeddings) -> None:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    worst = lengths[np.abs(lengths - 1).argmax()]
    if abs(worst - 1) > _UNIT_TOLERANCE:
        raise WrongAnswerError(
            f"has an embedding of length {worst:.3g}, expected 1 of this model; "
            "serve it with mean pooling and normalized (llama-server: --pooling mean)"
        )
