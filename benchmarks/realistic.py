"""Vectors with the structure of real embeddings, in any number and any length, the same on every run.

Real embeddings crowd around a mean, have few strong directions and come in families of near neighbours; vectors
drawn from a normal distribution have none of that, and their recall says nothing. These start from MiniLM
embeddings of the sentences of Python's own documentation. Each row leans on one of them, is pulled towards
another, and gets noise with the covariance of the real ones. Other lengths than 384 come from one fixed random linear
map. Rows are unit vectors.

    python benchmarks/realistic.py [--rows N] [--dimensions D] [--write FILE.npy]

prints the recall of sign and ternary bits on them, or writes them to a file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.passages import stdlib_passages

Vectors = NDArray[np.float32]

CACHE = Path(__file__).parent / ".cache"
"""Where the embeddings of the texts are kept."""

_BLOCK_ROWS = 8192
_DOCUMENTS, _QUERIES, _MAP = range(3)  # random streams
_LARGEST_PULL = 0.5
# At 100,000 x 1,024 sign bits then find 91% of the top 10 in their top 40, ternary bits 97%: the design's figures
# are 91.5 and 96.5. The sentences alone are easier (97% and 99% of 11,000, at 384 dimensions).
_NOISE = 0.85
_SHORTEST_SENTENCE = 40


def realistic_vectors(rows: int, dimensions: int, seed: int = 0, cache: Path = CACHE) -> Vectors:
    """`rows` unit vectors, float32 (rows, dimensions). Asking for more rows adds to the same ones."""
    return np.concatenate(list(_blocks(rows, dimensions, _DOCUMENTS, seed, cache)))


def realistic_queries(rows: int, dimensions: int, seed: int = 0, cache: Path = CACHE) -> Vectors:
    """As `realistic_vectors` and of the same distribution, but none of its rows."""
    return np.concatenate(list(_blocks(rows, dimensions, _QUERIES, seed, cache)))


def write_npy(path: Path, rows: int, dimensions: int, seed: int = 0, cache: Path = CACHE) -> None:
    """Write the rows of `realistic_vectors` to a .npy file, block by block: memory does not grow with `rows`."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
        np.lib.format.write_array_header_1_0(file, header)
        for block in _blocks(rows, dimensions, _DOCUMENTS, seed, cache):
            block.tofile(file)
    os.replace(partial, path)


def _blocks(rows: int, dimensions: int, stream: int, seed: int, cache: Path) -> Iterator[Vectors]:
    real = real_embeddings(cache)
    spread = np.linalg.cholesky(np.cov(real.T)).T.astype(np.float32)
    to_dimensions = None if dimensions == real.shape[1] else _linear_map(real.shape[1], dimensions, seed)
    for block, start in enumerate(range(0, rows, _BLOCK_ROWS)):
        vectors = _mixtures(real, spread, np.random.default_rng([seed, stream, block]))
        if to_dimensions is not None:
            vectors = vectors @ to_dimensions
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield vectors[: rows - start]


def _mixtures(real: Vectors, spread: Vectors, random: np.random.Generator) -> Vectors:
    """One block of rows, always a whole one: neither draws nor rounding depend on how many rows are wanted."""
    main, other = random.integers(len(real), size=(2, _BLOCK_ROWS))
    pull = random.uniform(0, _LARGEST_PULL, size=(_BLOCK_ROWS, 1)).astype(np.float32)
    noise = random.standard_normal((_BLOCK_ROWS, real.shape[1]), dtype=np.float32) @ spread
    return (1 - pull) * real[main] + pull * real[other] + _NOISE * noise


def _linear_map(of: int, to: int, seed: int) -> Vectors:
    random = np.random.default_rng([seed, _MAP])
    return random.standard_normal((of, to), dtype=np.float32)


def real_embeddings(cache: Path = CACHE) -> Vectors:
    """MiniLM embeddings of the standard library's passages and their sentences; computed once for each `cache`."""
    texts = _texts()
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    path = cache / f"minilm-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".gitignore").write_text("*\n")
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, load_embedder(PACKAGED_MODEL).embed_documents(texts))
        os.replace(partial, path)
    return np.load(path)


def _texts() -> list[str]:
    passages = [passage.text for passage in stdlib_passages(limit=10_000)]
    sentences = (sentence for passage in passages for sentence in _sentences(passage))
    return list(dict.fromkeys([*passages, *sentences]))


def _sentences(passage: str) -> Iterator[str]:
    for part in re.split(r"(?<=[.?!:;])\s+|\n\s*\n", passage):
        sentence = " ".join(part.split())
        if len(sentence) >= _SHORTEST_SENTENCE:
            yield sentence


def prefilter_recall(documents: Vectors, queries: Vectors, k: int = 10, candidates: int = 40) -> dict[str, float]:
    """Share of the exact top `k` among the top `candidates` by sign bits and by ternary bits, around half the mean."""
    threshold = documents.mean(axis=0) / 2
    radius = np.quantile(np.abs(documents[:20_000] - threshold), 0.9999, axis=0)
    exact = _nearest(documents, queries, k)
    recall = {}
    for name, margins in {"sign": (0.0,), "ternary": (-1 / 8, 1 / 8)}.items():
        scores = sum(
            _signs(documents - threshold, margin * radius) @ _signs(queries - threshold, margin * radius).T
            for margin in margins
        )
        found = np.argpartition(-scores.T, candidates, axis=1)[:, :candidates]
        recall[name] = float(np.mean([np.isin(want, got).mean() for want, got in zip(exact, found, strict=True)]))
    return recall


def _signs(centred: Vectors, margin: float | Vectors) -> Vectors:
    """Bits as ±1: their inner product falls as the Hamming distance grows."""
    return np.where(centred > margin, np.float32(1), np.float32(-1))


def _nearest(documents: Vectors, queries: Vectors, k: int) -> NDArray[np.intp]:
    return np.argpartition(-(queries @ documents.T), k, axis=1)[:, :k]


@click.command(help=__doc__)
@click.option("--rows", default=100_000, show_default=True)
@click.option("--dimensions", default=1024, show_default=True)
@click.option("--write", type=click.Path(path_type=Path), help="Write the rows to this .npy file.")
def main(rows: int, dimensions: int, write: Path | None) -> None:
    if write is not None:
        write_npy(write, rows, dimensions)
        return
    recall = prefilter_recall(realistic_vectors(rows, dimensions), realistic_queries(200, dimensions))
    for name, value in recall.items():
        print(f"recall@10 of the top 40 by {name} bits: {100 * value:.1f}")


if __name__ == "__main__":
    main()
