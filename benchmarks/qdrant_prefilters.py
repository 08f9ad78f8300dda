"""Which of Qdrant's quantizations is the best prefilter: recall@10 and searches per second against bytes in RAM.

Run: python benchmarks/qdrant_prefilters.py [--data realistic|text] [--rows N] [--threshold C ...]
In the embedded engine, each prefilter pinned in RAM, rescored by the engine on float16 originals on disk, over its
default graph (m 16, ef_construct 100), at 1, 2, 4 and 8 times oversampling with hnsw_ef = max(64, 10 × oversampling).
What is stored is x − τ with τ = C·mean; the truth is the exact inner product in float32. Bytes are those of the
quantized vectors alone. The prefilters take turns, one search at a time. The originals stay in the page cache.
Data: `realistic` is benchmarks/realistic.py, 100,000 rows of 1,024 dimensions; `text` is MiniLM embeddings of the
standard library's documentation, 384 dimensions, 500 of them held out as queries.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
from measure import alternate
from numpy.typing import NDArray
from qdrant_edge import (
    BinaryQuantizationConfig,
    BinaryQuantizationEncoding,
    BinaryQuantizationQueryEncoding,
    Distance,
    EdgeConfig,
    EdgeOptimizersConfig,
    EdgeShard,
    EdgeVectorParams,
    HnswIndexConfig,
    Memory,
    Point,
    QuantizationSearchParams,
    Query,
    QueryRequest,
    SearchParams,
    TurboQuantBitSize,
    TurboQuantQuantizationConfig,
    UpdateOperation,
    VectorStorageDatatype,
)
from realistic import real_embeddings, realistic_queries, realistic_vectors

from qvec import Calibration

Vectors = NDArray[np.float32]
Quantization = BinaryQuantizationConfig | TurboQuantQuantizationConfig

DIMENSIONS, QUERIES, K, REPETITIONS = 1024, 500, 10, 3
OVERSAMPLING = (1, 2, 4, 8)
_BATCH = 2000


def _binary(encoding: str, query_encoding: str) -> BinaryQuantizationConfig:
    return BinaryQuantizationConfig(
        encoding=getattr(BinaryQuantizationEncoding, encoding),
        query_encoding=getattr(BinaryQuantizationQueryEncoding, query_encoding),
        memory=Memory.Pinned,
    )


def _turbo(bits: str) -> TurboQuantQuantizationConfig:
    return TurboQuantQuantizationConfig(bits=getattr(TurboQuantBitSize, bits), memory=Memory.Pinned)


PREFILTERS: dict[str, Quantization | None] = {
    "sign bits, binary query": _binary("OneBit", "Binary"),
    "sign bits, 4-bit query": _binary("OneBit", "Scalar4Bits"),
    "sign bits, 8-bit query": _binary("OneBit", "Scalar8Bits"),
    "1.5 bits, 8-bit query": _binary("OneAndHalfBits", "Scalar8Bits"),
    "2 bits, binary query": _binary("TwoBits", "Binary"),
    "2 bits, 8-bit query": _binary("TwoBits", "Scalar8Bits"),
    "TurboQuant 1 bit": _turbo("Bits1"),
    "TurboQuant 1.5 bits": _turbo("Bits1_5"),
    "TurboQuant 2 bits": _turbo("Bits2"),
    "TurboQuant 4 bits": _turbo("Bits4"),
    "none (float16)": None,
}


def build(directory: Path, stored: Vectors, quantization: Quantization | None) -> EdgeShard:
    """A shard of the rows, numbered from 0, in one indexed segment."""
    config = EdgeConfig(
        vectors=EdgeVectorParams(
            size=stored.shape[1],
            distance=Distance.Dot,
            datatype=VectorStorageDatatype.Float16,
            memory=Memory.Cold,
            quantization_config=quantization,
        ),
        hnsw_config=HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10),
        optimizers=EdgeOptimizersConfig(indexing_threshold=1),  # of any size
        wal_enabled=False,
    )
    shard = EdgeShard.create(str(directory), config)
    for start in range(0, len(stored), _BATCH):
        # A row as a memoryview is read three times as fast as the same row as an array.
        points = [Point(start + i, memoryview(row)) for i, row in enumerate(stored[start : start + _BATCH])]
        shard.update(UpdateOperation.upsert_points(points))
    shard.optimize()
    return shard


def search(shard: EdgeShard, query: Vectors, oversampling: float) -> list[int]:
    """The ids of the nearest K."""
    parameters = SearchParams(
        hnsw_ef=max(64, round(K * oversampling)),
        quantization=QuantizationSearchParams(rescore=True, oversampling=oversampling),
    )
    request = QueryRequest(limit=K, query=Query.Nearest(memoryview(query)), params=parameters)
    return [point.id for point in shard.query(request)]


def search_all(shard: EdgeShard, queries: Vectors, oversampling: float) -> list[list[int]]:
    return [search(shard, query, oversampling) for query in queries]


def bytes_per_vector(directory: Path, rows: int) -> float:
    return sum(file.stat().st_size for file in directory.rglob("quantized.data") if file.is_file()) / rows


def recall(found: list[list[int]], truth: NDArray[np.intp]) -> float:
    return float(np.mean([np.isin(ids, want).sum() / K for ids, want in zip(found, truth, strict=True)]))


def nearest(vectors: Vectors, queries: Vectors) -> NDArray[np.intp]:
    """The exact K nearest of each query."""
    return np.array([np.argpartition(-(vectors @ query), K)[:K] for query in queries])


def text_embeddings() -> tuple[Vectors, Vectors]:
    """Rows and queries, drawn at random from the same texts."""
    shuffled = np.random.default_rng(0).permutation(real_embeddings())
    return shuffled[QUERIES:], shuffled[:QUERIES]


def compare_prefilters(vectors: Vectors, queries: Vectors, thresholds: tuple[float, ...], scratch: Path) -> None:
    truth = nearest(vectors, queries)
    shards: dict[tuple[float, str], EdgeShard] = {}
    for share in thresholds:
        stored = vectors - Calibration.fit(vectors, threshold=share).threshold
        for name, quantization in PREFILTERS.items():
            shards[share, name] = build(scratch / f"{share} {name}", stored, quantization)
    columns = "".join(f"{f'{oversampling}x':>8}{'/s':>7}" for oversampling in OVERSAMPLING)
    print(f"{'recall@10 and searches per second':<36}{'bytes':>6}{columns}")
    speeds = {o: searches_per_second(shards, queries, o) for o in OVERSAMPLING}
    for (share, name), shard in shards.items():
        size = bytes_per_vector(scratch / f"{share} {name}", len(vectors))
        found = {o: 100 * recall(search_all(shard, queries, o), truth) for o in OVERSAMPLING}
        cells = "".join(f"{found[o]:>8.1f}{speeds[o][share, name]:>7,.0f}" for o in OVERSAMPLING)
        print(f"{f'{name}, C = {share:g}':<36}{size:>6.0f}{cells}")
        shard.close()


def searches_per_second(
    shards: dict[tuple[float, str], EdgeShard], queries: Vectors, oversampling: float
) -> dict[tuple[float, str], float]:
    works: dict[tuple[float, str], Callable[[], object]] = {
        key: partial(search_all, shard, queries, oversampling) for key, shard in shards.items()
    }
    return {key: len(queries) / seconds for key, seconds in alternate(works, REPETITIONS).items()}


@click.command(help=__doc__)
@click.option("--data", type=click.Choice(["realistic", "text"]), default="realistic", show_default=True)
@click.option("--rows", default=100_000, show_default=True, help="At most so many rows.")
@click.option("--threshold", "thresholds", multiple=True, default=(0.5, 0.0), show_default=True, help="C; repeatable.")
def main(data: str, rows: int, thresholds: tuple[float, ...]) -> None:
    if data == "text":
        vectors, queries = text_embeddings()
    else:
        vectors, queries = realistic_vectors(rows, DIMENSIONS), realistic_queries(QUERIES, DIMENSIONS)
    with tempfile.TemporaryDirectory() as scratch:
        compare_prefilters(vectors[:rows], queries, thresholds, Path(scratch))


if __name__ == "__main__":
    main()
