"""Quantizing on one core, against sentence-transformers.

Run: python benchmarks/quantize.py
Goals: 8 planes at least 8 times as fast as its int8, 1 plane at least as fast as its ubinary. A plain copy of the
vectors shows the limit that memory sets.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

ONE_CORE = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ.update(ONE_CORE)  # before numpy and the native component start their threads

import click  # noqa: E402
import numpy as np  # noqa: E402
from harness import Sizes, Table, Vectors, Work, alternate, rates, size_options  # noqa: E402

import qvec  # noqa: E402
from qvec import Calibration  # noqa: E402

INT8, UBINARY, COPY = "sentence-transformers int8", "sentence-transformers ubinary", "copy of the vectors"


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, repeat=9))
def main(sizes: Sizes) -> None:
    if find_spec("sentence_transformers") is None:
        print("not run: needs sentence-transformers; pip install 'qvec[models]'")
        return
    works = all_works(unit_vectors(sizes))
    alternate(works, 1)  # warms up
    gigabytes = sizes.rows * sizes.dimensions * 4 / 1e9
    rate = rates(1, alternate(works, sizes.repeat))
    per_second = {name: [gigabytes * each for each in times] for name, times in rate.items()}
    table = Table(sizes)
    for name, ours in per_second.items():
        if name.startswith("qvec"):
            other, goal = (UBINARY, 1.0) if "1 plane" in name else (INT8, 8.0)
            table.compare(f"{name}, against {other}", ours, per_second[other], "GB/s", f"at least {goal:g}")
    table.compare(f"qvec 8 planes, against a {COPY}", per_second["qvec 8 planes"], per_second[COPY], "GB/s")


def unit_vectors(sizes: Sizes) -> Vectors:
    """Return vectors with a spectrum that decays as that of embeddings does: a fixed map from 384 dimensions."""
    random = np.random.default_rng(0)
    base = random.standard_normal((sizes.rows, 384), np.float32) * np.linspace(1, 0.1, 384, dtype=np.float32)
    vectors: Vectors = base @ random.standard_normal((384, sizes.dimensions), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def all_works(vectors: Vectors) -> dict[str, Work]:
    from sentence_transformers.util.quantization import quantize_embeddings

    halves, scaled, target = vectors.astype(np.float16), vectors * np.float32(3), np.empty_like(vectors)
    ranges = np.stack([vectors.min(axis=0), vectors.max(axis=0)])
    ip, cosine = (Calibration.fit(vectors, metric=metric) for metric in ("ip", "cosine"))
    return {
        COPY: lambda: np.copyto(target, vectors),
        INT8: lambda: quantize_embeddings(vectors, precision="int8", ranges=ranges),
        UBINARY: lambda: quantize_embeddings(vectors, precision="ubinary"),
        "qvec 8 planes": lambda: qvec.quantize(vectors, ip),
        "qvec 8 planes, cosine": lambda: qvec.quantize(vectors, cosine),
        "qvec 8 planes, cosine, to be normalized": lambda: qvec.quantize(scaled, cosine),
        "qvec 8 planes, float16": lambda: qvec.quantize(halves, ip),
        "qvec 4 planes": lambda: qvec.quantize(vectors, ip, 4),
        "qvec 1 plane": lambda: qvec.quantize(vectors, ip, 1),
        "qvec 1 plane, cosine": lambda: qvec.quantize(vectors, cosine, 1),
    }


if __name__ == "__main__":
    main()
