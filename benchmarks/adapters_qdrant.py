"""What learned bits would find in Qdrant, compared with the quantizations that qvec uses there.

    python benchmarks/adapters_qdrant.py [--beir FOLDER]

The embedded engine ranks by its scores of quantized vectors, without rescoring: recall@10 of the exact nearest among
the nearest 20 and 40, and bytes per vector in RAM. Rows and queries are those of benchmarks/adapters.py. Qdrant takes
the signs of what is stored as bits. So learned bits are stored as the numbers whose signs they are, all with the same
spread, in binary quantization with 8-bit queries; queries are projected too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from adapters import rows_and_queries, steps
from harness import Sizes, Vectors, size_options
from numpy.typing import NDArray
from qdrant_edge import EdgeShard, QuantizationSearchParams, Query, QueryRequest, SearchParams
from qdrant_prefilters import PREFILTERS, Quantization, build, bytes_per_vector

from qvec import Calibration
from qvec.training.initial_projection import itq
from qvec.training.learned_bits import CANDIDATES, AdaptOptions, K, adapt

ENGINES = (
    "sign bits, 8-bit query",
    "1.5 bits, 8-bit query",
    "2 bits, 8-bit query",
    "TurboQuant 1 bit",
    "TurboQuant 1.5 bits",
    "TurboQuant 2 bits",
)
_BINARY = PREFILTERS["sign bits, 8-bit query"]
_EVERY_ROW = 1000
"""A width of the graph search that finds all that a scan finds."""


@dataclass(frozen=True)
class Prefilter:
    """What is stored of rows and sent of queries, and how the engine quantizes it."""

    name: str
    stored: Vectors
    sent: Vectors
    quantization: Quantization | None


@click.command(help=__doc__)
@size_options(Sizes(queries=500))
@click.option("--beir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder with texts.")
def main(sizes: Sizes, beir: Path | None) -> None:
    rows, queries = rows_and_queries(sizes, beir)
    nearest = np.argpartition(-(queries @ rows.T), K, axis=1)[:, :K]
    print(f"{len(rows):,} rows, {len(queries)} queries, {rows.shape[1]} dimensions")
    print(f"{'scored by the engine':34} bytes   of 20   of 40")
    for prefilter in prefilters(rows, queries, steps(sizes)):
        with tempfile.TemporaryDirectory() as scratch:
            directory = Path(scratch) / "shard"
            shard = build(directory, prefilter.stored, prefilter.quantization)
            found = recalls(shard, prefilter, nearest)
            size = bytes_per_vector(directory, len(rows))
            shard.close()
        print(f"{prefilter.name:34} {size:5.0f}   {100 * found[0]:5.1f}   {100 * found[1]:5.1f}", flush=True)


def prefilters(rows: Vectors, queries: Vectors, steps: int) -> Iterator[Prefilter]:
    fitted = Calibration.fit(rows)
    centred, asked = fitted.prepared(rows) - fitted.threshold, fitted.prepared(queries)
    for name in ENGINES:
        yield Prefilter(name, centred, asked, PREFILTERS[name])
    rotation = itq(centred, fitted.dimensions, 0).T
    yield Prefilter("ITQ", centred @ rotation, asked @ rotation, _BINARY)
    for bits in (fitted.dimensions, 2 * fitted.dimensions):
        done = adapt(rows, fitted, AdaptOptions(bits, steps=steps))
        stored, sent = _projected(done.calibration, centred, asked - fitted.threshold)
        yield Prefilter(f"qvec adapt, {bits} bits ({done.after.name})", stored, sent, _BINARY)


def _projected(learned: Calibration, *sides: Vectors) -> list[Vectors]:
    """Return the numbers whose signs are the learned bits, divided by their spread over the first side."""
    assert learned.projection is not None
    assert learned.bias is not None
    weights, bias = learned.projection * (256 / learned.radius), learned.bias
    values = [(side @ weights.T + bias).astype(np.float32) for side in sides]
    spread = values[0].std(axis=0)
    return [side / spread for side in values]


def recalls(shard: EdgeShard, prefilter: Prefilter, nearest: NDArray[np.intp]) -> list[float]:
    """Return the shares of the nearest rows (m, K) among the candidates."""
    found = np.array([_search(shard, query) for query in prefilter.sent])
    return [float((nearest[:, :, None] == found[:, None, :count]).any(axis=2).mean()) for count in CANDIDATES]


def _search(shard: EdgeShard, query: NDArray[np.float32]) -> list[int]:
    parameters = SearchParams(hnsw_ef=_EVERY_ROW, quantization=QuantizationSearchParams(rescore=False))
    sent = Query.Nearest(memoryview(np.ascontiguousarray(query)))  # type: ignore[arg-type]
    found = shard.query(QueryRequest(limit=max(CANDIDATES), query=sent, params=parameters))
    return [int(point.id) for point in found]


if __name__ == "__main__":
    main()
