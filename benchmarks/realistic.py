"""Vectors with the structure of real embeddings, in any number and of any length, the same in every run.

Real embeddings crowd around a mean, have a few strong directions, and lie in few dimensions around each of them.
Vectors drawn from a normal distribution do not, so recall measured with them says nothing. These start from MiniLM
embeddings of Python's own documentation, passages and sentences. Each row is a random mixture of one of them and of
four of its 200 nearest, plus noise with the covariance of the real ones. One fixed random linear map gives them a
length other than 384. All rows have unit length.

    python benchmarks/realistic.py [--rows N] [--dimensions D] [--write FILE.npy]

prints the recall of sign and ternary bits and of int10 and int8 codes on these vectors, or writes them to a file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np
from harness import Sizes, size_options
from numpy.typing import NDArray
from synthetic import synthetic_embeddings

from qvec import Calibration, dequantize, quantize, score
from qvec.embedding import PACKAGED_MODEL, load_embedder
from qvec.passages import stdlib_passages

Vectors = NDArray[np.float32]

CACHE = Path(__file__).parent / ".cache"
"""Keeps the embeddings of the texts."""

_BLOCK_ROWS = 8192
_DOCUMENTS, _QUERIES, _MAP = range(3)  # random streams
_NEIGHBOURS, _MIXED = 200, 4
# The mixtures are somewhat harder than real embeddings, never easier. Of 11,366 each, at 384 dimensions: the local
# intrinsic dimension (Levina and Bickel, 100 neighbours) is 21 against 16 of the real ones; recall@10 of the top 40
# is 87% against 96% by sign bits and 95% against 99% by ternary bits.
_NOISE = 0.5
_SHORTEST_SENTENCE = 40
_SMOKE_EMBEDDINGS = 1000
_CALIBRATED, _RANKED_BLOCK = 100_000, 20_000


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Mixtures of real embeddings (n, d)."""

    real: Vectors
    dimensions: int
    seed: int = 0

    def rows(self, count: int) -> Vectors:
        """Return unit vectors (count, dimensions). A larger count adds rows to the same ones."""
        return np.concatenate(list(self._blocks(count, _DOCUMENTS)))

    def queries(self, count: int) -> Vectors:
        """Return vectors of the same distribution, none of which is among the rows."""
        return np.concatenate(list(self._blocks(count, _QUERIES)))

    def write_rows(self, path: Path, count: int) -> None:
        """Write `rows` to a .npy file block by block: memory does not grow with their number."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, self.dimensions)}
            np.lib.format.write_array_header_1_0(file, header)
            for block in self._blocks(count, _DOCUMENTS):
                block.tofile(file)
        os.replace(partial, path)

    def _blocks(self, rows: int, stream: int) -> Iterator[Vectors]:
        for block, start in enumerate(range(0, rows, _BLOCK_ROWS)):
            vectors = self._mix(np.random.default_rng([self.seed, stream, block]))
            if self._map is not None:
                vectors = vectors @ self._map
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            yield vectors[: rows - start]

    def _mix(self, random: np.random.Generator) -> Vectors:
        """Return one whole block: neither draws nor rounding depend on the number of rows wanted."""
        main = random.integers(len(self.real), size=_BLOCK_ROWS)
        others = self._nearest[main[:, None], random.integers(_NEIGHBOURS, size=(_BLOCK_ROWS, _MIXED))]
        weights = random.dirichlet([1] * (_MIXED + 1), size=_BLOCK_ROWS).astype(np.float32)
        rows = weights[:, :1] * self.real[main]
        for place in range(_MIXED):
            rows += weights[:, place + 1, None] * self.real[others[:, place]]
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        mixed: Vectors = rows + _NOISE * (random.standard_normal(rows.shape, dtype=np.float32) @ self._spread)
        return mixed

    @cached_property
    def _spread(self) -> Vectors:
        """A factor of the covariance of the real embeddings."""
        factor: Vectors = np.linalg.cholesky(np.cov(self.real.T)).T.astype(np.float32)
        return factor

    @cached_property
    def _nearest(self) -> NDArray[np.intp]:
        """The nearest other embeddings of each one, nearest first."""
        nearest = np.empty((len(self.real), _NEIGHBOURS), np.intp)
        for start in range(0, len(self.real), 1024):
            similar = self.real[start : start + 1024] @ self.real.T
            similar[np.arange(len(similar)), np.arange(start, start + len(similar))] = -2
            nearest[start : start + 1024] = np.argsort(-similar, axis=1)[:, :_NEIGHBOURS]
        return nearest

    @cached_property
    def _map(self) -> Vectors | None:
        length = self.real.shape[1]
        if self.dimensions == length:
            return None
        random = np.random.default_rng([self.seed, _MAP])
        return random.standard_normal((length, self.dimensions), dtype=np.float32)


def mixtures(sizes: Sizes) -> Mixtures:
    """Return mixtures of `sizes.dimensions` dimensions; in a smoke run they start from synthetic embeddings."""
    if sizes.smoke:
        return Mixtures(synthetic_embeddings(_SMOKE_EMBEDDINGS, sizes.dimensions), sizes.dimensions)
    return Mixtures(real_embeddings(), sizes.dimensions)


def realistic_data(sizes: Sizes) -> tuple[Vectors, Vectors]:
    """Return as many rows and queries as `sizes` names."""
    source = mixtures(sizes)
    return source.rows(sizes.rows), source.queries(sizes.queries)


def real_embeddings(cache: Path = CACHE) -> Vectors:
    """Return MiniLM embeddings of the standard library's passages and their sentences; computed once per `cache`."""
    texts = _texts()
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    path = cache / f"minilm-{digest}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".gitignore").write_text("*\n")
        partial = path.with_suffix(f".{os.getpid()}.partial")  # two benchmarks may start at once
        with partial.open("wb") as file:
            np.save(file, load_embedder(PACKAGED_MODEL).embed_documents(texts))
        os.replace(partial, path)
    embeddings: Vectors = np.load(path)
    return embeddings


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
    """Return the share of the exact top `k` among the top `candidates` by sign bits and by ternary bits.

    Half of the mean is subtracted first.
    """
    threshold = documents.mean(axis=0) / 2
    radius = np.quantile(np.abs(documents[:20_000] - threshold), 0.9999, axis=0)
    exact = _nearest(queries @ documents.T, k)
    recall = {}
    for name, margins in {"sign": (0.0,), "ternary": (-1 / 8, 1 / 8)}.items():
        scores = sum(
            _signs(queries - threshold, margin * radius) @ _signs(documents - threshold, margin * radius).T
            for margin in margins
        )
        found = _nearest(np.asarray(scores), candidates)
        recall[name] = float(np.mean([np.isin(want, got).mean() for want, got in zip(exact, found, strict=True)]))
    return recall


