"""Quantizing 100,000 vectors of 1,024 dimensions on one core, against sentence-transformers and a plain memory copy.

Run: python benchmarks/quantize.py
Wanted: 8 planes at least 8 times as fast as its int8, 1 plane at least as fast as its ubinary.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

ONE_CORE = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ.update(ONE_CORE)  # before numpy and the native component start their threads

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from sentence_transformers.util.quantization import quantize_embeddings  # noqa: E402

from qvec import _native  # noqa: E402

ROWS, DIMENSIONS, REPETITIONS = 100_000, 1024, 7


def unit_vectors() -> NDArray[np.float32]:
    """Vectors with a spectrum that decays as that of embeddings does: a fixed map from 384 dimensions."""
    random = np.random.default_rng(0)
    base = random.standard_normal((ROWS, 384), np.float32) * np.linspace(1, 0.1, 384, dtype=np.float32)
    vectors = base @ random.standard_normal((384, DIMENSIONS), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def seconds(work: Callable[[], object]) -> float:
    """The median time of several repetitions after one that warms up."""
    work()
    times = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    vectors = unit_vectors()
    halves, scaled = vectors.astype(np.float16), vectors * np.float32(3)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    threshold = np.float32(0.5) * vectors.mean(axis=0)
    radius = np.quantile(np.abs(vectors[:10_000] - threshold), 0.9999, axis=0).astype(np.float32)
    gigabytes = vectors.nbytes / 1e9

    def ours(rows: NDArray[np.float32] | NDArray[np.float16], planes: int, cosine: bool) -> float:
        return seconds(lambda: _native.quantize(rows, threshold, radius, planes, cosine))

    target = np.empty_like(vectors)
    theirs_int8 = seconds(lambda: quantize_embeddings(vectors, precision="int8", ranges=ranges))
    theirs_bits = seconds(lambda: quantize_embeddings(vectors, precision="ubinary"))
    copy = seconds(lambda: np.copyto(target, vectors))
    figures = {
        "copy of the input": (copy, None),
        "sentence-transformers int8": (theirs_int8, None),
        "qvec 8 planes": (ours(vectors, 8, False), theirs_int8),
        "qvec 8 planes, cosine": (ours(vectors, 8, True), theirs_int8),
        "qvec 8 planes, cosine, to be normalized": (ours(scaled, 8, True), theirs_int8),
        "qvec 8 planes, float16": (ours(halves, 8, False), theirs_int8),
        "qvec 4 planes": (ours(vectors, 4, False), theirs_int8),
        "sentence-transformers ubinary": (theirs_bits, None),
        "qvec 1 plane": (ours(vectors, 1, False), theirs_bits),
        "qvec 1 plane, cosine": (ours(vectors, 1, True), theirs_bits),
    }
    print(f"{ROWS:,} x {DIMENSIONS:,} float32 on one core, medians of {REPETITIONS}")
    for name, (took, against) in figures.items():
        ratio = f"{against / took:6.1f}x" if against else ""
        print(f"{name:42}{took * 1e3:9.1f} ms {gigabytes / took:7.2f} GB/s of float32 {ratio}")


if __name__ == "__main__":
    main()
