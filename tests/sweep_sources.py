"""Sources for tests of sweeps: files of vectors and of texts, and a model for these texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import realistic
from numpy.typing import NDArray

from qvec.embedding import EmbeddingOptions
from qvec.errors import RowError


def write_vectors(path: Path, vectors: NDArray[np.float32]) -> Path:
    np.save(path, vectors)
    return path


class NumberModel:
    """A model of texts that are numbers: each selects one of its document or query vectors."""

    name = "words"
    options = EmbeddingOptions("words")
    dimensions = 64

    def __init__(self) -> None:
        self.documents, self.questions = realistic(120), realistic(60, seed=1)

    def embed_documents(self, texts: Sequence[str], _progress: object = None) -> Any:
        if "empty" in texts:
            raise RowError(list(texts).index("empty"), "is empty")
        return self.documents[list(map(int, texts))]

    def embed_queries(self, texts: Sequence[str], _progress: object = None) -> Any:
        return self.questions[list(map(int, texts))]


def write_texts(path: Path, texts: Sequence[str | None]) -> Path:
    path.write_text("".join(json.dumps({"_id": f"d{at}", "text": text}) + "\n" for at, text in enumerate(texts)))
    return path
