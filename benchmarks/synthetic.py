"""Stand-ins for real data in smoke runs: embeddings in clusters, texts of invented words, and a model that embeds them.

They show that a benchmark works; what is measured with them says nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from numpy.typing import NDArray

from qvec.embedding import PACKAGED_MODEL, TextEmbedder, load_embedder

Vectors = NDArray[np.float32]

_DOCUMENTS, _QUERIES, _WORDS, _TOPICS = 120, 12, 400, 30


def synthetic_embeddings(rows: int, dimensions: int) -> Vectors:
    """Return unit vectors (rows, dimensions) in clusters around a common mean."""
    random = np.random.default_rng(0)
    centres = 1 + random.standard_normal((_TOPICS, dimensions), dtype=np.float32)
    noise = 0.7 * random.standard_normal((rows, dimensions), dtype=np.float32)
    vectors = centres[random.integers(_TOPICS, size=rows)] + noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


class WordHashes:
    """Embeds a text as the sum of vectors that its words' hashes determine."""

    def __init__(self, dimensions: int = 64) -> None:
        self._dimensions = dimensions

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors (len(texts), dimensions)."""
        vectors = np.array([sum(map(self._vector, text.split())) for text in texts], np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    embed_queries = embed_documents

    def _vector(self, word: str) -> NDArray[np.float64]:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(self._dimensions)


def beir_folder(folder: Path) -> Path:
    """Write documents, queries and relevance judgements in BEIR's layout; each query repeats words of a document."""
    folder.mkdir()
    random = np.random.default_rng(0)
    texts = [[f"word{word}" for word in random.integers(_WORDS, size=30)] for _ in range(_DOCUMENTS)]
    answers = random.choice(_DOCUMENTS, _QUERIES, replace=False)
    documents = [{"_id": f"d{row}", "title": "", "text": " ".join(words)} for row, words in enumerate(texts)]
    queries = [{"_id": f"q{row}", "text": " ".join(texts[answer][:8])} for row, answer in enumerate(answers)]
    for name, records in (("corpus.jsonl", documents), ("queries.jsonl", queries)):
        (folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))
    lines = [f"q{row}\td{answer}\t1\n" for row, answer in enumerate(answers)]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


@contextmanager
def retrieval_data(folder: Path | None, smoke: bool) -> Iterator[tuple[Path, TextEmbedder]]:
    """The given folder and MiniLM, or in a smoke run stand-ins for them. Raise UsageError where there is no folder."""
    if not smoke:
        if folder is None:
            raise click.UsageError("give a FOLDER in BEIR's layout: corpus.jsonl, queries.jsonl and qrels.tsv")
        yield folder, load_embedder(PACKAGED_MODEL)
        return
    with TemporaryDirectory() as scratch:
        yield folder or beir_folder(Path(scratch) / "synthetic"), WordHashes()
