"""Which of Qdrant's quantizations is the best prefilter: recall@10 and searches per second against bytes in RAM.

Run: python benchmarks/qdrant_prefilters.py [--data realistic|text] [--rows N] [--threshold C ...]
The embedded engine keeps each prefilter in RAM and rescores by float16 originals on disk. It searches its default graph
(m 16, ef_construct 100) at 1, 2, 4 and 8 times oversampling with hnsw_ef = max(64, 10 × oversampling). What is stored
is x − τ with τ = C·mean; the truth is the exact inner product in float32. Bytes are those of the quantized vectors
alone. The prefilters take turns. The originals stay in the page cache.
Data: `realistic` is benchmarks/realistic.py, 100,000 rows of 1,024 dimensions; `text` is MiniLM embeddings of the
standard library's documentation, 384 dimensions, from which the queries are held out.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import click
import numpy as np
from harness import Sizes, Vectors, alternate, rates, size_options
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
from realistic import real_embeddings, realistic_data

from qvec import Calibration

Quantization: TypeAlias = BinaryQuantizationConfig | TurboQuantQuantizationConfig

K = 10
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


@click.command(help=__doc__)
@size_options(Sizes(rows=100_000, dimensions=1024, queries=500, repeat=3))
@click.option("--data", type=click.Choice(["realistic", "text"]), default="realistic", show_default=True)
@click.option("--threshold", "shares", multiple=True, default=(0.5, 0.0), show_default=True, help="C; repeatable.")
def main(sizes: Sizes, data: str, shares: tuple[float, ...]) -> None:
    vectors, queries = text_data(sizes) if data == "text" else realistic_data(sizes)
    with tempfile.TemporaryDirectory() as scratch:
        compare_prefilters(vectors, queries, shares, Path(scratch), sizes.repeat)


def text_data(sizes: Sizes) -> tuple[Vectors, Vectors]:
    """Return rows and queries, drawn at random from the same texts."""
    shuffled = np.random.default_rng(0).permutation(real_embeddings())
    return shuffled[sizes.queries :][: sizes.rows], shuffled[: sizes.queries]


def compare_prefilters(
    vectors: Vectors, queries: Vectors, shares: tuple[float, ...], scratch: Path, repeat: int
) -> None:
    truth = nearest(vectors, queries)
    shards: dict[str, EdgeShard] = {}
    for share in shares:
        stored = vectors - Calibration.fit(vectors, threshold=share).threshold
        for name, quantization in PREFILTERS.items():
            title = f"{name}, C = {share:g}"
            shards[title] = build(scratch / title, stored, quantization)
    columns = "".join(f"{f'{oversampling}x':>8}{'/s':>7}" for oversampling in OVERSAMPLING)
    print(f"{'recall@10 and searches per second':<36}{'bytes':>6}{columns}")
    speeds = {oversampling: searches_per_second(shards, queries, oversampling, repeat) for oversampling in OVERSAMPLING}
    for title, shard in shards.items():
        found = {o: 100 * recall(search_all(shard, queries, o), truth) for o in OVERSAMPLING}
        cells = "".join(f"{found[o]:>8.1f}{speeds[o][title]:>7,.0f}" for o in OVERSAMPLING)
        print(f"{title:<36}{bytes_per_vector(scratch / title, len(vectors)):>6.0f}{cells}")
        shard.close()


def build(directory: Path, stored: Vectors, quantization: Quantization | None) -> EdgeShard:
    """Return a shard of the rows, numbered from 0, in one indexed segment."""
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
        # The engine reads a row three times as fast from a memoryview as from an array.
        rows = enumerate(stored[start : start + _BATCH], start)
        points = [Point(number, memoryview(row)) for number, row in rows]  # type: ignore[arg-type]
        shard.update(UpdateOperation.upsert_points(points))
    shard.optimize()
    return shard


def search(shard: EdgeShard, query: NDArray[np.float32], oversampling: float) -> list[int]:
    """Return the ids of the nearest K."""
    parameters = SearchParams(
        hnsw_ef=max(64, round(K * oversampling)),
        quantization=QuantizationSearchParams(rescore=True, oversampling=oversampling),
    )
    sent = Query.Nearest(memoryview(query))  # type: ignore[arg-type]
    return [int(point.id) for point in shard.query(QueryRequest(limit=K, query=sent, params=parameters))]


def search_all(shard: EdgeShard, queries: Vectors, oversampling: float) -> list[list[int]]:
    return [search(shard, query, oversampling) for query in queries]


def searches_per_second(
    shards: Mapping[str, EdgeShard], queries: Vectors, oversampling: float, repeat: int
) -> dict[str, float]:
    works = {title: partial(search_all, shard, queries, oversampling) for title, shard in shards.items()}
    measured = rates(len(queries), alternate(works, repeat))
    return {title: statistics.median(each) for title, each in measured.items()}


def bytes_per_vector(directory: Path, rows: int) -> float:
    return sum(file.stat().st_size for file in directory.rglob("quantized.data") if file.is_file()) / rows


def recall(found: list[list[int]], truth: NDArray[np.intp]) -> float:
    return float(np.mean([np.isin(ids, want).sum() / K for ids, want in zip(found, truth, strict=True)]))


def nearest(vectors: Vectors, queries: Vectors) -> NDArray[np.intp]:
    """Return the exact K nearest of each query."""
    return np.array([np.argpartition(-(vectors @ query), K)[:K] for query in queries])


if __name__ == "__main__":
    main()
