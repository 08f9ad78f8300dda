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

ROWS, DIMENSIONS, REPETITIONS = 100_000, 1024, 9


def unit_vectors() -> NDArray[np.float32]:
    """Vectors with a spectrum that decays as that of embeddings does: a fixed map from 384 dimensions."""
    random = np.random.default_rng(0)
    base = random.standard_normal((ROWS, 384), np.float32) * np.linspace(1, 0.1, 384, dtype=np.float32)
    vectors = base @ random.standard_normal((384, DIMENSIONS), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def medians(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, taken in turns so that all see the same disturbances, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + REPETITIONS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def works() -> dict[str, Callable[[], object]]:
    vectors = unit_vectors()
    halves, scaled, target = vectors.astype(np.float16), vectors * np.float32(3), np.empty_like(vectors)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    threshold = np.float32(0.5) * vectors.mean(axis=0)
    radius = np.quantile(np.abs(vectors[:10_000] - threshold), 0.9999, axis=0).astype(np.float32)

    def ours(rows: NDArray[np.float32] | NDArray[np.float16], planes: int, cosine: bool) -> Callable[[], object]:
        return lambda: _native.quantize(rows, threshold, radius, planes, cosine)

    return {
        "copy of the input": lambda: np.copyto(target, vectors),
        "sentence-transformers int8": lambda: quantize_embeddings(vectors, precision="int8", ranges=ranges),
        "qvec 8 planes": ours(vectors, 8, False),
        "qvec 8 planes, cosine": ours(vectors, 8, True),
        "qvec 8 planes, cosine, to be normalized": ours(scaled, 8, True),
        "qvec 8 planes, float16": ours(halves, 8, False),
        "qvec 4 planes": ours(vectors, 4, False),
        "sentence-transformers ubinary": lambda: quantize_embeddings(vectors, precision="ubinary"),
        "qvec 1 plane": ours(vectors, 1, False),
        "qvec 1 plane, cosine": ours(vectors, 1, True),
    }


def main() -> None:
    took = medians(works())
    gigabytes = ROWS * DIMENSIONS * 4 / 1e9
    print(f"{ROWS:,} x {DIMENSIONS:,} on one core, medians of {REPETITIONS}; ratio to sentence-transformers")
    for name, seconds in took.items():
        theirs = took["sentence-transformers " + ("ubinary" if "1 plane" in name else "int8")]
        ratio = f"{theirs / seconds:6.1f}x" if name.startswith("qvec") else ""
        print(f"{name:42}{seconds * 1e3:9.1f} ms {gigabytes / seconds:7.2f} GB/s of float32 {ratio}")


if __name__ == "__main__":
    main()