def code_recall(documents: Vectors, queries: Vectors, k: int = 10) -> dict[str, float]:
    """Return the recall@k when all rows are ranked by codes of int10 and of int8: by qvec's scores, and for int8 also
    by the inner product with the decoded rows, which is not divided by their length."""
    calibration = Calibration.fit(documents[:_CALIBRATED])
    exact = _nearest(queries @ documents.T, k)
    names = ("int10", "int8", "int8, not divided by length")
    best: dict[str, list[tuple[NDArray[np.intp], Vectors]]] = {name: [] for name in names}
    for start in range(0, len(documents), _RANKED_BLOCK):
        codes = quantize(documents[start : start + _RANKED_BLOCK], calibration, planes=10)
        by_ten, by_eight = (score(codes, queries, calibration, planes=planes) for planes in (10, 8))
        lengths = np.linalg.norm(dequantize(codes, calibration, planes=8), axis=1)
        for found, ranked in zip(best.values(), (by_ten, by_eight, by_eight * lengths), strict=True):
            nearest = _nearest(ranked, k)
            found.append((nearest + start, np.take_along_axis(ranked, nearest, axis=1)))
    recall = {}
    for name, found in best.items():
        ids, ranked = np.hstack([ids for ids, _ in found]), np.hstack([scores for _, scores in found])
        top = np.take_along_axis(ids, _nearest(ranked, k), axis=1)
        recall[name] = float(np.mean([np.isin(want, got).mean() for want, got in zip(exact, top, strict=True)]))
    return recall


def _signs(centred: Vectors, margin: Vectors) -> Vectors:
    """Return bits as ±1: their inner product falls as the Hamming distance grows."""
    signs: Vectors = np.where(centred > margin, np.float32(1), np.float32(-1))
    return signs


def _nearest(scores: Vectors, count: int) -> NDArray[np.intp]:
    last = scores.shape[1] - 1
    return np.argpartition(-scores, min(count, last), axis=1)[:, :count]


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=200))
@click.option("--write", type=click.Path(path_type=Path), help="Write the rows to this .npy file.")
def main(sizes: Sizes, write: Path | None) -> None:
    if write is not None:
        mixtures(sizes).write_rows(write, sizes.rows)
        return
    data = realistic_data(sizes)
    for name, value in prefilter_recall(*data).items():
        print(f"recall@10 of the top 40 by {name} bits: {100 * value:.1f}")
    for name, value in code_recall(*data).items():
        print(f"recall@10 of all rows ranked by {name}: {100 * value:.2f}")


if __name__ == "__main__":
    main()
