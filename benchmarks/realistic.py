"""Vectors with the structure of real embeddings, in any number and any length, the same on every run.

Real embeddings crowd around a mean, have few strong directions and lie in few dimensions around each of them; vectors
drawn from a normal distribution have none of that, and their recall says nothing. These start from MiniLM
embeddings of the sentences of Python's own documentation. Each row is a random mixture of one of them and of four of
its 200 nearest, with noise of the covariance of the real ones. Other lengths than 384 come from one fixed random linear
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
_NEIGHBOURS, _MIXED = 200, 4
# The mixtures are somewhat harder than real embeddings, never easier. Of 11,366 each, at 384 dimensions: the local
# intrinsic dimension (Levina and Bickel, 100 neighbours) is 21 against 16 of the real ones, recall@10 of the top 40
# by sign bits 87% against 96%, by ternary bits 95% against 99%.
_NOISE = 0.5
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
    near = _near(real)
    to_dimensions = None if dimensions == real.shape[1] else _linear_map(real.shape[1], dimensions, seed)
    for block, start in enumerate(range(0, rows, _BLOCK_ROWS)):
        vectors = _mixtures(real, near, spread, np.random.default_rng([seed, stream, block]))
        if to_dimensions is not None:
            vectors = vectors @ to_dimensions
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        yield vectors[: rows - start]


def _mixtures(real: Vectors, near: NDArray[np.intp], spread: Vectors, random: np.random.Generator) -> Vectors:
    """One block of rows, always a whole one: neither draws nor rounding depend on how many rows are wanted."""
    main = random.integers(len(real), size=_BLOCK_ROWS)
    others = near[main[:, None], random.integers(_NEIGHBOURS, size=(_BLOCK_ROWS, _MIXED))]
    weights = random.dirichlet([1] * (_MIXED + 1), size=_BLOCK_ROWS).astype(np.float32)
    rows = weights[:, :1] * real[main]
    for place in range(_MIXED):
        rows += weights[:, place + 1, None] * real[others[:, place]]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows + _NOISE * (random.standard_normal(rows.shape, dtype=np.float32) @ spread)


def _near(real: Vectors) -> NDArray[np.intp]:
    """The rows nearest to each row, itself left out, nearest first."""
    near = np.empty((len(real), _NEIGHBOURS), np.intp)
    for start in range(0, len(real), 1024):
        similar = real[start : start + 1024] @ real.T
        similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -2
        near[start : start + 1024] = np.argsort(-similar, axis=1)[:, :_NEIGHBOURS]
    return near


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
